"""Streams whose first content has come, so that what fails before it can be answered elsewhere.

In: a stream of an ``openai`` client. Out: the same chunks, and how the request was routed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from cr2fast.integrations.plan import Routed


class UnusableAnswerError(RuntimeError):
    """A server answered 200 with something that is no answer."""


def has_content(chunk: Any) -> bool:
    """Whether a chunk of a stream shows content, so that nothing can be switched after it.

    Raises
    ------
    UnusableAnswerError
        The chunk is an error.
    """
    kind = getattr(chunk, "type", None)
    if isinstance(kind, str):  # An event of the Responses API.
        if kind in ("error", "response.failed"):
            raise UnusableAnswerError(f"the stream began with an event {kind!r}")
        return kind.endswith((".delta", ".done", "response.completed", "response.incomplete"))
    if getattr(chunk, "error", None):
        raise UnusableAnswerError("the stream began with an error")
    for choice in getattr(chunk, "choices", None) or ():
        if getattr(choice, "finish_reason", None) or getattr(choice, "text", None):
            return True
        delta = getattr(choice, "delta", None)
        said = delta.model_dump(exclude_none=True, exclude={"role"}) if delta is not None else {}
        if any(value not in ("", [], {}) for value in said.values()):
            return True
    return False


class RoutedStream:
    """A stream of chunks, as ``openai.Stream``, of which the first with content has come.

    Attributes
    ----------
    cr2fast : Routed
    """

    def __init__(self, stream: Any, head: list[Any], routed: Routed) -> None:
        self._stream, self._head, self.cr2fast = stream, head, routed
        self._chunks = self._all()

    @classmethod
    def opened(cls, stream: Any, routed: Routed) -> RoutedStream:
        """Read up to the first content; whatever goes wrong until then is raised here."""
        head = []
        try:
            for chunk in stream:
                head.append(chunk)
                if has_content(chunk):
                    return cls(stream, head, routed)
        except BaseException:
            stream.close()
            raise
        raise UnusableAnswerError(f"the {routed.place}'s stream ended without content")

    def _all(self) -> Iterator[Any]:
        while self._head:
            yield self._head.pop(0)
        yield from self._stream

    def __iter__(self) -> Iterator[Any]:
        return self._chunks

    def __next__(self) -> Any:
        return next(self._chunks)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def __enter__(self) -> RoutedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def response(self) -> Any:
        """The HTTP response."""
        return self._stream.response


class AsyncRoutedStream:
    """A stream of chunks, as ``openai.AsyncStream``, of which the first with content has come.

    Attributes
    ----------
    cr2fast : Routed
    """

    def __init__(self, stream: Any, head: list[Any], routed: Routed) -> None:
        self._stream, self._head, self.cr2fast = stream, head, routed
        self._chunks = self._all()

    @classmethod
    async def opened(cls, stream: Any, routed: Routed) -> AsyncRoutedStream:
        """Read up to the first content; whatever goes wrong until then is raised here."""
        head = []
        try:
            async for chunk in stream:
                head.append(chunk)
                if has_content(chunk):
                    return cls(stream, head, routed)
        except BaseException:
            await stream.close()
            raise
        raise UnusableAnswerError(f"the {routed.place}'s stream ended without content")

    async def _all(self) -> AsyncIterator[Any]:
        while self._head:
            yield self._head.pop(0)
        async for chunk in self._stream:
            yield chunk

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._chunks

    async def __anext__(self) -> Any:
        return await self._chunks.__anext__()

    async def close(self) -> None:
        """Close the connection."""
        await self._stream.close()

    async def __aenter__(self) -> AsyncRoutedStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def response(self) -> Any:
        """The HTTP response."""
        return self._stream.response
