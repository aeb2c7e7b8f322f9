"""Two ``openai`` clients as one: each request goes to the device's server or to the edge's.

In: two clients, a router and its encoder. Out: :class:`RoutedOpenAI` or :class:`AsyncRoutedOpenAI`,
which are called as either client is: ``chat.completions.create``, ``completions.create``,
``responses.create``, streamed or not. Answers are the clients' own objects, with one attribute
more: ``cr2fast``, which says where the answer was made and why.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple, TypeVar

from cr2fast._core import Cr2Error
from cr2fast._util.optional import require
from cr2fast.integrations import asked, texts
from cr2fast.integrations.plan import Hop, Planner, Routed
from cr2fast.integrations.streams import AsyncRoutedStream, RoutedStream, UnusableAnswerError

__all__ = ["AsyncRoutedOpenAI", "Routed", "RoutedOpenAI", "UnusableAnswerError"]

# 4xx that another server may not give.
_ELSEWHERE = (401, 403, 408, 429)


class _Kind(NamedTuple):
    """One of the endpoints: where it hangs on a client, and the argument with its texts."""

    path: str
    texts: str


_CHAT = _Kind("chat.completions", "messages")
_COMPLETION = _Kind("completions", "prompt")
_RESPONSE = _Kind("responses", "input")
C = TypeVar("C", bound="_Client")
_READ = {
    _CHAT: texts.of_chat,
    _COMPLETION: texts.of_completion,
    _RESPONSE: texts.of_response,
}
# What of a request may be an iterator, which is read twice: here, and by the client.
_LISTS = ("messages", "input", "tools", "functions")


class _Client:
    """What the two clients share."""

    _other: str
    _mine: str

    def __init__(
        self,
        device: Any,
        edge: Any,
        *,
        router: Any,
        encoder: Any,
        lam: float,
        alpha: float | None = None,
        **options: Any,
    ) -> None:
        library = require("openai", "openai")
        for name, client in (("device", device), ("edge", edge)):
            if not isinstance(client, getattr(library, self._mine)):
                raise TypeError(
                    f"{name}: expected an openai.{self._mine} client, got "
                    f"{type(client).__name__}"
                    + (
                        f"; {self._other} is for those"
                        if isinstance(client, (library.OpenAI, library.AsyncOpenAI))
                        else ""
                    )
                )
        self.device, self.edge = device, edge
        self._errors = library
        self._planner = Planner(router, encoder, lam, alpha, **options)

    def _prepare(
        self, kind: _Kind, kwargs: dict[str, Any]
    ) -> tuple[asked.Wish, texts.Asked, dict[str, Any]]:
        """The wish, the texts, and the arguments that are passed on."""
        rest = dict(kwargs)
        if "model" not in rest:
            raise TypeError(f"model: expected {asked.NAME!r} or a model's name, got none")
        wish, headers = asked.wish(rest.pop("model"), rest.pop("extra_headers", None))
        if headers:
            rest["extra_headers"] = headers
        rest |= {k: list(rest[k]) for k in _LISTS if isinstance(rest.get(k), Iterator)}
        if wish.model is None:
            _check_asks(kind, rest)
        return wish, _READ[kind](_with_schemas(rest)), rest

    def _call(self, hop: Hop, kind: _Kind, method: str) -> Any:
        """The method of the client of a hop's place."""
        found = self.device if hop.place == "device" else self.edge
        for name in (*kind.path.split("."), method):
            found = getattr(found, name)
        return found

    def _failed(self, error: Exception) -> bool:
        """Whether another server may do better: no answer, a server's error, garbage."""
        if isinstance(error, self._errors.APIStatusError):
            status = int(error.status_code)
            return status >= 500 or status in _ELSEWHERE
        library = type(error).__module__.partition(".")[0]
        return isinstance(
            error, (self._errors.APIError, UnusableAnswerError, json.JSONDecodeError)
        ) or library.startswith(("httpx", "httpcore"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("device", "edge"):
            raise AttributeError(name)
        raise AttributeError(
            f"{type(self).__name__} routes chat.completions, completions and responses, and has no "
            f"{name!r}; use .device.{name} or .edge.{name}"
        )


class _Resource:
    """``create`` and ``parse`` of one endpoint, routed."""

    def __init__(self, client: Any, kind: _Kind) -> None:
        self._client, self._kind = client, kind

    def create(self, **kwargs: Any) -> Any:
        """As the client's own, with ``model="cr2fast"``, a point or a model's name."""
        return self._client._run(self._kind, "create", kwargs)

    def parse(self, **kwargs: Any) -> Any:
        """As the client's own, routed."""
        return self._client._run(self._kind, "parse", kwargs)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self._kind.path} is routed for create and parse, not {name!r}; use "
            f".device.{self._kind.path} or .edge.{self._kind.path} for it"
        )


