"""What a query says, whatever its id: so that a prompt asked twice is known as one.

In: texts, or embeddings where there are none. Out: 64-bit keys per row, equal where texts are equal
or nearly so (:func:`normalised`), and groups of such rows.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
# Quotation marks, and punctuation that ends or parts phrases. Where a letter or a digit follows, it
# belongs to a word or a number (1.5, f.x, don't) and stays; so do all signs of arithmetic.
_PUNCTUATION = re.compile(r"[\"“”„«»]+|[.,;:!?'`‘’…、。]+(?!\w)")

# What typography makes of an apostrophe and of a hyphen.
_PLAIN = dict.fromkeys(map(ord, "‘’ʼ‛"), "'") | dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-")
# Characters that show nothing, beside the categories of control and format: joiners, fillers and
# variation selectors (Unicode's default ignorable code points).
_UNSEEN = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0} | {
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}

# Standard deviations of an embedding that no weight of a network makes a difference of.
_ALIKE = 1e-2


class Keys(NamedTuple):
    """Keys of N rows.

    Attributes
    ----------
    kept : ndarray of uint64, (N, K)
        What a router remembers of each row: one key of its text and one of its embedding.
    asked : ndarray of uint64, (N, K)
        What is looked up. A row with a text is found by its text, or by its embedding where the
        other row has no text; a row without one, by its embedding.
    """

    kept: U64
    asked: U64


def normalised(text: str) -> str:
    """The text without what people vary when they ask the same again.

    Unicode compatibility form, no invisible characters, case folded, no closing punctuation, white
    space collapsed. Digits, letters and signs of arithmetic stay.
    """
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
        text = "".join(c for c in text if _shows(c))
    folded = text.casefold()
    # A text of nothing but punctuation says what it says.
    return " ".join(_PUNCTUATION.sub(" ", folded).split()) or " ".join(folded.split())


def _shows(character: str) -> bool:
    """Whether a character is space, or something to see."""
    if character.isspace():
        return True
    return ord(character) not in _UNSEEN and unicodedata.category(character) not in ("Cc", "Cf")


def _key(kind: bytes, data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8, person=kind).digest(), "little")


def _rows(embeddings: npt.NDArray[np.float32]) -> Iterator[bytes]:
    """Each row's bytes, made a part of the table at a time."""
    for start in range(0, len(embeddings), 4096):
        # Adding zero makes one of the two zeros.
        part = (embeddings[start : start + 4096] + np.float32(0)).astype("<f4")
        yield from (row.tobytes() for row in part)


def keys(texts: Sequence[object] | None, embeddings: npt.NDArray[np.float32]) -> Keys:
    """Keys of rows by their texts, where they have one, and by their embeddings.

    Parameters
    ----------
    texts : sequence of (str or None), (N,), optional
    embeddings : ndarray of float32, (N, d)
    """
    kept, asked = [], []
    for text, row in zip(texts or repeat(None, len(embeddings)), _rows(embeddings), strict=True):
        # An embedding of a text, and one by itself: two texts of one embedding are two.
        said, bare = _key(b"said", row), _key(b"embedding", row)
        if isinstance(text, str):
            key = _key(b"text", normalised(text).encode("utf-8", "surrogatepass"))
            kept.append((key, said))
            asked.append((key, bare))
        else:
            kept.append((bare, bare))
            asked.append((bare, said))
    return Keys(np.array(kept, dtype=np.uint64), np.array(asked, dtype=np.uint64))


def groups(found: Keys) -> npt.NDArray[np.int64]:
    """(N,) for each row the first that says the same; a row without a text, by its embedding."""
    kept, asked = found
    untold = kept[:, 0] == kept[:, 1]  # rows without a text
    keys = kept[:, 0].copy()
    if untold.any() and not untold.all():
        # A text whose embedding is also a bare row's goes with that row, and with all of its own.
        bare = np.isin(asked[:, 1], kept[untold, 0]) & ~untold
        root: dict[int, int] = {}

        def find(key: int) -> int:
            while (up := root.get(key, key)) != key:
                root[key] = key = root.get(up, up)
            return key

        for said, row in zip(keys[bare].tolist(), asked[bare, 1].tolist(), strict=True):
            root[find(said)] = find(row)
        keys = np.array([find(key) for key in keys.tolist()], dtype=np.uint64)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.ravel()], dtype=np.int64)


def warn_if_alike(embeddings: npt.NDArray[np.float32], what: str) -> None:
    """Warn where the networks, whose first step is LayerNorm, see one and the same query N times.

    Parameters
    ----------
    embeddings : ndarray of float32, (N, d)
    what : str
        What the warning calls the queries.
    """
    if len(embeddings) < 2:
        return
    low = np.full(embeddings.shape[1], np.inf, np.float32)
    high = -low
    for start in range(0, len(embeddings), 4096):  # most tables end at the first part
        x = embeddings[start : start + 4096]
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(1e-5))
        low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
        if (high - low).max() >= _ALIKE:
            return
    warnings.warn(
        f"{what}: the embeddings of all {len(embeddings)} queries are the same to the "
        f"networks, which can only treat all queries alike; check what made them",
        stacklevel=3,
    )
