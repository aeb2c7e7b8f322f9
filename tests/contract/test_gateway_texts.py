"""The contract with the gateway: of every body it embeds what Python embeds, or refuses it too."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import numpy as np
import pytest

import cr2fast
from cr2fast.encoders.messages import text_of
from testing.gateways import Running, needed
from testing.letters import words

pytestmark = needed


def value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value that may stand where something else belongs."""
    kind = rng.randrange(7 if depth < 2 else 5)
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 6:
        return {rng.choice(["text", "type", "role", "x"]): value(rng, depth + 1)}
    return [None, True, rng.randrange(9), words(rng), "user"][kind]


def content(rng: random.Random) -> Any:
    def part() -> Any:
        if rng.random() < 0.15:
            return value(rng)
        out: dict[str, Any] = {"type": "text", "text": words(rng)}
        if rng.random() < 0.1:
            out["text"] = value(rng)
        if rng.random() < 0.1:
            del out[rng.choice(list(out))]
        return out

    chance = rng.random()
    if chance < 0.5:
        return words(rng)
    return [part() for _ in range(rng.randrange(4))] if chance < 0.9 else value(rng)


def message(rng: random.Random) -> Any:
    if rng.random() < 0.03:
        return value(rng)
    out = {"role": rng.choice(["user", "user", "assistant", "system", value(rng)])}
    if rng.random() < 0.95:
        out["content"] = content(rng)
    return out


def only_text(messages: list[Any]) -> bool:
    """Whether no part of any message is of another type than "text": those are not decided by text."""
    for turn in messages:
        parts = turn.get("content") if isinstance(turn, dict) else None
        if isinstance(parts, dict):
            return False
        if isinstance(parts, list) and any(
            isinstance(p, dict) and p.get("type") not in ("text", "refusal") for p in parts
        ):
            return False
    return True


def test_what_is_embedded_is_what_python_embeds(gateway: Running) -> None:
    rng = random.Random(3)
    with_text = 0
    for _ in range(5_000):
        messages = [message(rng) for _ in range(rng.randrange(5))]
        if rng.random() < 0.05:
            messages = value(rng)
        try:
            expected = text_of(messages) if isinstance(messages, list) else None
        except (TypeError, cr2fast.Cr2Error):
            expected = None
        if isinstance(messages, list) and not only_text(messages):
            expected = None
        body = json.dumps({"model": "cr2fast", "messages": messages})
        status, told = gateway.post("/v1/route", body)
        if not (isinstance(messages, list) and messages):
            assert (status, told["error"]["code"]) == (400, "input_missing"), (body, told)
            continue
        assert status == 200, (body, told)
        if expected is None:
            assert (told["why"], told["text_sha256"]) == ("not-text", None), body
        else:
            with_text += 1
            assert told["text_sha256"] == hashlib.sha256(expected.encode()).hexdigest(), body
    assert with_text > 1_000


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u00a0\u2003", "\u200b", "\x00"])
def test_an_empty_prompt_is_a_text_for_both_and_no_message_at_all_for_neither(
    gateway: Running, text: str
) -> None:
    device = gateway.router.device(lam=1.0, alpha=0.05)
    expected = device.route_text(text, gateway.encoder)
    turn = {"role": "user", "content": text}
    parts = {"role": "user", "content": [{"type": "text", "text": text}]}
    for asked in (
        {"messages": [turn]},
        {"messages": [parts]},
        {"messages": [{"role": "user", "content": "before"}, turn]},
        {"prompt": text},
        {"prompt": [text]},
        {"input": text},
    ):
        status, told = gateway.post("/v1/route", json.dumps({"model": "cr2fast", **asked}))
        assert status == 200, told
        assert told["why"] == ("accepted" if expected.local else "deferred")
        assert np.float32(told["margin"]).tobytes() == np.float32(expected.margin).tobytes()
    for chat in ([turn], [parts]):
        assert device.route_text(chat, gateway.encoder).margin == expected.margin
    for nothing in ({"messages": []}, {"messages": None}, {"prompt": []}, {"input": []}, {}):
        status, told = gateway.post("/v1/route", json.dumps({"model": "cr2fast", **nothing}))
        assert (status, told["error"]["code"]) == (400, "input_missing")
    with pytest.raises(TypeError, match="expected one text or one chat"):
        device.route_text([], gateway.encoder)


def test_text_that_utf8_cannot_hold_is_refused_by_both(gateway: Running) -> None:
    messages = [{"role": "user", "content": "a\ud800"}]
    with pytest.raises(cr2fast.Cr2Error, match="UTF-8"):
        text_of(messages)
    status, told = gateway.post("/v1/route", json.dumps({"model": "cr2fast", "messages": messages}))
    assert status == 400
    assert "UTF-8" in told["error"]["message"]