class _Chat:
    def __init__(self, client: Any) -> None:
        self.completions = _Resource(client, _CHAT)


class RoutedOpenAI(_Client):
    """A device's and an edge's ``openai.OpenAI`` client as one.

    Parameters
    ----------
    device, edge : openai.OpenAI
        With their base URLs, keys, timeouts. Set ``max_retries=0`` for a failover without delay.
    router : Router or path
        Calibrated.
    encoder : Encoder or StaticEncoder
        The router's; messages are embedded as :mod:`cr2fast.encoders.messages` does.
    lam : float
        Cost weight of requests that name none.
    alpha : float, optional
        Their risk level.
    **options
        `models`, `available`, `edge_model`, `state`, `not_text`, `group`, as of
        :class:`cr2fast.integrations.plan.Planner`.

    Notes
    -----
    ``model="cr2fast"`` is routed, ``"cr2fast:lam=0.3,alpha=0.02"`` at that point, and a model's
    name goes there. ``extra_headers`` take the gateway's: ``x-cr2fast-lam``, ``-alpha``,
    ``-max-latency-ms``, ``-max-energy-j``, ``-max-usd``; they are not sent on.

    Where the chosen server is unreachable, times out, answers 5xx, 429, 401, 403 or 408, or
    something that is no answer, before the first content, the other place answers. After the first
    content nothing is switched: the error is raised.

    Tokens are counted as the gateway counts them: of every turn, of calls of tools, and of the JSON
    of ``tools``, ``functions``, ``documents`` and a schema for the answer.

    Examples
    --------
    >>> client = RoutedOpenAI(
    ...     OpenAI(base_url="http://127.0.0.1:8081/v1", api_key="-", max_retries=0),
    ...     OpenAI(base_url="http://edge:8000/v1", max_retries=0),
    ...     router="router.safetensors", encoder=encoder, lam=1.0,
    ... )  # doctest: +SKIP
    >>> answer = client.chat.completions.create(
    ...     model="cr2fast", messages=[{"role": "user", "content": "Who wrote Hamlet?"}]
    ... )  # doctest: +SKIP
    >>> answer.cr2fast.place, answer.cr2fast.why  # doctest: +SKIP
    ('device', 'accepted')
    """

    _mine, _other = "OpenAI", "AsyncRoutedOpenAI"

    @property
    def chat(self) -> _Chat:
        """``chat.completions.create`` and ``parse``."""
        return _Chat(self)

    @property
    def completions(self) -> _Resource:
        """``completions.create``."""
        return _Resource(self, _COMPLETION)

    @property
    def responses(self) -> _Resource:
        """``responses.create`` and ``parse``."""
        return _Resource(self, _RESPONSE)

    def with_options(self, **options: Any) -> RoutedOpenAI:
        """The same, with both clients' ``with_options``."""
        return _with(self, options)

    def close(self) -> None:
        """Close both clients."""
        self.device.close()
        self.edge.close()

    def __enter__(self) -> RoutedOpenAI:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, kind: _Kind, method: str, kwargs: dict[str, Any]) -> Any:
        wish, texts, rest = self._prepare(kind, kwargs)
        first: Exception | None = None
        for hop in self._planner.hops(wish, self._planner.encode(texts)):
            try:
                answer = self._call(hop, kind, method)(model=hop.served, **rest)
                if rest.get("stream"):
                    return RoutedStream.opened(answer, hop.routed)
                return _labelled(kind, answer, hop.routed)
            except Exception as error:  # noqa: PERF203 - two rounds at most
                if not self._failed(error):
                    raise
                if first is not None:
                    raise error from first
                first = error
        assert first is not None
        raise first


