"""Checks of arguments; their errors name the argument, what was expected and what came."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence

import numpy as np

from cr2fast import _core
from cr2fast._core import Cr2Error

_SHOWN = 5
_REPR = reprlib.Repr()
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 6
_REPR.maxstring = _REPR.maxother = 80


def shown(value: object) -> str:
    """A caller's value as a message shows it: at most a few items, and a bounded length."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits.
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def explained(error: BaseException) -> str:
    """What another library's error says, in one line of bounded length."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 200 else f"{line[:200]}..."


def some(items: Sequence[object]) -> str:
    """Up to five items, and how many there are."""
    first = ", ".join(repr(i)[:80] for i in items[:_SHOWN])
    return first if len(items) <= _SHOWN else f"{first}, ... ({len(items)} in all)"


def check_type(value: object, kind: type, what: str) -> None:
    """Raise a TypeError that names the argument unless `value` is a `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{what}: expected {article} {kind.__name__}, got {type(value).__name__}")


def check_choice(value: object, known: Sequence[str], what: str) -> None:
    """Raise a Cr2Error that names the argument and the words it may be unless `value` is one."""
    if not isinstance(value, str) or value not in known:
        *most, last = map(repr, known)
        raise Cr2Error(f"{what}: expected {', '.join(most)} or {last}, got {shown(value)}")


def check_threads(threads: int) -> int:
    """`threads`, if it is a count (0: one per core); a Cr2Error if not."""
    found = whole(threads, "threads", "0 (one per core) or a count")
    if found >= 2**16:
        raise Cr2Error(f"threads: expected 0 (one per core) or a count, got {shown(threads)}")
    return found


def real(value: object, what: str, expected: str = "a number") -> float:
    """A real number as the double that it means (:func:`cr2fast._core.number`), or a Cr2Error."""
    try:
        return _core.number(value, what)
    except (TypeError, Cr2Error):
        raise Cr2Error(f"{what}: expected {expected}, got {shown(value)}") from None


def fraction(value: object, what: str) -> float:
    """A number above 0 and below 1, as :func:`real`, or a Cr2Error."""
    expected = "a number in (0, 1)"
    found = real(value, what, expected)
    if not 0 < found < 1:
        raise Cr2Error(f"{what}: expected {expected}, got {shown(value)}")
    return found


def whole(value: object, what: str, expected: str = "a whole number, at least 0") -> int:
    """A whole number, at least 0 (:func:`cr2fast._core.count`), or a Cr2Error."""
    try:
        return _core.count(value, what)
    except (TypeError, Cr2Error):
        raise Cr2Error(f"{what}: expected {expected}, got {shown(value)}") from None


def check_text(texts: Iterable[str], what: str) -> None:
    """Refuse a lone surrogate: text that no file and no other language can hold."""
    for text in texts:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise Cr2Error(
                    f"{what}: expected text that UTF-8 can hold, got {ascii(text)[:80]} with a "
                    f"lone surrogate at character {error.start}"
                ) from None


def check_unmasked(array: object, what: str) -> None:
    """Refuse an array some of whose values are masked: what stands under a mask is no value."""
    if isinstance(array, np.ma.MaskedArray) and (hidden := int(np.ma.getmaskarray(array).sum())):
        raise Cr2Error(
            f"{what}: expected an array without a mask, got {hidden} masked values of "
            f"{array.size}; leave those rows out, or fill them with what you mean"
        )
