"""Text in, embedding out: a frozen sentence encoder under onnxruntime.

In: texts, or chat messages. Out: unit vectors (d,) or (N, d) float32: the mean of the model's last
hidden states over a text's tokens, normalised, as sentence-transformers makes them.

Each text runs by itself, without padding. An int8 model scales its activations over the whole
tensor, so in a batch a text's vector would depend on its neighbours; by itself it is the same alone
and in any list, and no work goes into padding.

Between processors the vector moves in its last digits. Measured with the int8 MiniLM on 210 texts,
onnxruntime shown fewer CPU features (QEMU's Haswell gives the same bits as AVX2 so shown): the same
bits with AVX-512 with and without VNNI; with AVX2 alone, and with SSE alone, values move by at most
1.7e-7 and the margins of a router on the standard pool by at most 4.8e-7 (their standard deviation
is 0.19). One of 33,600 decisions over the whole (lam, alpha) grid turned: of a calibration query,
above whose margin the threshold was set by one step. The gate itself, and a :class:`StaticEncoder`,
give the same bits everywhere.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_threads
from cr2fast._util.optional import require
from cr2fast.encoders.files import EncoderFiles, find
from cr2fast.encoders.info import EncoderInfo, sha256_of
from cr2fast.encoders.messages import Text, text_of, texts_of

Vector = npt.NDArray[np.float32]
Truncation = Literal["head-tail", "head"]
# Of a longer text this many characters from either end are read. Far more than `max_tokens` need
# (a BERT token has four characters on average), and it bounds what one text can cost: a tokenizer
# reads every byte, holding the interpreter's lock.
END_CHARS = 16_384


class Encoder:
    """A frozen sentence encoder; made by :meth:`load`.

    Safe to share between threads. Starts no thread of its own unless a call asks for several, and
    those end with the call.

    Attributes
    ----------
    info : EncoderInfo
        Name, and a SHA-256 over model file, tokenizer file and settings: what a router remembers.
    dim : int
        Embedding width d.
    max_tokens : int
        Longer texts are cut to this many tokens.
    truncation : {"head-tail", "head"}
        Which of them are kept.
    """

    def __init__(
        self,
        files: EncoderFiles,
        *,
        max_tokens: int = 256,
        truncation: Truncation = "head-tail",
        cache: int = 0,
    ) -> None:
        if truncation not in ("head-tail", "head"):
            raise Cr2Error(f"truncation: expected 'head-tail' or 'head', got {truncation!r}")
        if not isinstance(max_tokens, int) or not 4 <= max_tokens <= 512:
            raise Cr2Error(f"max_tokens: expected a whole number, 4 to 512, got {max_tokens!r}")
        if not isinstance(cache, int) or cache < 0:
            raise Cr2Error(f"cache: expected a number of texts, at least 0, got {cache!r}")
        self.max_tokens, self.truncation = max_tokens, truncation
        self._tokenizer = _tokenizer(files.tokenizer)
        self._session, self._inputs, self.dim = _session(files.model)
        settings = {
            "model": sha256_of(files.model),
            "tokenizer": sha256_of(files.tokenizer),
            "max_tokens": max_tokens,
            "truncation": truncation,
            "pooling": "mean",
        }
        digest = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.info = EncoderInfo(f"{files.id}, {max_tokens} tokens, {truncation}", digest)
        self._kept: OrderedDict[bytes, Vector] = OrderedDict()
        self._size, self._lock = cache, Lock()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        download: bool = False,
        max_tokens: int = 256,
        truncation: Truncation = "head-tail",
        cache: int = 0,
    ) -> Encoder:
        """Load an encoder.

        Parameters
        ----------
        source : path or str
            A folder with ``model.onnx`` and ``tokenizer.json``; ``"minilm"`` (the extra of that
            name); or a Hugging Face id.
        download : bool
            Let a Hugging Face id be downloaded; without it, nothing is.
        max_tokens : int
            All-MiniLM-L6-v2 was trained for 256.
        truncation : {"head-tail", "head"}
            Of longer texts keep both ends, or the beginning. Prompts often share their beginning
            (instructions, examples) and differ at their end, so a head alone would embed them all
            alike.
        cache : int
            Embeddings of this many texts are kept, the least recently used dropped first.

        Raises
        ------
        FileNotFoundError, ImportError
            No such files, or an extra that is not installed.
        Cr2Error
            Files that are no sentence encoder; settings out of range.
        """
        files = find(source, download=download)
        return cls(files, max_tokens=max_tokens, truncation=truncation, cache=cache)

    @overload
    def encode(self, texts: Text, threads: int = 1) -> Vector: ...
    @overload
    def encode(self, texts: Sequence[Text], threads: int = 1) -> Vector: ...
    def encode(self, texts: Text | Sequence[Text], threads: int = 1) -> Vector:
        """Embed one text or many; a text's vector is the same bits alone and in any list.

        Parameters
        ----------
        texts : str, chat messages, or a sequence of these
        threads : int
            Texts worked on at once, for this call; 0 is one a core.

        Returns
        -------
        ndarray of float32
            (d,) for one text, (N, d) for a sequence; unit length.

        Raises
        ------
        TypeError, Cr2Error
            Something that is no text, named by its place; text that no UTF-8 can hold.
        """
        threads = check_threads(threads)
        strings, many = texts_of(texts)
        if not many:
            return self._one(strings[0])
        # Long ones first, so that threads end together; each different text once.
        distinct = sorted(set(strings), key=len, reverse=True)
        if threads == 1 or len(distinct) < 2:
            vectors = [self._one(s) for s in distinct]
        else:
            with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
                vectors = list(pool.map(self._one, distinct))
        found = dict(zip(distinct, vectors, strict=True))
        out = np.empty((len(strings), self.dim), dtype=np.float32)
        for row, s in zip(out, strings, strict=True):
            row[:] = found[s]
        return out

    def count_tokens(self, text: Text) -> int:
        """Tokens of a text, special ones left out, however many: L_in as the tables count it."""
        special: int = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        return len(self._ids(text_of(text))) - special

    def _ids(self, string: str) -> list[int]:
        try:
            string.encode()
        except UnicodeEncodeError as error:
            raise Cr2Error(f"text: expected text that UTF-8 can hold, got {error}") from None
        ids: list[int] = self._tokenizer.encode(string).ids
        return ids

    def tokens(self, text: Text) -> list[int]:
        """Token ids that the model sees, special ones included, cut to `max_tokens`.

        Of texts beyond 32,768 characters the 16,384 at either end are read.
        """
        string = text_of(text)
        if len(string) > 2 * END_CHARS:
            string = f"{string[:END_CHARS]} {string[-END_CHARS:]}"
        ids = self._ids(string)
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
        # A digest, so that long prompts do not stay in memory.
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
        """The tokenizer as its library spells it: normalizer, pre-tokenizer, model, vocabulary."""
        document: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return document

    def mean_hidden(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        """(d,) mean of the last hidden states over tokens as they are, not normalised."""
        ids = np.array([tokens], dtype=np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        hidden = self._session.run(None, {k: feed[k] for k in self._inputs})[0][0]
        mean: npt.NDArray[np.float64] = hidden.mean(axis=0, dtype=np.float64)
        return mean

    def _embed(self, text: str) -> Vector:
        mean = self.mean_hidden(self.tokens(text))
        norm = np.linalg.norm(mean)
        if not (np.isfinite(norm) and norm > 0):
            raise Cr2Error(f"encoder: expected a vector of finite length, got {norm} for a text")
        vector: Vector = (mean / norm).astype(np.float32)
        return vector

    def __repr__(self) -> str:
        return f"Encoder({self.info.id!r}, dim={self.dim})"


def _tokenizer(path: Path) -> Any:
    tokenizers = require("tokenizers", "text")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise Cr2Error(f"encoder: expected a tokenizer in {path}, got {error}") from None
    # The file asks for padding to 128 and a cut at 128; the model was trained with neither.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _session(path: Path) -> tuple[Any, list[str], int]:
    ort = require("onnxruntime", "text")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Cr2Error(f"encoder: expected an ONNX model in {path}, got {error}") from None
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