class AsyncRoutedOpenAI(_Client):
    """A device's and an edge's ``openai.AsyncOpenAI`` client as one; as :class:`RoutedOpenAI`."""

    _mine, _other = "AsyncOpenAI", "RoutedOpenAI"

    @property
    def chat(self) -> _Chat:
        """``chat.completions.create`` and ``parse``."""
        return _Chat(self)

    @property
    def completions(self) -> _Resource:
        """``completions.create``."""
        return _Resource(self, _COMPLETION)

    @property
    def responses(self) -> _Resource:
        """``responses.create`` and ``parse``."""
        return _Resource(self, _RESPONSE)

    def with_options(self, **options: Any) -> AsyncRoutedOpenAI:
        """The same, with both clients' ``with_options``."""
        return _with(self, options)

    async def close(self) -> None:
        """Close both clients."""
        await self.device.close()
        await self.edge.close()

    async def __aenter__(self) -> AsyncRoutedOpenAI:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, kind: _Kind, method: str, kwargs: dict[str, Any]) -> Any:
        wish, texts, rest = self._prepare(kind, kwargs)
        encode = self._planner.encode
        encoded = encode(texts) if self._planner.quick else await asyncio.to_thread(encode, texts)
        first: Exception | None = None
        for hop in self._planner.hops(wish, encoded):
            try:
                answer = await self._call(hop, kind, method)(model=hop.served, **rest)
                if rest.get("stream"):
                    return await AsyncRoutedStream.opened(answer, hop.routed)
                return _labelled(kind, answer, hop.routed)
            except Exception as error:  # noqa: PERF203 - two rounds at most
                if not self._failed(error):
                    raise
                if first is not None:
                    raise error from first
                first = error
        assert first is not None
        raise first


def _with(client: C, options: dict[str, Any]) -> C:
    out = copy(client)
    out.device = client.device.with_options(**options)
    out.edge = client.edge.with_options(**options)
    return out


def _check_asks(kind: _Kind, fields: dict[str, Any]) -> None:
    """A routed request asks something, as of the gateway's 400 ``input_missing``."""
    elsewhere = {_COMPLETION: "prompt_embeds", _RESPONSE: "prompt"}.get(kind, "")
    extra = fields.get("extra_body") or {}
    if any(f.get(elsewhere) is not None for f in (fields, extra)):
        return
    value = fields.get(kind.texts, extra.get(kind.texts))
    if isinstance(value, str) and kind is not _CHAT:
        return
    if isinstance(value, (list, tuple)):
        if value:
            return
        got = "an empty list"
    else:
        got = "none" if value is None else f"another kind of value: {type(value).__name__}"
    expected = {
        _CHAT: "a list of at least one message",
        _COMPLETION: "a text, or a list of at least one",
        _RESPONSE: "a text, or a list of at least one item",
    }[kind]
    raise Cr2Error(f"{kind.texts}: expected {expected}, got {got}")


def _with_schemas(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the schema of a class that ``parse`` makes of its answer."""
    out = dict(fields)
    if isinstance(out.get("response_format"), type):
        out["response_format"] = {
            "type": "json_schema",
            "json_schema": _schema(out["response_format"]),
        }
    if isinstance(out.get("text_format"), type):
        out["text"] = {"format": {"type": "json_schema", **_schema(out["text_format"])}}
    return out


def _schema(answer: type) -> dict[str, Any]:
    try:
        tool = require("openai", "openai").pydantic_function_tool(answer)["function"]
    except Exception:  # No class of pydantic's: the client itself says so.
        return {}
    return {"name": tool["name"], "schema": tool["parameters"], "strict": True}


def _labelled(kind: _Kind, answer: Any, routed: Routed) -> Any:
    """The answer, with how it was routed; an error where it is none."""
    if kind is _RESPONSE:
        good = isinstance(getattr(answer, "output", None), list)
        good = good and getattr(answer, "status", None) != "failed"
    else:
        good = bool(getattr(answer, "choices", None)) and isinstance(answer.choices, list)
    if not good:
        raise UnusableAnswerError(
            f"expected an answer of {kind.path} from the {routed.place}, got status 200 with none"
        )
    # Beside the model's fields, so that what is dumped stays what the server sent.
    object.__setattr__(answer, "cr2fast", routed)
    return answer
