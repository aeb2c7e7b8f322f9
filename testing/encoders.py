"""Encoders that need no model: counts of a text, or embeddings known beforehand."""

from __future__ import annotations

import numpy as np

import cr2fast


class Counts:
    """An encoder of two numbers, characters and words, without a fingerprint."""

    info = cr2fast.EncoderInfo("counts")
    dim = 2

    def encode(self, texts, threads=1):
        return np.array([[len(t), len(t.split())] for t in texts], dtype=np.float32)

    def count_tokens(self, text):
        return len(text.split())


class Known:
    """An encoder that knows the embeddings (N, d) of N texts, and remembers which it was asked for."""

    info = cr2fast.EncoderInfo("known", "cd" * 32)

    def __init__(self, texts, embeddings):
        self.dim = embeddings.shape[1]
        self.places = dict(zip(texts, embeddings, strict=True))
        self.seen = []

    def encode(self, texts, threads=1):
        if isinstance(texts, str):
            return self.places[texts]
        if not any(t in self.places for t in texts):  # Probes, of no table.
            return np.stack(list(self.places.values())[: len(texts)])
        self.seen += texts
        return np.stack([self.places[t] for t in texts])

    def count_tokens(self, text):
        return len(text.split())
