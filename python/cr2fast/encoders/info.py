"""Which frozen encoder made the embeddings.

A router is fitted to the vectors of one encoder, and its margins mean nothing on those of another.
So tables and artifacts carry an :class:`EncoderInfo`, and a mismatch is an error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cr2fast._core import EncoderInfo as EncoderInfo


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class TextEncoder(Protocol):
    """What :meth:`DeviceRouter.route_text` needs of an encoder.

    :class:`Encoder` is one. A :class:`StaticEncoder` runs inside the call, without this interface.
    """

    @property
    def info(self) -> EncoderInfo:
        """Name and fingerprint, compared with the router's."""
        ...

    def encode(self, texts: Any, /) -> npt.NDArray[np.float32]:
        """Embed one text, (d,), or a sequence of N, (N, d)."""
        ...
