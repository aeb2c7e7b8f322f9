"""Distil a frozen sentence encoder into a table of token vectors.

In: an :class:`Encoder` with BERT's uncased vocabulary, and texts if there are any. Out: a
:class:`StaticEncoder`, whose embedding of a text is the normalised sum of w_t v_t over its tokens.

1. v_t: the mean hidden state of "[CLS] t [SEP]" under the encoder, less its mean over t (after
   model2vec, github.com/MinishLab/model2vec).
2. w_t = a / (a + p_t) where `sif` gives a (SIF, Arora et al. 2017) and p_t is the frequency of the
   token in the texts; 1 otherwise. On one fold of a training split it made no difference after
   step 3, so 1 is the default.
3. With texts, ridge regression onto the encoder's own vectors y_i of them. With rows
   a_i = w_t n_it / sum_t w_t n_it of A (texts, tokens), the v that minimise
   |A V - Y|^2 + rho |V - V0|^2 are V0 + A' (A A' + rho I)^-1 (Y - A V0): one system of texts by
   texts. rho is in units of the mean of the diagonal of A A'.
4. If fewer than d numbers are wanted, the principal axes of w_t v_t.

A text has the same tokens as under the encoder (:meth:`Encoder.tokens`), cut in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, StaticEncoder, thread_count
from cr2fast._util.checks import check_threads, check_type, real, shown, whole
from cr2fast._util.progress import Shows, item_bar
from cr2fast.encoders.counting import bert_vocabulary
from cr2fast.encoders.onnx import Encoder

Matrix = npt.NDArray[np.float32]
# Cross-validation inside a training split does not tell .3 from 1
# (benches/static_encoder.py --choose).
RIDGE = 0.3
# A system with this many unknowns fits in a gigabyte and takes seconds to solve.
MAX_TEXTS = 10_000
_COLUMNS = 2048
# Texts on which the two tokenizers must agree before a table is handed out.
_PROBES = (
    "",
    "It's 2 x (3.5)!",
    "Ünïcödé 漢字 \u200d🙂 naïve[SEP]x",
    "supercalifragilistic " * 300,
)


def distill(
    encoder: Encoder,
    texts: Sequence[str] = (),
    *,
    dim: int | None = None,
    sif: float | None = None,
    ridge: float = RIDGE,
    vectors: Matrix | None = None,
    targets: Matrix | None = None,
    threads: int = 0,
    progress: Shows = True,
) -> StaticEncoder:
    """Make a static encoder that imitates a frozen one.

    Parameters
    ----------
    encoder : Encoder
        The encoder to imitate.
    texts : sequence of str
        Texts like those to route, only from the training split: what calibrates or tests a router
        must not shape its encoder. Of more than 10,000 texts, 10,000 are taken at even distances.
        Without texts all tokens have weight 1, and there is no regression.
    dim : int, optional
        Numbers per vector; by default as many as the encoder's. The file has a byte for each.
    sif : float, optional
        The a of w_t = a / (a + p_t); a larger one weighs frequent tokens more. By default all
        weigh 1.
    ridge : float
        The rho of the regression; a larger one stays nearer to the tokens' own vectors.
    vectors, targets : ndarray of float32, (V, d) and (N, d), optional
        Results of :func:`token_vectors` and of ``encoder.encode(texts)``, which are most of the
        work, if the caller has them already.
    threads : int
        How many tokens or texts to embed at once; 0: one per core.
    progress : bool
        Draw progress bars.

    Returns
    -------
    StaticEncoder
        Its ``record`` has the settings and the number of texts.

    Raises
    ------
    Cr2Error
        The tokenizer is not BERT's uncased one, an option is out of range, or a text is no string.
    """
    check_type(encoder, Encoder, "encoder")
    threads = check_threads(threads)
    expected = f"a whole number, 1 to {encoder.dim}"
    dim = whole(encoder.dim if dim is None else dim, "dim", expected)
    if not 1 <= dim <= encoder.dim:
        raise Cr2Error(f"dim: expected {expected}, got {dim}")
    sif = None if sif is None else real(sif, "sif", "a positive number")
    ridge = real(ridge, "ridge", "a positive number")
    for name, value in (("sif", 1.0 if sif is None else sif), ("ridge", ridge)):
        if not 0 < value < np.inf:
            raise Cr2Error(f"{name}: expected a positive number, got {shown(value)}")
    if isinstance(texts, str) or not all(isinstance(t, str) for t in texts):
        raise Cr2Error("texts: expected a sequence of strings, got something else in it")
    vocabulary = bert_vocabulary(encoder.tokenizer_json)
    for name, given, n in (("vectors", vectors, len(vocabulary)), ("targets", targets, len(texts))):
        if given is not None and np.shape(given) != (n, encoder.dim):
            raise Cr2Error(f"{name}: expected shape {(n, encoder.dim)}, got {np.shape(given)}")
    if len(texts) > MAX_TEXTS:
        picks = np.linspace(0, len(texts) - 1, MAX_TEXTS).astype(int)
        texts = [texts[i] for i in picks]
        targets = None if targets is None else targets[picks]
    if vectors is None:
        vectors = token_vectors(encoder, threads=threads, progress=progress)
    vectors = (vectors - vectors.mean(axis=0)).astype(np.float32)
    counts: npt.NDArray[np.float64] = np.ones(len(vocabulary))
    weights = np.ones(len(vocabulary), dtype=np.float32)
    if texts:
        tokens = [np.array(encoder.tokens(t)) for t in texts]
        counts += np.bincount(np.concatenate(tokens), minlength=len(vocabulary))
        if sif is not None:
            weights = (sif / (sif + counts / counts.sum())).astype(np.float32)
        if targets is None:
            targets = _targets(encoder, texts, threads, progress)
        vectors = fit_rows(vectors, weights, tokens, targets, ridge)
    vectors *= weights[:, None]
    if dim < encoder.dim:
        axes = np.linalg.eigh((vectors * counts[:, None].astype(np.float32)).T @ vectors)[1]
        vectors = vectors @ axes[:, ::-1][:, :dim]
    record = {
        "sif": sif,
        "ridge": ridge if texts else None,
        "texts": len(texts),
        "texts_sha256": sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest(),
    }
    made = StaticEncoder.from_vectors(
        np.ascontiguousarray(vectors, dtype=np.float32),
        vocabulary,
        id=f"static {dim} of {encoder.info.id}",
        source=encoder.info,
        max_tokens=encoder.max_tokens,
        truncation=encoder.truncation,
        record=json.dumps(record),
    )
    for probe in (*_PROBES, *texts[:100]):
        if made.tokens(probe) != encoder.tokens(probe):
            raise Cr2Error(f"encoder: expected BERT's tokens of {probe[:60]!r}, got others")
    return made


def fit_rows(
    vectors: Matrix,
    weights: npt.NDArray[np.float32],
    tokens: Sequence[npt.NDArray[Any]],
    targets: Matrix,
    ridge: float,
) -> Matrix:
    """Token vectors whose weighted means come near the targets (step 3 above).

    Parameters
    ----------
    vectors : ndarray of float32, (V, d)
        V0.
    weights : ndarray of float32, (V,)
    tokens : sequence of N integer arrays
        Token ids of each text.
    targets : ndarray of float32, (N, d)
        Y.
    ridge : float

    Returns
    -------
    ndarray of float32, (V, d)
    """
    totals = np.array([weights[t].sum() for t in tokens], dtype=np.float32)
    means = np.stack([weights[t] @ vectors[t] for t in tokens]) / totals[:, None]
    # V0 on the scale of the targets, since rho weighs one against the other.
    scale = float((means * targets).sum() / (means * means).sum())
    used = np.unique(np.concatenate(tokens))
    rows = np.repeat(np.arange(len(tokens)), [len(t) for t in tokens])
    flat = np.concatenate(tokens)
    shares = weights[flat] / totals[rows]
    place = np.searchsorted(used, flat)

    def blocks() -> Any:
        # A is sparse; it is made dense for a few columns at a time.
        for start in range(0, len(used), _COLUMNS):
            width = min(_COLUMNS, len(used) - start)
            here = (place >= start) & (place < start + width)
            at = rows[here] * width + place[here] - start
            a = np.bincount(at, shares[here], minlength=len(tokens) * width)
            yield used[start : start + width], a.reshape(-1, width).astype(np.float32)

    gram = np.zeros((len(tokens), len(tokens)), dtype=np.float32)
    for _, a in blocks():
        gram += a @ a.T
    unit = float(np.trace(gram)) / len(tokens)
    gram[np.diag_indices_from(gram)] += ridge * unit
    solved = np.linalg.solve(gram, targets - scale * means).astype(np.float32)
    out = scale * vectors
    for columns, a in blocks():
        out[columns] += a.T @ solved
    return out


def _targets(encoder: Encoder, texts: Sequence[str], threads: int, progress: Shows) -> Matrix:
    """The encoder's embeddings of the texts, (N, d)."""
    out = np.empty((len(texts), encoder.dim), dtype=np.float32)
    with item_bar(progress, "texts", len(texts)) as update:
        for start in range(0, len(texts), 64):
            part = slice(start, start + 64)
            out[part] = encoder.encode(list(texts[part]), threads=threads)
            update(len(out[part]))
    if not encoder.configuration.normalize:
        # The table's own vectors are of unit length.
        out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out


def token_vectors(encoder: Encoder, *, threads: int = 0, progress: Shows = True) -> Matrix:
    """Mean hidden states of each token of the vocabulary between [CLS] and [SEP], (V, d).

    Parameters
    ----------
    encoder : Encoder
    threads : int
        How many tokens to embed at once; 0: one per core.
    progress : bool
        Draw a progress bar.
    """
    n = len(bert_vocabulary(encoder.tokenizer_json))
    cls, sep = encoder.tokens("")
    out = np.empty((n, encoder.dim), dtype=np.float32)

    def run(token: int) -> None:
        out[token] = encoder.mean_hidden([cls, token, sep])

    with (
        item_bar(progress, "vocabulary", n) as update,
        ThreadPoolExecutor(thread_count(threads)) as pool,
    ):
        for start in range(0, n, 512):
            part = range(start, min(start + 512, n))
            list(pool.map(run, part))
            update(len(part))
    return out
