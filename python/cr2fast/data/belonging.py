"""Whether texts and embeddings that stand in the same rows belong together.

In: embeddings that came with texts, and the encoder that is said to have made them. Out: nothing,
or an error that names the first row whose text has another vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, StaticEncoder

# A static encoder's vector takes microseconds, so that all rows can be asked, up to this many; one
# of a model takes milliseconds.
_ALL = 100_000
_SAMPLE = 32
_CHUNK = 4096
# What is taken for the most that an encoder reads which does not say it, an endpoint's say.
_READ_TOKENS = 256
_BYTES_PER_TOKEN = 4
# What another processor or a rounding to half precision moves a vector by is far smaller, what
# another text or another encoder does far larger.
_LEAST_COSINE = 0.99


def check_texts(
    texts: Sequence[Any],
    embeddings: npt.NDArray[np.float32],
    ids: Sequence[str],
    encoder: Any,
    what: str,
    remedy: str,
    longer: bool = False,
) -> None:
    """Refuse embeddings that the encoder does not give the texts of their rows.

    Of a static encoder every row is checked (of very many an even sample), of others a sample.

    Parameters
    ----------
    texts : sequence of (str or None), (N,)
        Rows without a text are passed over, and those whose text is longer than the encoder reads:
        the embeddings may have been made with another cut.
    embeddings : ndarray of float32, (N, d)
        Of any length: directions are compared.
    ids : sequence of str, (N,)
        What the error calls the rows.
    encoder : Encoder, EndpointEncoder or StaticEncoder
    what : str
        The argument at fault, for the error.
    remedy : str
        What to do, for the error.
    longer : bool
        Whether rows may be longer than embeddings, as those of :meth:`cr2fast.Router.inputs` are,
        which begin with the embedding.

    Raises
    ------
    Cr2Error
        A row's cosine is 0.99 or less, or its width another.
    """
    rows = _telling(texts, encoder, _ALL if isinstance(encoder, StaticEncoder) else _SAMPLE)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        made = encoder.encode([texts[i] for i in part.tolist()])
        given = embeddings[part]
        if longer and given.shape[1] > made.shape[1]:
            given = given[:, : made.shape[1]]
        if made.shape[1] != given.shape[1]:
            raise Cr2Error(
                f"{what}: expected the encoder behind the embeddings, which have "
                f"{given.shape[1]} numbers, got {encoder.info.id[:200]}, whose vectors have "
                f"{made.shape[1]}; {remedy}"
            )
        norms = np.linalg.norm(made, axis=1) * np.linalg.norm(given, axis=1)
        # A text of no known token has no direction: there is nothing to compare.
        told = np.linalg.norm(made, axis=1) > 0
        cosines = np.einsum("nd,nd->n", made, given) / np.where(norms > 0, norms, 1)
        bad = np.flatnonzero(told & ~(cosines > _LEAST_COSINE))
        if bad.size:
            at = int(bad[0])
            raise Cr2Error(
                f"{what}: expected embeddings that {encoder.info.id[:200]} gives the texts of "
                f"their rows, got one of cosine {cosines[at]:.3f} with its text's for "
                f"{ids[part[at]][:200]!r} ({bad.size} such rows of {len(part)} compared): it "
                f"belongs to another text, or is of another encoder; {remedy}"
            )


def _telling(texts: Sequence[Any], encoder: Any, most: int) -> npt.NDArray[np.int64]:
    """At most so many rows, spread evenly, whose texts the encoder reads whole."""
    rows = [i for i, text in enumerate(texts) if isinstance(text, str)]
    # A golden-ratio sequence: any first part of it is spread evenly.
    order = np.argsort(np.arange(len(rows)) * 0.6180339887498949 % 1.0, kind="stable")
    found: list[int] = []
    for k in np.argsort(order, kind="stable").tolist():
        if len(found) == most:
            break
        if _read_whole(texts[rows[k]], encoder):
            found.append(rows[k])
    return np.array(sorted(found), dtype=np.int64)


def _read_whole(text: str, encoder: Any) -> bool:
    limit = getattr(encoder, "max_tokens", None)
    if limit is None:  # An endpoint is not asked for what it would count.
        return len(text.encode(errors="replace")) <= _READ_TOKENS * _BYTES_PER_TOKEN
    # Two of them may be special ones.
    return bool(encoder.count_tokens(text) <= limit - 2)
