"""An OpenAI-compatible streaming endpoint: llama.cpp's server, Ollama, vLLM and their like.

In: a prompt. Out: an :class:`Exchange`. Tokens come from the server's ``usage`` alone (a chunk is
not a token). A server that streams no usage is asked once more, unstreamed and outside the times;
the answer must be the same. A request the server cut short, or answered with an error inside a
200, is refused with its reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.workload.exchange import Clock, Exchange, Rejected, RejectedRequest

_SHOWN = 200
_REASONING = ("content", "reasoning_content", "reasoning")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


class Answer:
    """Collects the events of one streamed answer."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.pieces: list[str] = []
        self.usage: dict[str, Any] | None = None
        self.timings: dict[str, Any] = {}
        self.finish_reason: str | None = None

    def add(self, data: str, now_ns: int) -> None:
        """Take one event's data in."""
        try:
            event = json.loads(data)
        except ValueError as error:
            raise RejectedRequest(Rejected.MALFORMED, f"not JSON: {_short(data)!r}") from error
        if not isinstance(event, dict):
            raise RejectedRequest(Rejected.MALFORMED, f"expected an object: {_short(data)!r}")
        if event.get("error"):
            raise RejectedRequest(Rejected.ERROR_IN_200, _short(json.dumps(event["error"])))
        for name in ("usage", "timings"):
            if isinstance(event.get(name), dict):
                setattr(self, name, event[name])
        choices = event.get("choices") or []
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, dict):
            raise RejectedRequest(Rejected.MALFORMED, f"a choice is no object: {_short(data)!r}")
        piece = self._piece(choice)
        if piece:
            self.times.append(now_ns)
            self.pieces.append(piece)
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])

    @staticmethod
    def _piece(choice: dict[str, Any]) -> str:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            return "".join(str(delta[k]) for k in _REASONING if isinstance(delta.get(k), str))
        return choice["text"] if isinstance(choice.get("text"), str) else ""

    def finished(self) -> None:
        """Refuse an answer that has no end or no content."""
        if self.finish_reason is None:
            raise RejectedRequest(
                Rejected.CUT_OFF, f"the stream ended after {len(self.pieces)} chunks, unfinished"
            )
        if not self.pieces:
            raise RejectedRequest(Rejected.EMPTY, "the answer has no content")

    def exchange(self, start_ns: int, max_tokens: int, aside_ns: int | None = None) -> Exchange:
        """The whole, checked."""
        self.finished()
        usage = self.usage or {}
        n_in, n_out = (_number(usage.get(k)) for k in ("prompt_tokens", "completion_tokens"))
        if not n_in or not n_out:
            raise RejectedRequest(
                Rejected.NO_USAGE, f"no token counts in the answer (usage: {self.usage})"
            )
        if n_out > max_tokens:
            raise RejectedRequest(
                Rejected.IGNORED_MAX_TOKENS, f"asked for {max_tokens} tokens, got {n_out:.0f}"
            )
        text = "".join(self.pieces)
        prefill, decode = (_number(self.timings.get(k)) for k in ("prompt_ms", "predicted_ms"))
        return Exchange(
            start_ns=start_ns,
            first_ns=self.times[0],
            last_ns=self.times[-1],
            aside_ns=self.times[-1] if aside_ns is None else aside_ns,
            n_input_tokens=int(n_in),
            n_output_tokens=int(n_out),
            n_chunks=len(self.pieces),
            first_share=len(self.pieces[0]) / len(text),
            cached_tokens=self._cached(usage),
            server_prefill_s=None if prefill is None else prefill * 1e-3,
            server_decode_s=None if decode is None else decode * 1e-3,
            finish_reason=str(self.finish_reason),
            text=text,
        )

    def _cached(self, usage: dict[str, Any]) -> int:
        details = usage.get("prompt_tokens_details")
        said = details.get("cached_tokens") if isinstance(details, dict) else None
        return int(_number(said) or _number(self.timings.get("cache_n")) or 0)


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
    clock : callable
        Nanoseconds, monotonic.
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
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        if api not in ("chat", "completions"):
            raise EndpointError(f"api: expected 'chat' or 'completions', got {api!r}")
        base = url.rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise EndpointError(f"url: expected http://... or https://..., got {url!r}")
        self.url = base if base.endswith("/v1") else base + "/v1"
        self.api, self.timeout_s, self.clock = api, timeout_s, clock
        self.extra = dict(extra or {})
        headers = {"Accept-Encoding": "identity"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        # No proxy from the environment: its time would be measured as the model's.
        self._client = httpx2.Client(
            headers=headers, trust_env=False, timeout=httpx2.Timeout(timeout_s, connect=10.0)
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
            response = self._client.get(self.url + "/models", timeout=10.0)
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
            data = response.json()["data"]
            return [str(m["id"]) for m in data]
        except (ValueError, KeyError, TypeError):
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

    def _events(self, response: httpx2.Response) -> Iterator[str]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            body = response.read()[:_SHOWN].decode("utf-8", "replace")
            if '"error"' in body:
                raise RejectedRequest(Rejected.ERROR_IN_200, body)
            raise RejectedRequest(
                Rejected.MALFORMED, f"expected text/event-stream, got {kind or 'nothing'}: {body}"
            )
        for event in httpx2.EventSource(response):
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
            for data in self._events(response):
                now_ns = self.clock()
                if now_ns > deadline_ns:
                    raise RejectedRequest(Rejected.TIMEOUT, f"over {self.timeout_s:g} s")
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
        # An answer that ran into its bound has just that many tokens; only the prompt is counted.
        bounded = answer.finish_reason == "length"
        body = self._body(prompt, 1 if bounded else max_tokens) | {"stream": False}
        del body["stream_options"]
        with _refusals():
            response = self._client.post(self._path, json=body)
            _check_status(response)
        try:
            reply = response.json()
            usage, choice = dict(reply["usage"]), reply["choices"][0]
            said = choice["message"]["content"] if self.api == "chat" else choice["text"]
        except (ValueError, KeyError, TypeError, IndexError):
            raise RejectedRequest(
                Rejected.NO_USAGE,
                f"no token counts, streamed or not: {_short(response.text)}",
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


def _check_status(response: httpx2.Response) -> None:
    if response.status_code != 200:
        text = response.read().decode("utf-8", "replace")
        raise RejectedRequest(Rejected.HTTP_ERROR, f"{response.status_code}: {_short(text)}")
