"""One request and its times; or why it does not count.

Every time is of the run's one clock. The *first chunk* is the first that carries content or
reasoning content: a chunk that only announces the role is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Rejected(str, Enum):
    """Why a request is not a measurement."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    HTTP_ERROR = "http_error"
    BUSY = "busy"
    ERROR_IN_200 = "error_in_200"
    MALFORMED = "malformed"
    CUT_OFF = "cut_off"
    EMPTY = "empty"
    NO_USAGE = "no_usage"
    BAD_USAGE = "bad_usage"
    IGNORED_MAX_TOKENS = "ignored_max_tokens"
    CACHED_PROMPT = "cached_prompt"
    TOO_SHORT = "too_short"


GONE = frozenset({Rejected.UNREACHABLE, Rejected.TIMEOUT, Rejected.CUT_OFF})
"""Reasons that a server which is not there gives."""


class RejectedRequest(Exception):  # noqa: N818 - a request that is refused a place, no fault of ours
    """A request that is counted, with its reason, and not fitted."""

    def __init__(self, reason: Rejected, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Exchange:
    """One answered request.

    Attributes
    ----------
    start_ns, first_ns, last_ns : int
        When it was sent, when the first chunk with content came, when the last one did. An answer
        whose tokens were all hidden (reasoning that nobody streams) has its end for both.
    end_ns : int
        When the server said that the answer is finished.
    aside_ns : int
        When the extra request ended that asked for the token counts, where the streamed answer
        had none; `last_ns` otherwise.
    n_input_tokens, n_output_tokens : int
        L_in and L_out as the server's usage counts them.
    n_chunks : int
        Chunks with content; a chunk may carry several tokens.
    n_arrivals : int
        Times at which content arrived: chunks that come together count once. A proxy that buffers
        makes one of many chunks.
    first_share : float
        The first chunk's share of the answer's characters.
    cached_tokens : int
        Prompt tokens that a prefix cache answered, where the server says so.
    reasoning_tokens : int or None
        Of the output tokens, those spent on reasoning, where the server says so.
    server_prefill_s, server_decode_s : float or None
        The server's own timings, where it offers them.
    finish_reason : str
        "length", "stop", ...
    text : str
        The answer.
    """

    start_ns: int
    first_ns: int
    last_ns: int
    end_ns: int
    aside_ns: int
    n_input_tokens: int
    n_output_tokens: int
    n_chunks: int
    n_arrivals: int
    first_share: float
    cached_tokens: int
    reasoning_tokens: int | None
    server_prefill_s: float | None
    server_decode_s: float | None
    finish_reason: str
    text: str


class Target(Protocol):
    """A model that can be profiled."""

    name: str

    def describe(self) -> dict[str, object]:
        """What goes into the run's provenance."""
        ...

    def generate(self, prompt: str, max_tokens: int) -> Exchange:
        """Ask once.

        Raises
        ------
        RejectedRequest
            The answer is no measurement.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
