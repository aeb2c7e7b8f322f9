"""Text in, embedding out: a frozen sentence encoder under onnxruntime.

In: texts, or chat messages. Out: vectors (d,) or (N, d) float32, as sentence-transformers makes
them: the mean of the model's last hidden states over a text's tokens, normalised; or what the
model's own configuration says (:mod:`cr2fast.encoders.configuration`).

Each text runs by itself, without padding. An int8 model scales its activations over the whole
tensor, so in a batch the vector of a text would depend on the other texts. Run by itself, a text
has the same vector in any list, and no work goes into padding.

Between processors the vector differs in its last digits. This was measured with the int8 MiniLM on
210 texts, by hiding CPU features from onnxruntime (QEMU's Haswell gives the same bits as AVX2 with
the rest hidden). AVX-512 gives the same bits with and without VNNI. With only AVX2, or only SSE,
values differ by at most 1.7e-7 and the margins of a router on the standard pool by at most 4.8e-7
(their standard deviation is 0.19). One of 33,600 decisions over the whole (lam, alpha) grid
changed: that of a calibration query whose margin is one float32 step below the threshold. The gate,
and a :class:`StaticEncoder`, give the same bits everywhere.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, thread_count
from cr2fast._util.checks import check_choice, check_threads, explained, whole
from cr2fast._util.optional import require
from cr2fast.encoders.configuration import Configuration
from cr2fast.encoders.counting import Counter, counter, encoded
from cr2fast.encoders.files import EncoderFiles, find
from cr2fast.encoders.info import EncoderInfo, sha256_of
from cr2fast.encoders.messages import Text, text_of, texts_of

Vector = npt.NDArray[np.float32]
Hidden = npt.NDArray[Any]
Truncation = Literal["head-tail", "head"]
# Of a longer text, this many characters are read from either end. They are far more than
# `max_tokens` need (a BERT token has four characters on average), and they bound what one text can
# cost: a tokenizer reads every byte.
END_CHARS = 16_384
# all-MiniLM-L6-v2 was trained for as many.
DEFAULT_TOKENS = 256
# Hidden states (tokens, d) to a vector (d,). Without padding the last token is a text's own.
POOLS: dict[str, Callable[[Hidden], npt.NDArray[np.float64]]] = {
    "mean": lambda h: h.mean(axis=0, dtype=np.float64),
    "cls": lambda h: h[0].astype(np.float64),
    "max": lambda h: h.max(axis=0).astype(np.float64),
    "mean_sqrt_len": lambda h: h.sum(axis=0, dtype=np.float64) / np.sqrt(len(h)),
    "last": lambda h: h[-1].astype(np.float64),
}


class Encoder:
    """A frozen sentence encoder; made by :meth:`load`.

    It is safe to share between threads. It starts threads only in a call that asks for several, and
    they end with the call; of texts beyond 2048 characters the tokenizers' library starts its pool.

    Attributes
    ----------
    info : EncoderInfo
        Name, and a SHA-256 over model file, weights that it keeps in other files, tokenizer file
        and settings: what a router remembers.
    dim : int
        Embedding width d.
    max_tokens : int
        Longer texts are cut to this many tokens.
    truncation : {"head-tail", "head"}
        Which tokens of a longer text are kept: those at both ends, or the first.
    configuration : Configuration
        Pooling, normalisation and lower-casing.
    """

    def __init__(
        self,
        files: EncoderFiles,
        *,
        max_tokens: int | None = None,
        truncation: Truncation = "head-tail",
        cache: int = 0,
    ) -> None:
        said = files.configuration
        if max_tokens is None:
            max_tokens = said.max_tokens or DEFAULT_TOKENS
        check_choice(truncation, get_args(Truncation), "truncation")
        max_tokens = whole(max_tokens, "max_tokens", "a whole number, 4 to 512")
        if not 4 <= max_tokens <= 512:
            raise Cr2Error(f"max_tokens: expected a whole number, 4 to 512, got {max_tokens}")
        cache = whole(cache, "cache", "a number of texts, at least 0")
        self._files = files
        self.max_tokens, self.truncation = max_tokens, truncation
        self.configuration = said
        self._tokenizer = _tokenizer(files.tokenizer)
        if said.bert:
            _check_normalizer(self.tokenizer_json, said)
        weights = files.weights()
        self._session, self._inputs, self.dim = _session(files.model)
        if said.width not in (None, self.dim):
            raise Cr2Error(
                f"encoder: expected a model of width {said.width}, as its pooling's configuration "
                f"says, got one of width {self.dim}"
            )
        # Only what differs from a plain model of one file adds to it: fingerprints are remembered.
        settings = {
            "model": sha256_of(files.model),
            "tokenizer": sha256_of(files.tokenizer),
            "max_tokens": max_tokens,
            "truncation": truncation,
            **said.settings(),
        }
        if weights:
            settings["weights"] = {name: sha256_of(path) for name, path in weights.items()}
        digest = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        pooling = "" if said.pooling == "mean" else f", {said.pooling}"
        self.info = EncoderInfo(f"{files.id}, {max_tokens} tokens, {truncation}{pooling}", digest)
        self._kept: OrderedDict[bytes, Vector] = OrderedDict()
        self._size, self._lock = cache, Lock()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        download: bool = False,
        max_tokens: int | None = None,
        truncation: Truncation = "head-tail",
        cache: int = 0,
    ) -> Encoder:
        """Load an encoder from a folder, a package or a hub.

        Of a folder or hub id that has the configuration of sentence-transformers, its pooling,
        normalisation, lower-casing and maximal length are followed; one that asks for more (a Dense
        module, a prompt, a weighted mean) is refused.

        Parameters
        ----------
        source : path or str
            A folder with ``model.onnx`` and ``tokenizer.json``; ``"minilm"``, which the extra of
            that name brings; or a Hugging Face id.
        download : bool
            Whether a Hugging Face id may be downloaded; nothing else ever is.
        max_tokens : int, optional
            Longer texts are cut to this many tokens: by default to the configuration's maximal
            length, at most 512; without one to 256, for which all-MiniLM-L6-v2 was trained.
        truncation : {"head-tail", "head"}
            Which part of longer texts to keep: both ends, or the beginning. Prompts often begin
            with the same instructions and examples and differ only at their end; their heads would
            all have much the same embedding.
        cache : int
            How many embeddings to keep; the least recently used is dropped first.

        Raises
        ------
        FileNotFoundError, ImportError
            The files are not there, or an extra is not installed.
        Cr2Error
            The files are no sentence encoder, or a setting is out of range.
        """
        files = find(source, download=download)
        return cls(files, max_tokens=max_tokens, truncation=truncation, cache=cache)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process reads the same files; other ones that it may find there are refused.
        return _again, (self._files, self.max_tokens, self.truncation, self._size, self.info)

    def __copy__(self) -> Encoder:
        return self

    def __deepcopy__(self, memo: object) -> Encoder:
        return self

    @overload
    def encode(self, texts: Text, threads: int = 1) -> Vector: ...
    @overload
    def encode(self, texts: Sequence[Text], threads: int = 1) -> Vector: ...
    def encode(self, texts: Text | Sequence[Text], threads: int = 1) -> Vector:
        """Embed one text or many; the vector of a text has the same bits alone and in any list.

        Parameters
        ----------
        texts : str, chat messages, or a sequence of these
        threads : int
            How many texts to embed at once in this call; 0: one per core.

        Returns
        -------
        ndarray of float32
            (d,) for one text, (N, d) for a sequence; of unit length unless the model's
            configuration leaves vectors as they are.

        Raises
        ------
        TypeError, Cr2Error
            Something is no text, or cannot be written as UTF-8; the message names its place.
        """
        threads = check_threads(threads)
        strings, many = texts_of(texts)
        if not many:
            return self._one(strings[0])
        # Long texts first, so that threads end at about the same time; equal texts once.
        distinct = sorted(set(strings), key=len, reverse=True)
        threads = thread_count(threads)
        if threads == 1 or len(distinct) < 2:
            vectors = [self._one(s) for s in distinct]
        else:
            with ThreadPoolExecutor(threads) as pool:
                vectors = list(pool.map(self._one, distinct))
        found = dict(zip(distinct, vectors, strict=True))
        out = np.empty((len(strings), self.dim), dtype=np.float32)
        for row, s in zip(out, strings, strict=True):
            row[:] = found[s]
        return out

    def count_tokens(self, text: Text) -> int:
        """Tokens that a whole text counts for, special ones left out: L_in, an estimate.

        As of :meth:`StaticEncoder.count_tokens`: what the tokenizer does not know counts by its
        bytes, however long the text is.
        """
        return self._counter.count_tokens(text_of(text))

    @cached_property
    def _counter(self) -> Counter:
        return counter(self._tokenizer, self.tokenizer_json)

    def tokens(self, text: Text) -> list[int]:
        """Token ids that the model reads, special ones among them, cut to `max_tokens`.

        Of texts beyond 32,768 characters the 16,384 at either end are read.
        """
        string = text_of(text)
        if self.configuration.lower_case:
            string = string.lower()
        if len(string) > 2 * END_CHARS:
            string = f"{string[:END_CHARS]} {string[-END_CHARS:]}"
        ids: list[int] = encoded(self._tokenizer, string).ids
        if len(ids) <= self.max_tokens:
            return ids
        if self.truncation == "head":
            return [*ids[: self.max_tokens - 1], ids[-1]]
        # [CLS], the first half, the second half, [SEP].
        inner = self.max_tokens - 2
        head = 1 + inner // 2
        return [*ids[:head], *ids[len(ids) - 1 - (inner - inner // 2) :]]

    def _one(self, text: str) -> Vector:
        if not self._size:
            return self._embed(text)
        # The key is a digest, so that long prompts do not stay in memory.
        key = sha256(text.encode(errors="surrogatepass")).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key].copy()
        vector = self._embed(text)
        with self._lock:
            self._kept[key] = vector.copy()
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return vector

    @property
    def tokenizer_json(self) -> dict[str, Any]:
        """The tokenizer as its library writes it: normalizer, pre-tokenizer, model, vocabulary."""
        document: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return document

    def hidden(self, tokens: Sequence[int]) -> Hidden:
        """(tokens, d) last hidden states over tokens as they are."""
        ids = np.array([tokens], dtype=np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        out: Hidden = self._session.run(None, {k: feed[k] for k in self._inputs})[0][0]
        return out

    def mean_hidden(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        """Mean of the last hidden states over the tokens as given, (d,), not normalised."""
        return POOLS["mean"](self.hidden(tokens))

    def _embed(self, text: str) -> Vector:
        tokens, pooling = self.tokens(text), self.configuration.pooling
        pooled = (
            self.mean_hidden(tokens) if pooling == "mean" else POOLS[pooling](self.hidden(tokens))
        )
        norm = np.linalg.norm(pooled)
        if not (np.isfinite(norm) and norm > 0):
            raise Cr2Error(f"encoder: expected a vector of finite length, got {norm} for a text")
        vector: Vector = (pooled / norm if self.configuration.normalize else pooled).astype(
            np.float32
        )
        return vector

    def __repr__(self) -> str:
        return f"Encoder({self.info.id!r}, dim={self.dim})"


def _tokenizer(path: Path) -> Any:
    tokenizers = require("tokenizers", "text")
    try:
        # A byte order mark, which Windows' editors write, is none of JSON's.
        text = path.read_bytes().decode("utf-8-sig")
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise Cr2Error(f"encoder: expected a tokenizer in {path}, got {explained(error)}") from None
    # The file asks for padding to 128 tokens and a cut there; the model was trained with neither.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _check_normalizer(document: dict[str, Any], said: Configuration) -> None:
    """Refuse a `tokenizer_config.json` that says otherwise: transformers would follow that."""
    normalizer = document.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return
    if normalizer.get("strip_accents") is None:
        normalizer["strip_accents"] = normalizer.get("lowercase")
    for key, value in said.bert:
        if normalizer.get(key) != value:
            raise Cr2Error(
                f"encoder: expected tokenizer_config.json and tokenizer.json to agree about {key}, "
                f"got {value} and {normalizer.get(key)}; save the tokenizer again with its "
                f"configuration"
            )


def _session(path: Path) -> tuple[Any, list[str], int]:
    ort = require("onnxruntime", "text")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Cr2Error(
            f"encoder: expected an ONNX model in {path}, got {explained(error)}"
        ) from None
    inputs = [i.name for i in session.get_inputs()]
    shape = session.get_outputs()[0].shape
    known = {"input_ids", "attention_mask", "token_type_ids"}
    good = {"input_ids"} <= set(inputs) <= known and len(shape) == 3
    if not (good and isinstance(shape[2], int)):
        raise Cr2Error(
            f"encoder: expected a model of {sorted(known)} with hidden states "
            f"(batch, tokens, width), got inputs {inputs} and output shape {shape}"
        )
    return session, inputs, int(shape[2])


def _again(
    files: EncoderFiles, max_tokens: int, truncation: Truncation, cache: int, info: EncoderInfo
) -> Encoder:
    """The encoder that another process had, or an error where its files are others by now."""
    encoder = Encoder(files, max_tokens=max_tokens, truncation=truncation, cache=cache)
    if encoder.info != info:
        raise Cr2Error(
            f"encoder: expected the files of {info.id} with sha256 {info.sha256}, got other ones "
            f"with {encoder.info.sha256}"
        )
    return encoder
