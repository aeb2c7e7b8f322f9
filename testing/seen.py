"""Slow, plain-NumPy twins of what a router sees beside an embedding: features of a text, and rows."""

from __future__ import annotations

import re
import string

import numpy as np

_WORD_RANGES = {
    "digits": [(0x30, 0x39)],
    "capitals": [(0x41, 0x5A)],
    "small": [(0x61, 0x7A), (0x5F, 0x5F)],
    "accented": [(0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x24F), (0x1E00, 0x1EFF)],
    "other_script": [
        (0x250, 0x1DFF), (0x1F00, 0x1FFF), (0x2C00, 0x2DFF), (0xA4D0, 0xABFF), (0xFB00, 0xFDFF),
        (0xFE70, 0xFEFF), (0x10000, 0x1EFFF),
    ],
    "east_asian": [
        (0x2E80, 0x2FFF), (0x3005, 0x3007), (0x3040, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0xA4CF),
        (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
    ],
}  # fmt: skip
_SPACES = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F}


def _kind(c):
    code = ord(c)
    for name, ranges in _WORD_RANGES.items():
        if any(low <= code <= high for low, high in ranges):
            return name
    return "space" if code in _SPACES or code == 0x3000 else "mark"


def text_features(text):
    """The sixteen features of a text, float64, by their definitions."""
    kinds = [_kind(c) for c in text]
    words = []
    for start, kind in enumerate(kinds):
        if kind in _WORD_RANGES:
            if start == 0 or kinds[start - 1] not in _WORD_RANGES:
                words.append(0)
            words[-1] += 1
    lines = [line.lstrip(" \t") for line in text.split("\n")]
    option = re.compile(r"\(?[A-Za-z][.:)][ \t]")
    roles = ("user:", "assistant:", "system:", "human:", "tool:", "<|im_start|>")
    small = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
    n = max(len(text), 1)
    numbers = sum(
        k == "digits" and (i == 0 or kinds[i - 1] != "digits") for i, k in enumerate(kinds)
    )
    return np.array(
        [
            np.log1p(sum(-(-w // 6) for w in words) + kinds.count("mark")),
            np.log1p(len(words)),
            np.log1p(text.count("\n")),
            min(sum(option.match(line) is not None for line in lines), 26),
            np.log1p(numbers),
            kinds.count("digits") / n,
            sum(c in "=+-*/^\\$<>_{}" for c in text) / n,
            kinds.count("capitals") / n,
            np.log1p(sum(c in "?\u061f\uff1f" for c in text)),
            sum(words) / max(len(words), 1),
            np.log1p(text.count("```")),
            kinds.count("accented") / n,
            kinds.count("other_script") / n,
            kinds.count("east_asian") / n,
            np.log1p(sum(line.translate(small).startswith(roles) for line in lines)),
            np.log1p(sum(text.count(t) for t in ('"tool', '"function', "<tool"))),
        ]
    )


def inputs(embeddings, features, train_features, weight):
    """Rows of a router with features: the unit embedding, and scaled features, float64."""
    mean, sd = train_features.mean(axis=0), train_features.std(axis=0)
    varies = sd > 1e-6 * (1 + np.abs(mean))
    z = np.where(varies, (features - mean) / np.where(varies, sd, 1), 0)
    norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, norm, out=np.zeros_like(embeddings, dtype=float), where=norm > 0)
    return np.concatenate(
        [unit, np.clip(z, -3, 3) * weight / np.sqrt(max(varies.sum(), 1))], axis=1
    )
