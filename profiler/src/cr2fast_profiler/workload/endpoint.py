"""An OpenAI-compatible streaming endpoint: llama.cpp's server, Ollama, vLLM and their like.

In: a prompt. Out: an :class:`Exchange`. Tokens come from the server's ``usage`` alone (a chunk is
not a token). A server that streams no usage is asked once more, unstreamed and outside the times;
the answer must be the same. A request the server cut short, or answered with an error inside a
200, is refused with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.workload.answer import Answer, no_constant, shortened
from cr2fast_profiler.workload.exchange import Exchange, Rejected, RejectedRequest

MOST_CHARACTERS = 1 << 26
MOST_BODY = 1 << 22
_OURS = ("messages", "prompt", "model", "max_tokens", "stream", "stream_options")


class _Bounded:
    """A response whose text is given up at a deadline, and beyond a size."""

    def __init__(self, response: httpx2.Response, clock: Clock, deadline_ns: int) -> None:
        self._response, self._clock, self._deadline_ns = response, clock, deadline_ns
        self.headers, self.request = response.headers, response.request

    def iter_text(self) -> Iterator[str]:
        """Pieces as they come, of comments too."""
        size = 0
        for piece in self._response.iter_text():
            size += len(piece)
            if self._clock() > self._deadline_ns:
                raise RejectedRequest(Rejected.TIMEOUT, "the answer goes on beyond --timeout-s")
            if size > MOST_CHARACTERS:
                raise RejectedRequest(Rejected.MALFORMED, f"over {MOST_CHARACTERS} characters")
            yield piece


class Endpoint:
    """A model behind an OpenAI-compatible endpoint.

    Parameters
    ----------
    url : str
        Base URL, with or without ``/v1``.
    model : str or None
        Its name there; None takes the only one the server lists.
    api : {"chat", "completions"}
        Which of the two calls.
    api_key : str or None
        Sent as a bearer token.
    extra : dict
        More fields of the request, such as ``{"ignore_eos": true}``.
    timeout_s : float
        Bound on one request, from first byte sent to last received.
    clock : Clock
        What requests are timed by and waits are waited on.
    transport : httpx2.BaseTransport, optional
        Carries requests in place of sockets: a simulated server's.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api: str = "chat",
        api_key: str | None = None,
        extra: dict[str, object] | None = None,
        timeout_s: float = 300.0,
        clock: Clock = SYSTEM,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        if api not in ("chat", "completions"):
            raise EndpointError(f"api: expected 'chat' or 'completions', got {api!r}")
        base = url.rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise EndpointError(f"url: expected http://... or https://..., got {url!r}")
        if taken := [k for k in extra or {} if k in _OURS]:
            raise EndpointError(f"extra: {taken} are this profiler's own to set")
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise EndpointError("api key: expected printable ASCII; is there a line end in it?")
        self.url = base if base.endswith("/v1") else base + "/v1"
        self.api, self.timeout_s, self.clock = api, timeout_s, clock
        self.extra = dict(extra or {})
        headers = {"Accept-Encoding": "identity"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        # No proxy from the environment: its time would be measured as the model's.
        self._client = httpx2.Client(
            headers=headers,
            trust_env=False,
            timeout=httpx2.Timeout(timeout_s, connect=10.0),
            transport=transport,
        )
        self._path = self.url + ("/chat/completions" if api == "chat" else "/completions")
        try:
            self.name = self._resolve(model)
        except EndpointError:
            self.close()
            raise

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def describe(self) -> dict[str, object]:
        """Endpoint, model and call; no key."""
        return {"kind": "endpoint", "url": self.url, "model": self.name, "api": self.api} | (
            {"extra": self.extra} if self.extra else {}
        )

    def models(self) -> list[str]:
        """Names the server lists; empty where it lists none."""
        try:
            with self._client.stream("GET", self.url + "/models", timeout=10.0) as response:
                body = _received(response)
        except httpx2.InvalidURL as error:
            raise EndpointError(f"url {self.url!r}: {error}") from error
        except httpx2.HTTPError as error:
            raise EndpointError(
                f"{self.url} does not answer ({type(error).__name__}: {error}); is the server "
                "running, and is the address right?"
            ) from error
        if response.status_code in (401, 403):
            raise EndpointError(
                f"{self.url} answers {response.status_code}: it wants an API key; give one by "
                "--api-key-env NAME"
            )
        try:
            return [str(m["id"]) for m in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return []

    def _resolve(self, model: str | None) -> str:
        listed = self.models()
        if model is None:
            if len(listed) != 1:
                found = listed or "no models"
                raise EndpointError(f"{self.url} lists {found}: name one by --model")
            return listed[0]
        if listed and model not in listed:
            raise EndpointError(f"{self.url} has no model {model!r}; it lists {listed}")
        return model

    def _body(self, prompt: str, max_tokens: int) -> dict[str, object]:
        asked: dict[str, object] = (
            {"messages": [{"role": "user", "content": prompt}]}
            if self.api == "chat"
            else {"prompt": prompt}
        )
        return asked | {
            "model": self.name,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }

    def _events(self, response: httpx2.Response, deadline_ns: int) -> Iterator[str]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            body = shortened(_received(response).decode("utf-8", "replace"))
            if '"error"' in body:
                raise RejectedRequest(Rejected.ERROR_IN_200, body)
            raise RejectedRequest(
                Rejected.MALFORMED, f"expected text/event-stream, got {kind or 'nothing'}: {body}"
            )
        bounded = _Bounded(response, self.clock, deadline_ns)
        for event in httpx2.EventSource(bounded):  # type: ignore[arg-type]
            yield event.data

    def generate(self, prompt: str, max_tokens: int) -> Exchange:
        """Ask once, streaming.

        Parameters
        ----------
        prompt : str
            The user's turn.
        max_tokens : int
            Bound on the answer, tokens.
        """
        answer = Answer()
        body = self._body(prompt, max_tokens)
        start_ns = self.clock()
        deadline_ns = start_ns + int(self.timeout_s * 1e9)
        with _refusals(), self._client.stream("POST", self._path, json=body) as response:
            _check_status(response)
            for data in self._events(response, deadline_ns):
                now_ns = self.clock()
                if data.strip() == "[DONE]":
                    break
                answer.add(data, now_ns)
        answer.finished()
        if answer.usage is not None:
            return answer.exchange(start_ns, max_tokens)
        answer.usage = self._count(prompt, max_tokens, answer)
        return answer.exchange(start_ns, max_tokens, self.clock())

    def _count(self, prompt: str, max_tokens: int, answer: Answer) -> dict[str, Any]:
        """Token counts of an answer whose stream had none, from an unstreamed request."""
        # A token a chunk up to the bound: the answer's count is plain, the prompt's alone is not.
        bounded = answer.finish_reason == "length" and len(answer.pieces) == max_tokens
        body = self._body(prompt, 1 if bounded else max_tokens) | {"stream": False}
        del body["stream_options"]
        with _refusals(), self._client.stream("POST", self._path, json=body) as response:
            _check_status(response)
            text = _received(response)
        try:
            reply = json.loads(text, parse_constant=no_constant)
            usage, choice = dict(reply["usage"]), reply["choices"][0]
            said = choice["message"]["content"] if self.api == "chat" else choice["text"]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            shown = shortened(text.decode("utf-8", "replace"))
            raise RejectedRequest(
                Rejected.NO_USAGE, f"no token counts, streamed or not: {shown}"
            ) from None
        if bounded:
            return usage | {"completion_tokens": max_tokens}
        if said != "".join(answer.pieces):
            raise RejectedRequest(
                Rejected.NO_USAGE,
                "the stream has no token counts, and the same request unstreamed gave another "
                "answer: counts cannot be had",
            )
        return usage


@contextmanager
def _refusals() -> Iterator[None]:
    """Transport errors as refusals."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise RejectedRequest(Rejected.TIMEOUT, f"{type(error).__name__}: {error}") from error
    except httpx2.ConnectError as error:
        raise RejectedRequest(Rejected.UNREACHABLE, str(error)) from error
    except httpx2.HTTPError as error:
        raise RejectedRequest(Rejected.CUT_OFF, f"{type(error).__name__}: {error}") from error


def _received(response: httpx2.Response) -> bytes:
    """The body, up to a bound."""
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > MOST_BODY:
            break
    return b"".join(parts)[:MOST_BODY]


def _check_status(response: httpx2.Response) -> None:
    if response.status_code != 200:
        text = _received(response).decode("utf-8", "replace")
        raise RejectedRequest(Rejected.HTTP_ERROR, f"{response.status_code}: {shortened(text)}")
