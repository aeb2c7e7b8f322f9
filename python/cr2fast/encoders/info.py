"""Which frozen encoder made the embeddings.

A router is a function of one encoder's vectors: margins on another's mean nothing. So tables and
artifacts carry an :class:`EncoderInfo`, and a mismatch is an error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class EncoderInfo(NamedTuple):
    """Name and fingerprint of an encoder.

    Attributes
    ----------
    id : str
        A name for people, e.g. ``sentence-transformers/all-MiniLM-L6-v2``.
    sha256 : str
        SHA-256 of its files and settings, lower-case hex; empty when unknown. Then names alone are
        compared, which tells neither files nor settings apart: `cr2fast fit` and `cr2fast inspect`
        say so.
    """

    id: str = "unknown"
    sha256: str = ""


class TextEncoder(Protocol):
    """What :meth:`DeviceRouter.route_text` needs of an encoder.

    :class:`Encoder` is one; of a :class:`StaticEncoder` it takes the table itself.
    """

    @property
    def info(self) -> EncoderInfo:
        """Name and fingerprint, compared with the router's."""
        ...

    def encode(self, texts: Any, /) -> npt.NDArray[np.float32]:
        """(d,) of one text, (N, d) of a sequence of N."""
        ...
