"""Texts that encoders must take."""

from __future__ import annotations

TEXTS = [
    "",
    " ",
    "What is the capital of France?",
    "x" * 3000,
    "word " * 600,
    "Ünïcödé 漢字 🙂 \u200d\u0301 עברית",
    "line\nbreaks\tand\x00nul",
    "2 + 2 = ?",
]
