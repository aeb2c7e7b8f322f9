"""A static encoder that knows letters, so that any text has a vector and tests need no model."""

from __future__ import annotations

import random
import string

import numpy as np

import cr2fast

LETTERS = string.ascii_lowercase


def letters(d: int) -> cr2fast.StaticEncoder:
    """One of width d; the same vectors at every call."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    return cr2fast.StaticEncoder.from_vectors(
        np.random.default_rng(0).normal(size=(len(tokens), d)).astype(np.float32),
        tokens,
        id="letters",
        source=("none", "0" * 64),
        max_tokens=64,
        truncation="head-tail",
        record="{}",
    )


def words(rng: random.Random) -> str:
    """Up to twelve words of letters, and at times what is no letter."""

    def word() -> str:
        return "".join(rng.choices(LETTERS, k=rng.randint(1, 6)))

    text = " ".join(word() for _ in range(rng.randint(0, 12)))
    return text + rng.choice(["", "", " é漢 \u0301x", "\n\t", " [SEP]", "🙂"])
