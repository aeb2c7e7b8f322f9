"""The contract with the gateway: what a request holds beside its texts counts as in Python."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from cr2fast.integrations import texts
from testing.gateways import Running, needed
from testing.letters import words

pytestmark = needed

READ = {"messages": texts.of_chat, "prompt": texts.of_completion, "input": texts.of_response}
ODD = ["a b", "ก é 🙂", 'a "quoted" \\ word\n', "\u200b\x00\x7f", "\u2028 x" * 50, ""]


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 8:
        return {said(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [None, True, rng.randrange(99), rng.random(), 1e300, -0.0, said(rng)][kind]


def said(rng: random.Random) -> str:
    return rng.choice([*ODD, words(rng), words(rng)])


def some(rng: random.Random, **fields: Any) -> dict[str, Any]:
    """Some of these fields, now and then with another value."""
    kept = {k: v for k, v in fields.items() if rng.random() < 0.5}
    return {k: value(rng) if rng.random() < 0.05 else v for k, v in kept.items()}


def called(rng: random.Random) -> dict[str, Any]:
    return some(rng, name="f", arguments=rng.choice([said(rng), value(rng)]), input=said(rng))


def chat(rng: random.Random) -> dict[str, Any]:
    turn = some(
        rng,
        content=rng.choice([None, said(rng), [{"type": "refusal", "refusal": said(rng)}]]),
        refusal=said(rng),
        reasoning_content=said(rng),
        tool_calls=[some(rng, id="1", function=called(rng), custom=called(rng))],
        function_call=called(rng),
    )
    shape = some(rng, type="json_schema", json_schema=value(rng), schema=value(rng))
    return {
        "messages": [{"role": "assistant"} | turn, {"role": "user", "content": said(rng)}],
        **some(
            rng,
            tools=[value(rng)],
            functions=[value(rng)],
            documents=[said(rng)],
            response_format=shape,
            suffix=said(rng),
        ),
    }


def completion(rng: random.Random) -> dict[str, Any]:
    prompt = rng.choice([said(rng), [said(rng)], [said(rng), said(rng)], [1, 2]])
    return {"prompt": prompt, **some(rng, suffix=said(rng), tools=[value(rng)])}


def response(rng: random.Random) -> dict[str, Any]:
    items = [
        some(rng, type="function_call") | called(rng),
        {"type": "custom_tool_call", **called(rng)},
        {"type": "function_call_output", "output": said(rng)},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": said(rng)}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": said(rng)}]},
        {"role": "user", "content": said(rng)},
    ]
    shape = some(rng, type="json_schema", name="n", schema=value(rng))
    return {
        "input": rng.choice([said(rng), [*rng.sample(items, 3), items[-1]]]),
        **some(rng, instructions=said(rng), tools=[value(rng)], text={"format": shape}),
    }


@pytest.mark.parametrize("make", [chat, completion, response])
def test_what_models_read_counts_the_same(gateway: Running, make: Any) -> None:
    rng = random.Random(make.__name__)
    decided = beside = 0
    for _ in range(500):
        fields = make(rng)
        body = {"model": "cr2fast", **fields}
        # However a client writes its JSON.
        style = rng.choice([{}, {"indent": 3}, {"ensure_ascii": False, "separators": (",", ":")}])
        status, told = gateway.post("/v1/route", json.dumps(body, **style))
        assert status == 200, (body, told)
        asked = READ[next(iter(fields))](fields)
        counts = [gateway.encoder.count_tokens(text) for text in asked.counted]
        assert told["n_input_tokens_estimated"] == sum(counts), body
        assert (told["why"] == "not-text") == (asked.embedded is None), body
        decided += asked.embedded is not None
        beside += sum(counts) > sum(map(gateway.encoder.count_tokens, [asked.embedded or ""]))
    assert decided > 100
    assert beside > 100


def test_calls_of_tools_count_in_a_chat_that_python_routes(gateway: Running) -> None:
    two = gateway.router.two_stage(lam=1.0, alpha=0.1)
    rng = random.Random(5)
    for _ in range(200):
        messages = chat(rng)["messages"]
        body = {"model": "cr2fast:lam=1.0,alpha=0.1", "messages": messages}
        status, told = gateway.post("/v1/route", json.dumps(body))
        assert status == 200, told
        if told["why"] != "not-text":
            choice = two.route_text(messages, gateway.encoder)
            assert told["n_input_tokens_estimated"] == choice.n_input_tokens, messages


def test_twenty_thousand_words_of_tools_are_twenty_thousand_tokens(gateway: Running) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "a " * 20_000}}]
    body = {"model": "cr2fast", "messages": [{"role": "user", "content": "why"}], "tools": tools}
    status, told = gateway.post("/v1/route", json.dumps(body))
    assert status == 200
    assert told["n_input_tokens_estimated"] > 20_000
