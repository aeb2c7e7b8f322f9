"""Text in, embedding out, by an OpenAI-compatible ``/v1/embeddings`` endpoint.

In: texts, or chat messages. Out: vectors (d,) or (N, d) float32. What is asked and how an answer is
read stands in the compiled module, where the gateway has it too, so one answer is the same bits in
both. A request holds one text: in a batch, padding may change the vectors.

No file's hash names such an encoder. A router knows it by its probes: a few texts, and the vectors
that they had when the router was fitted (:meth:`cr2fast.Router.with_probes`).
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from cr2fast._core import (
    ENDPOINT_CHARS,
    PROBE_TOLERANCE,
    Cr2Error,
    endpoint_answer,
    endpoint_question,
    endpoint_text,
    endpoint_tokens,
    thread_count,
)
from cr2fast._util.checks import check_threads, explained, real, shown, whole
from cr2fast.encoders.info import EncoderInfo
from cr2fast.encoders.messages import Text, text_of, texts_of
from cr2fast.encoders.probes import PROBES, Probed

Vector = npt.NDArray[np.float32]
# Of an answer: 4096 numbers are a tenth of it.
_MOST_BYTES = 1 << 20
_MOST_COUNTS = 1 << 20


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and carry the token to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class EndpointEncoder:
    """An encoder behind an OpenAI-compatible endpoint (llama.cpp, vLLM, Ollama, OpenAI and others).

    It is safe to share between threads; each text is a request of its own.

    Parameters
    ----------
    url : str
        ``http://HOST:PORT`` or ``https://HOST``, with or without ``/v1``.
    model : str
        What the endpoint calls the model.
    router : Router, optional
        A router with probes (:meth:`cr2fast.Router.with_probes`): the endpoint must give their
        vectors, and then stands for the router's encoder, whatever that was. `max_chars` and
        `normalize` are those of its probes.
    token_env : str, optional
        The environment variable with the endpoint's bearer token.
    timeout_s : float
        Seconds that one request may take.
    max_chars : int, optional
        Of a longer text, half as many characters from either end are sent, with a space between
        them; by default 32,768. An endpoint that refuses long texts, or cuts them at its own
        bound, keeps the end of a prompt only with a smaller value: about three characters per
        token that its model reads.
    normalize : bool, optional
        Whether vectors get unit length; by default they do.
    cache : int
        How many vectors to keep in memory; the least recently used is dropped first.

    Attributes
    ----------
    info : EncoderInfo
        The router's, if one was given; else a name made of `model` and `max_chars`, without a hash.
    max_chars : int

    Raises
    ------
    Cr2Error
        An argument out of range; a router without probes, or an endpoint that is another encoder.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        router: Probed | None = None,
        token_env: str | None = None,
        timeout_s: float = 30.0,
        max_chars: int | None = None,
        normalize: bool | None = None,
        cache: int = 1024,
    ) -> None:
        self.url, self.model, self.token_env = _base(url), model, token_env
        if not isinstance(model, str) or not model:
            raise Cr2Error(f"model: expected what the endpoint calls it, got {shown(model)}")
        self.timeout_s = real(timeout_s, "timeout_s", "a positive number of seconds")
        if not 0 < self.timeout_s < np.inf:
            raise Cr2Error(f"timeout_s: expected a positive number of seconds, got {timeout_s}")
        self.cache = whole(cache, "cache", "a number of texts, at least 0")
        probes = None if router is None else router.probes
        if router is not None:
            if probes is None:
                raise Cr2Error(
                    "router: expected one with probes, by which the endpoint is known, got one "
                    "without; add them with router.with_probes(encoder), where encoder is the one "
                    "that it was fitted with"
                )
            if max_chars is not None or normalize is not None:
                raise Cr2Error("max_chars, normalize: expected none beside router, which has them")
            max_chars = probes["max_chars"]
            lengths = np.linalg.norm(probes["vectors"].astype(np.float64), axis=1)
            normalize = bool((np.abs(lengths - 1) <= 1e-5).all())
        chars = ENDPOINT_CHARS if max_chars is None else max_chars
        self.max_chars = whole(chars, "max_chars", "a number of characters, at least 2")
        if self.max_chars < 2:
            raise Cr2Error(f"max_chars: expected at least 2 characters, got {self.max_chars}")
        self.normalize = True if normalize is None else normalize
        as_it_came = "" if self.normalize else ", as it came"
        self.info = EncoderInfo(f"{model} at an endpoint, {self.max_chars} characters{as_it_came}")
        self._lock = Lock()
        self._kept: OrderedDict[bytes, Vector] = OrderedDict()
        # As the endpoint counted, of so many bytes.
        self._counts: OrderedDict[bytes, tuple[int | None, int]] = OrderedDict()
        self._width: int | None = None
        self._cache_id: str | None = None
        self._router = router
        if router is not None and probes is not None:
            self._width = router.embedding_dim
            _check(router, self.encode(probes["texts"]), f"{self.model} at {self.url}")
            self.info = router.encoder

    def __reduce__(self) -> tuple[Any, ...]:
        kept = None if self._router else self.max_chars, None if self._router else self.normalize
        return _again, (
            (self.url, self.model),
            (self._router, self.token_env, self.timeout_s, *kept, self.cache),
        )

    @property
    def dim(self) -> int:
        """Embedding width d; asks for a vector where none was seen yet."""
        if self._width is None:
            self.encode(PROBES[0])
        assert self._width is not None
        return self._width

    @property
    def cache_id(self) -> str:
        """What a cache on disk knows it by: its name, and the bits of its vectors of the probes.

        The name says little: a server may answer with another model under the same one.
        """
        if self._cache_id is None:
            said = {"model": self.model, "max_chars": self.max_chars, "unit": self.normalize}
            digest = sha256(json.dumps(said, sort_keys=True).encode())
            digest.update(self.encode(list(PROBES)).astype("<f4").tobytes())
            self._cache_id = digest.hexdigest()
        return self._cache_id

    def encode(self, texts: Text | Sequence[Text], threads: int = 1) -> Vector:
        """Embed one text, or several.

        Parameters
        ----------
        texts : str, chat, or sequence of those
        threads : int
            How many requests at once; 0: one per core.

        Returns
        -------
        ndarray of float32
            (d,) for one text, (N, d) for a sequence.

        Raises
        ------
        TypeError, Cr2Error
            Something is no text; the endpoint cannot be reached, is late, refuses, or answers with
            something other than one vector of finite numbers and of the known width.
        """
        threads = thread_count(check_threads(threads))
        strings, many = texts_of(texts)
        if not many:
            return self._one(strings[0])[0]
        distinct = list(dict.fromkeys(strings))
        if threads == 1 or len(distinct) < 2:
            vectors = [self._one(s)[0] for s in distinct]
        else:
            # The first alone: it says the width that the others must have.
            first = self._one(distinct[0])[0]
            with ThreadPoolExecutor(threads) as pool:
                vectors = [first, *(v for v, _ in pool.map(self._one, distinct[1:]))]
        found = dict(zip(distinct, vectors, strict=True))
        if not strings:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.stack([found[s] for s in strings])

    def count_tokens(self, text: Text) -> int:
        """Tokens of a text as the endpoint counts them (``usage.prompt_tokens``).

        They are scaled by bytes where `max_chars` cut the text. They are a quarter of its bytes,
        rounded up, without a count, and with one of less than a token per 16 bytes, as of a server
        that cuts texts, or whose tokenizer has one token for a long word.
        """
        string = text_of(text)
        return self.count_turns([string], string)

    def count_turns(self, turns: Sequence[str], embedded: str | None) -> int:
        """Tokens of a chat's texts, of which the endpoint counts the one that is embedded.

        The others have as many per byte, so that a chat asks the endpoint once, as the gateway
        does.

        Parameters
        ----------
        turns : sequence of str
            The texts of all turns.
        embedded : str or None
            The text of the last user turn; None where no text is embedded: the tokens are then a
            quarter of the bytes, rounded up.
        """
        n_bytes = sum(len(turn.encode()) for turn in turns)
        if embedded is None:
            return endpoint_tokens(None, 0, n_bytes)
        with self._lock:
            known = self._counts.get(_key(embedded))
        counted, sent = self._one(embedded)[1] if known is None else known
        return endpoint_tokens(counted, sent, n_bytes)

    def _one(self, text: str) -> tuple[Vector, tuple[int | None, int]]:
        key = _key(text)
        with self._lock:
            if key in self._kept and key in self._counts:
                self._kept.move_to_end(key)
                return self._kept[key].copy(), self._counts[key]
        sent = endpoint_text(text, self.max_chars)
        body = self._ask(endpoint_question(self.model, sent).encode())
        try:
            vector, counted = endpoint_answer(body, self._width, self.normalize)
        except Cr2Error as error:
            raise Cr2Error(f"encoder: {self.url}: {error}") from None
        tokens = counted, len(sent.encode())
        with self._lock:
            if self._width is None:
                self._width = len(vector)
            self._counts[key] = tokens
            self._kept[key] = vector.copy()
            self._kept.move_to_end(key)
            for kept, most in ((self._kept, self.cache), (self._counts, _MOST_COUNTS)):
                while len(kept) > most:
                    kept.popitem(last=False)
        return vector, tokens

    def _ask(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self.token_env is not None:
            token = os.environ.get(self.token_env)
            if not token:
                raise Cr2Error(
                    f"token_env: expected the environment variable {shown(self.token_env)} to hold "
                    f"the endpoint's token, got none"
                )
            headers["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self.url}/v1/embeddings", body, headers)
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as reply:
                read: bytes = reply.read(_MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            hint = "; a smaller max_chars sends less of a long text" if error.code in _LONG else ""
            raise Cr2Error(
                f"encoder: expected an embedding of {self.url}, got status {error.code}{hint}"
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            what = explained(reason) if isinstance(reason, Exception) else str(reason)
            raise Cr2Error(
                f"encoder: expected an embedding of {self.url} within {self.timeout_s:g} s, got "
                f"{what[:200]}; is the endpoint running?"
            ) from None
        if len(read) > _MOST_BYTES:
            raise Cr2Error(f"encoder: expected at most {_MOST_BYTES} bytes of {self.url}, got more")
        return read

    def __repr__(self) -> str:
        return f"EndpointEncoder({self.url!r}, {self.model!r})"


# What servers say of a text that is longer than they take.
_LONG = (400, 413, 422, 500)


def _again(names: tuple[str, str], rest: tuple[Any, ...]) -> EndpointEncoder:
    router, token_env, timeout_s, max_chars, normalize, cache = rest
    return EndpointEncoder(
        *names,
        router=router,
        token_env=token_env,
        timeout_s=timeout_s,
        max_chars=max_chars,
        normalize=normalize,
        cache=cache,
    )


def _key(text: str) -> bytes:
    return sha256(text.encode(errors="surrogatepass")).digest()


def _base(url: Any) -> str:
    """``http://host:port`` of a URL with or without ``/v1``."""
    text = url.rstrip("/").removesuffix("/v1") if isinstance(url, str) else ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        raise Cr2Error(f"url: expected http://HOST:PORT or https://HOST, got {shown(url)}")
    return text


def _check(router: Probed, vectors: Vector, who: str) -> None:
    """Refuse an encoder whose vectors of the probes are not the router's."""
    far = router._core.probe_distances(vectors)
    worst = int(np.argmax(far))
    if not far[worst] <= PROBE_TOLERANCE:
        raise Cr2Error(
            f"encoder: expected {router.encoder.id}, whose vectors the router's thresholds hold "
            f"for, got {who}, whose vector of probe {worst + 1} of {len(far)} is {far[worst]:.2g} "
            f"away from it (at most {PROBE_TOLERANCE:g}, relative); serve the router's encoder "
            f"there, or fit and calibrate with this one"
        )
