"""What an argument may be: each turns its text into a value, or says what was expected."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable

from cr2fast_profiler.calllog import COLUMNS, OPTIONAL


def rounds(text: str) -> tuple[int, int]:
    """N, or LEAST-MOST."""
    low, _, high = text.partition("-")
    try:
        pair = int(low), int(high or low)
    except ValueError:
        pair = (0, 0)
    if not 1 <= pair[0] <= pair[1] <= 1000:
        raise argparse.ArgumentTypeError(f"expected N or LEAST-MOST, such as 3-20, got {text!r}")
    return pair


def json_object(text: str) -> dict[str, object]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        # What came is not repeated: it may hold a secret.
        raise argparse.ArgumentTypeError(
            f'expected a JSON object such as {{"ignore_eos": true}}, got {len(text)} characters '
            "that are none"
        )
    return value


MOST = 1e7  # s, W: more is a slip of the keyboard


def sizes(text: str) -> tuple[int, ...]:
    """Bytes and commas."""
    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected bytes and commas, got {text!r}") from None


def renamed(text: str) -> tuple[str, str]:
    """OURS=THEIRS, a log's column."""
    ours, _, theirs = text.partition("=")
    if ours not in (*COLUMNS, *OPTIONAL) or not theirs:
        raise argparse.ArgumentTypeError(
            f"expected OURS=THEIRS, ours being one of {', '.join((*COLUMNS, *OPTIONAL))}, got "
            f"{text[:80]!r}"
        )
    return ours, theirs


def seed(text: str) -> int:
    """A whole number of at least 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def at_least(least: float, *, above: bool = False) -> Callable[[str], float]:
    """A number of at least `least`, or above it."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= MOST or (above and value == least):
            what = f"a number {'above' if above else 'of at least'} {least:g}, at most {MOST:g}"
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
        return value

    return number
