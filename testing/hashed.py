"""A routing problem whose queries have texts, and an encoder of them that needs no model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import cr2fast
from cr2fast.datasets import make_routing_problem

D = 24


class ByHash:
    """An encoder of the texts' bytes, folded to D counts."""

    info = cr2fast.EncoderInfo("by-hash", "")
    count_tokens = staticmethod(len)

    def encode(self, texts):
        rows = [np.bincount(np.frombuffer(t.encode(), np.uint8) % D, minlength=D) for t in
                ([texts] if isinstance(texts, str) else texts)]  # fmt: skip
        x = np.asarray(rows, np.float32) + 1
        return x[0] if isinstance(texts, str) else x


def with_texts():
    """400 queries with a text and an hour each, and costs."""
    made = make_routing_problem(400, d=D, seed=3)
    rng = np.random.default_rng(0)
    texts = [
        f"Question {i}: what is {rng.integers(1e6)} + {'x' * int(rng.integers(1, 40))}?\nA. a\nB. b"
        for i in range(400)
    ]
    table = replace(
        made.table,
        extra={"text": texts, "hour": rng.integers(0, 24, 400).tolist()},
        embeddings=ByHash().encode(texts),
        encoder=ByHash.info,
    )
    return table, made.costs
