"""An OpenAI-compatible streaming endpoint: llama.cpp's server, Ollama, vLLM and their like.

In: a prompt. Out: an :class:`Exchange`. Tokens come from the server's ``usage`` alone (a chunk is
not a token). A server that streams no usage is asked once more, unstreamed and outside the times;
the answer must be the same. A request the server cut short, or answered with an error inside a
200, is refused with its reason. One that is loading or busy is waited for.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
from tqdm import tqdm

from cr2fast_profiler.clock import SYSTEM, Clock
from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.redact import Secrets, printable, safe_fields, safe_url
from cr2fast_profiler.workload import words
from cr2fast_profiler.workload.address import Address
from cr2fast_profiler.workload.answer import Answer, no_constant
from cr2fast_profiler.workload.connection import BUSY, Connection, Stale, check_headers
from cr2fast_profiler.workload.exchange import Exchange, Rejected, RejectedRequest
from cr2fast_profiler.workload.fields import Fields
from cr2fast_profiler.workload.stream import Stream

LIST_S = 10.0
GRACE_S = 0.25
"""A stream that is complete is given so long to end."""
LATE_S = 5.0
"""After the finish reason, the usage is waited for so long."""
NAMED = 8
"""Models of a list that a message names."""


def _tell(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


class Endpoint:
    """A model behind an OpenAI-compatible endpoint.

    Parameters
    ----------
    url : str
        Base URL, with or without ``/v1``, or the whole URL of the call.
    model : str or None
        Its name there; None takes the only one the server lists.
    api : {"chat", "completions"} or None
        Which of the two calls; None takes the one that the URL names, else "chat".
    api_key : str or None
        Sent as a bearer token.
    headers : dict
        More headers, such as ``{"api-key": key}``: secret, and sent to this host alone.
    extra : dict
        More fields of the request, such as ``{"ignore_eos": true}``.
    timeout_s : float
        Bound on one request, from first byte sent to last received.
    wait_s : float
        How long a server that is loading or busy (503, 429) is waited for.
    ca_file : str or None
        Certificates to trust besides the system's.
    clock : Clock
        What requests are timed by and waits are waited on.
    transport : httpx2.BaseTransport, optional
        Carries requests in place of sockets: a simulated server's.
    tell : callable
        Says what is waited for; by default on standard error.

    Attributes
    ----------
    name : str
        The model.
    url : str
        Where the API is, without credentials.
    notes : tuple of str
        What a reader of the measurement must know of this server.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: dict[str, object] | None = None,
        timeout_s: float = 300.0,
        wait_s: float = 600.0,
        ca_file: str | None = None,
        clock: Clock = SYSTEM,
        transport: httpx2.BaseTransport | None = None,
        tell: Callable[[str], None] = _tell,
    ) -> None:
        if api not in (None, "chat", "completions"):
            raise EndpointError(f"api: expected 'chat' or 'completions', got {api!r:.60}")
        address = Address.parse(url)
        sent = check_headers(headers or {})
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise EndpointError("api key: expected printable ASCII; is there a line end in it?")
        keys = [f"Bearer {api_key}" if api_key else None, address.basic]
        keys += [v for k, v in sent.items() if k.lower() == "authorization"]
        if len(found := [k for k in keys if k]) > 1:
            raise EndpointError(
                "two keys for one header, Authorization: give one of the API key, the header, and "
                "the user and password in the URL"
            )
        if found:
            sent = {k: v for k, v in sent.items() if k.lower() != "authorization"}
            sent["Authorization"] = found[0]
        self.extra = dict(extra or {})
        values = [*address.secrets, *sent.values(), *(v.split(" ")[-1] for v in sent.values())]
        self._secrets = Secrets([*values, api_key or ""], self.extra)
        self.api = api or address.api or "chat"
        self.timeout_s, self.clock = timeout_s, clock
        self._bases = list(address.bases)
        fields = Fields(self.api, "", self.extra)
        self._http = Connection(
            address.bases[0],
            sent,
            address.query,
            timeout_s=timeout_s,
            wait_s=wait_s,
            clock=clock,
            tell=lambda text: tell(f"{safe_url(url)}: {self._secrets.scrub(text)}"),
            scrub=self._secrets.scrub,
            transport=transport,
            ca_file=ca_file,
        )
        self._late_s = LATE_S
        self._fields_notes: list[str] = []
        try:
            self.name = self._resolve(model, address.deployment)
        except (EndpointError, RejectedRequest) as error:
            self.close()
            said = error.detail if isinstance(error, RejectedRequest) else str(error)
            if isinstance(error, RejectedRequest):
                said = f"{self.url}: {said}"
            raise EndpointError(self._secrets.scrub(said)) from None
        fields.model = self.name
        self._fields = fields

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def url(self) -> str:
        """Where the API is, without credentials."""
        return safe_url(self._bases[0])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the measurement must know of this server."""
        http = self._http
        notes = [*http.notes, *self._fields_notes]
        if http.waits:
            notes.append(
                f"the server was busy or not ready {http.waits} times: {http.waited_s:.1f} s were "
                "waited, outside the times"
            )
        return tuple(notes)

    def describe(self) -> dict[str, object]:
        """Endpoint, model and call; nothing secret."""
        return {"kind": "endpoint", "url": self.url, "model": self.name, "api": self.api} | (
            {"extra": safe_fields(self.extra)} if self.extra else {}
        )

    def models(self) -> list[str]:
        """Names the server lists; empty where it lists none.

        The base whose list answers comes to stand first.
        """
        told = ""
        for base in tuple(self._bases):
            status, text = self._list(base)
            names = _names(text) if status == 200 else None
            if names is not None:
                self._bases.remove(base)
                self._bases.insert(0, base)
                return names
            told = told or f"{status}: {words.said(text)}"
        self._no_list = told
        return []

    def _list(self, base: str) -> tuple[int, str]:
        patience = self._http.patience()
        while True:
            with self._http.open("GET", base + "/models", timeout=LIST_S) as response:
                status = response.status_code
                if status in BUSY:
                    self._http.wait(response, patience)
                    continue
                if status in (401, 407):
                    raise EndpointError(f"{safe_url(base)} answers {self._http.refusal(response)}")
                if status == 403:
                    return status, self._http.refusal(response)
                return status, self._http.body(response)

    def _resolve(self, model: str | None, deployment: str | None) -> str:
        self._no_list = ""
        listed = self.models()
        if model is None and deployment is not None:
            return deployment
        if model is None:
            if len(listed) == 1:
                return listed[0]
            if listed:
                raise EndpointError(f"{self.url} lists {_some(listed)}: name one by --model")
            raise EndpointError(
                f"{self.url} lists no models ({self._no_list or 'an empty list'}): is this where "
                "the API is? If so, name the model by --model"
            )
        if listed and model not in listed and f"{model}:latest" not in listed:
            near = difflib.get_close_matches(model, listed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise EndpointError(
                f"{self.url} has no model {model!r:.100}; it lists {_some(listed)}{hint}"
            )
        return model

    def generate(self, prompt: str, max_tokens: int) -> Exchange:
        """Ask once, streaming.

        Parameters
        ----------
        prompt : str
            The user's turn.
        max_tokens : int
            Bound on the answer, tokens.
        """
        try:
            return self._generate(prompt, max_tokens)
        except RejectedRequest as refusal:
            scrubbed = self._secrets.scrub(refusal.detail)
            raise RejectedRequest(refusal.reason, scrubbed) from None

    def _generate(self, prompt: str, max_tokens: int) -> Exchange:
        patience = self._http.patience()
        first, stale = "", False
        while True:
            answer = Answer()
            body = self._fields.body(prompt, max_tokens)
            start_ns = self.clock()
            try:
                with self._http.open("POST", self._path, body) as response:
                    if response.status_code != 200:
                        first = self._otherwise(response, patience, first)
                        continue
                    deadline_ns = start_ns + int(self.timeout_s * 1e9)
                    self._collect(response, answer, deadline_ns)
                break
            except Stale:
                if stale:
                    raise
                stale = True
        self._fields_notes += self._fields.answered()
        answer.finished()
        if answer.usage is not None:
            return answer.exchange(start_ns, max_tokens)
        answer.usage = self._count(prompt, max_tokens, answer)
        return answer.exchange(start_ns, max_tokens, self.clock())

    @property
    def _path(self) -> str:
        return self._bases[0] + ("/chat/completions" if self.api == "chat" else "/completions")

    def _otherwise(self, response: httpx2.Response, patience: Any, first: str) -> str:
        """Wait, or change what is asked; the first refusal's words are kept.

        Raises
        ------
        RejectedRequest
            There is nothing to ask otherwise.
        """
        if response.status_code in BUSY:
            self._http.wait(response, patience)
            return first
        text = self._http.body(response)
        there = self._http.redirected(response)
        refusal = words.of_status(response.status_code, text, self._http.key_header, there)
        if response.status_code in (404, 405) and len(self._bases) > 1:
            self._bases.pop(0)
            return first or refusal
        if self._fields.adapt(response.status_code, text):
            return first or refusal
        self._fields.refused()
        raise RejectedRequest(Rejected.HTTP_ERROR, first or refusal)

    def _collect(self, response: httpx2.Response, answer: Answer, deadline_ns: int) -> None:
        """Take the events in, until the answer is complete and the stream has ended."""
        stream = Stream(response, self.clock, deadline_ns, self._http.scrub)
        complete = False
        grace_s: float | None = None
        try:
            for now_ns, data in stream.events():
                if data.strip() == "[DONE]":
                    complete = True
                elif not (complete and answer.finish_reason and answer.usage):
                    answer.add(data, now_ns)
                complete = complete or bool(answer.finish_reason and answer.usage)
                # Read to its end, so that the next request finds the connection open.
                wanted_s = GRACE_S if complete else self._late_s if answer.finish_reason else None
                if wanted_s is not None and wanted_s != grace_s:
                    grace_s = wanted_s
                    stream.hang_up_in(wanted_s)
        except (httpx2.HTTPError, OSError, ValueError):
            if not stream.closing:
                raise
        finally:
            stream.stop()
        if answer.finish_reason and not complete:
            self._late_s = GRACE_S
        if answer.finish_reason is None and (told := stream.unfinished()):
            raise told

    def _count(self, prompt: str, max_tokens: int, answer: Answer) -> dict[str, Any]:
        """Token counts of an answer whose stream had none, from an unstreamed request."""
        # A token a chunk up to the bound: the answer's count is plain, the prompt's alone is not.
        bounded = answer.finish_reason == "length" and len(answer.pieces) == max_tokens
        patience, first = self._http.patience(), ""
        while True:
            body = self._fields.body(prompt, 1 if bounded else max_tokens, stream=False)
            with self._http.open("POST", self._path, body) as response:
                text = ""
                if response.status_code == 200:
                    text = self._http.body(response)
                    break
                first = self._otherwise(response, patience, first)
        try:
            reply = json.loads(text, parse_constant=no_constant)
            usage, choice = dict(reply["usage"]), reply["choices"][0]
            said = choice["message"]["content"] if self.api == "chat" else choice["text"]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise RejectedRequest(
                Rejected.NO_USAGE, f"no token counts, streamed or not: {words.said(text)}"
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


def _names(text: str) -> list[str] | None:
    """Names of a list of models, in the shapes that servers have; None where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = value.get("data", value.get("models"))
    if not isinstance(value, list):
        return None
    found = [m if isinstance(m, str) else _name(m) for m in value]
    return [n for n in found if n]


def _name(model: Any) -> str:
    named = [model.get(k) for k in ("id", "name", "model")] if isinstance(model, dict) else []
    return next((n for n in named if isinstance(n, str)), "")


def _some(names: list[str]) -> str:
    shown = [printable(n, 80) for n in names[:NAMED]]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{shown}{more}"
