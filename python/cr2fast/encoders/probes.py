"""Probes: texts by whose vectors an encoder is known.

In: a router and its encoder. Out: :class:`Probed`, what a router knows of it. Between them the
texts show another model, another quantisation, a prefix, another way to clean text (case, accents,
scripts), and, by the last one, another bound on long texts or another end of them that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from cr2fast import _core
from cr2fast._core import ENDPOINT_CHARS
from cr2fast.encoders.info import EncoderInfo, TextEncoder

R = TypeVar("R", bound="Probed")

PROBES = (
    "What is the capital of France?",
    "Ünïcödé NAÏVE 漢字 🙂: def f(x):\n    return x ** 2  # O(1)\n\n| a | b |\n|---|---|\n",
    "A train leaves the station at 14:05 and travels 180 km at 72 km/h. It stops twice on its way, "
    "for four minutes each. When does it arrive? Answer with the time only, and explain in one "
    "sentence why (A) 16:43, (B) 16:35 or (C) 17:05 would be wrong.",
    "Here is a list of orders; the question stands at its end. "
    + " ".join(f"Order {i}: {7 * i % 90 + 1} boxes, {13 * i % 50} km." for i in range(1, 101))
    + " Which order needs the most boxes, and how far does it go?",
)


class Probed:
    """The part of a :class:`cr2fast.Router` that knows its encoder."""

    def __init__(self, core: _core.Router) -> None:
        self._core = core

    @property
    def encoder(self) -> EncoderInfo:
        """The encoder whose embeddings it was fitted on."""
        return self._core.encoder

    @property
    def embedding_dim(self) -> int:
        """Width d of the embeddings it routes."""
        return self._core.embedding_dim

    @property
    def probes(self) -> dict[str, Any] | None:
        """How its encoder is known where no file's hash names it; None where it has none.

        `texts` (n), `vectors` (n, d) float32, and `max_chars`, the characters of a text that the
        encoder reads at most.
        """
        return self._core.probes

    def with_probes(self: R, encoder: TextEncoder, texts: Sequence[str] = PROBES) -> R:
        """The same router, thresholds and all, which also knows its encoder by a few vectors.

        A gateway that asks an embeddings endpoint compares them before it believes the endpoint,
        and so does :class:`cr2fast.EndpointEncoder`.

        Parameters
        ----------
        encoder : Encoder, EndpointEncoder or StaticEncoder
            The one that made the embeddings that it was fitted on.
        texts : sequence of str
            At most 64, one megabyte in all; by default four that tell encoders apart.

        Returns
        -------
        Router

        Raises
        ------
        Cr2Error
            Another encoder; no texts, or too many.
        """
        self._core.check_encoder(*encoder.info)
        texts = list(texts)
        vectors = encoder.encode(texts) if texts else np.empty((0, self.embedding_dim), np.float32)
        most = getattr(encoder, "max_chars", ENDPOINT_CHARS)
        return type(self)(self._core.with_probes(texts, vectors, most))
