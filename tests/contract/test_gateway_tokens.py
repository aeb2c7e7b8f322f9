"""The contract with the gateway: what no vocabulary reads counts in it as in Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from testing.gateways import deciding, needed

PARTS = ["ก", "さようなら", "aGVsbG8", "é", "🙂", " ", "\n", "\u200b", "e\u0301", "\x00", "a b"]

pytestmark = needed


def test_what_the_vocabulary_cannot_read_counts_as_in_python(tmp_path: Path) -> None:
    turns = [("system", "ก" * 500), ("user", "\u200b" * 90), ("user", "why")]
    chat = [{"role": role, "content": text} for role, text in turns]
    texts = [part * times for part in PARTS for times in (1, 7, 150, 40_000)]
    chats = [[{"role": "user", "content": text}] for text in texts]
    with deciding(tmp_path) as gateway:
        two = gateway.router.two_stage(lam=1.0, alpha=0.1)
        for messages in [*chats, chat]:
            body = {"model": "cr2fast:lam=1.0,alpha=0.1", "messages": messages}
            status, told = gateway.post("/v1/route", json.dumps(body))
            assert status == 200, told
            choice = two.route_text(messages, gateway.encoder)
            assert told["n_input_tokens_estimated"] == choice.n_input_tokens
            assert np.float32(told["margin"]).tobytes() == np.float32(choice.margin).tobytes()
        assert choice.n_input_tokens == 500 + 90 + 3
        assert two.route_text("ก" * 40_000, gateway.encoder).n_input_tokens == 40_000
