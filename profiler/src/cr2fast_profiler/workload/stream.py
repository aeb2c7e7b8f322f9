"""The events of a streamed answer, as they come.

In: a response of 200. Out: the data of its server-sent events; or a refusal in words where it is no
stream. Bounded in time and in size; kept for its words where it ends without an end.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import httpx2

from cr2fast_profiler.clock import Clock, Ticker
from cr2fast_profiler.redact import printable
from cr2fast_profiler.workload import words
from cr2fast_profiler.workload.exchange import Rejected, RejectedRequest

MOST_CHARACTERS = 1 << 26
KEPT = 4096
QUICK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux's option against delayed acknowledgements; it holds for a while only."""
_FIELD = re.compile(r"(data|event|id|retry)?:|(data|event|id|retry)$|$")


class _Text:
    """A response whose text is given up at a deadline, and beyond a size."""

    def __init__(self, pieces: Iterator[str], response: httpx2.Response) -> None:
        self._pieces = pieces
        self.headers = httpx2.Headers({"content-type": "text/event-stream"})
        self.request = response.request

    def iter_text(self) -> Iterator[str]:
        return self._pieces


class Stream:
    """One streamed response.

    Parameters
    ----------
    response : httpx2.Response
        Of status 200, its body unread.
    clock : Clock
        What its events are timed by.
    deadline_ns : int
        When it is given up.
    scrub : callable
        Takes secrets out of words.
    """

    def __init__(
        self,
        response: httpx2.Response,
        clock: Clock,
        deadline_ns: int,
        scrub: Callable[[str], str],
    ) -> None:
        self._response, self._clock, self._scrub = response, clock, scrub
        self._deadline_ns = deadline_ns
        self._kept = ""
        self._ticker: Ticker | None = None

    def _pieces(self) -> Iterator[str]:
        size = 0
        self._acknowledge()
        for piece in self._response.iter_text():
            self._acknowledge()
            if size == 0:
                piece = piece.removeprefix("\ufeff")
            size += len(piece)
            if self._clock() > self._deadline_ns:
                raise RejectedRequest(Rejected.TIMEOUT, "the answer goes on beyond --timeout-s")
            if size > MOST_CHARACTERS:
                raise RejectedRequest(Rejected.MALFORMED, f"over {MOST_CHARACTERS} characters")
            self._kept = (self._kept + piece)[-KEPT:]
            yield piece

    def events(self) -> Iterator[tuple[int, str]]:
        """(time, data) of each event.

        Raises
        ------
        RejectedRequest
            It is no stream of events.
        """
        kind = self._response.headers.get("content-type", "").partition(";")[0].strip().lower()
        pieces = self._pieces()
        if kind != "text/event-stream":
            first = ""
            while not first.strip() and (piece := next(pieces, None)) is not None:
                first += piece
            if not re.match(r"\s*((data|event|id|retry)?:)", first):
                self._no_stream(kind, first + "".join(pieces))
            pieces = chain([first], pieces)
        source = httpx2.EventSource(_Text(pieces, self._response), MOST_CHARACTERS)  # type: ignore[arg-type]
        for event in source:
            # An event of another name may be a ping; its data, if any, says.
            if event.data:
                yield self._clock(), self._scrub(event.data)

    def _no_stream(self, kind: str, body: str) -> None:
        body = self._scrub(body)
        try:
            value: Any = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and words.is_error(value):
            raise RejectedRequest(Rejected.ERROR_IN_200, words.said(body))
        if isinstance(value, dict) and "choices" in value:
            raise RejectedRequest(
                Rejected.MALFORMED,
                "the answer came in one piece, not as a stream: times within it cannot be "
                "measured; let the server stream",
            )
        raise RejectedRequest(
            Rejected.MALFORMED,
            f"expected text/event-stream, got {printable(kind, 60) or 'nothing'}: "
            f"{words.said(body)}",
        )

    def unfinished(self) -> RejectedRequest | None:
        """What the stream said outside its events, where it ended without an end."""
        lines = [x for x in re.split(r"\r\n|\n|\r", self._kept) if not _FIELD.match(x)]
        # The first line kept may be the rest of one whose beginning was dropped.
        lines = lines[1:] if len(self._kept) == KEPT else lines
        if not lines:
            return None
        text = self._scrub("\n".join(lines)).removeprefix("error:").strip()
        error = "error" in self._kept.lower()
        reason = Rejected.ERROR_IN_200 if error else Rejected.CUT_OFF
        return RejectedRequest(reason, f"the stream broke off: {words.said(text)}")

    def hang_up_in(self, seconds: float) -> None:
        """End the connection if the server has not ended the stream by then."""
        self.stop()
        self._ticker = self._clock.every(seconds, self._hang_up)

    def _connection(self) -> Any:
        network = self._response.extensions.get("network_stream")
        return network.get_extra_info("socket") if network is not None else None

    def _acknowledge(self) -> None:
        """Acknowledge what came at once: a server that waits for it would seem slow by 40 ms."""
        if QUICK is not None and (connection := self._connection()) is not None:
            with suppress(OSError, ValueError):
                connection.setsockopt(socket.IPPROTO_TCP, QUICK, 1)

    def _hang_up(self) -> None:
        if (connection := self._connection()) is not None:
            with suppress(OSError, ValueError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def closing(self) -> bool:
        """Whether what matters has come, and only the end is waited for."""
        return self._ticker is not None

    def stop(self) -> None:
        """Call the hang-up off."""
        if self._ticker is not None:
            self._ticker.stop()
