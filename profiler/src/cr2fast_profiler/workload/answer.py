"""What the events of one streamed answer say.

In: each event's data and when it came. Out: an :class:`Exchange`, or :class:`RejectedRequest` where
the answer is an error, has no end, no content or no token counts.
"""

from __future__ import annotations

import itertools
import json
import operator
from typing import Any

from cr2fast_profiler.redact import printable
from cr2fast_profiler.workload import words
from cr2fast_profiler.workload.exchange import Exchange, Rejected, RejectedRequest

MOST_TOKENS = 10_000_000
_REASONING = ("content", "reasoning_content", "reasoning")


def _seconds(value: Any) -> float | None:
    """Milliseconds a server said, in s; None where it said none that can be."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return value * 1e-3
    return None


def _tokens(value: Any, what: str) -> int | None:
    """A token count; None where there is none.

    Raises
    ------
    RejectedRequest
        It is there and is no count.
    """
    if value is None:
        return None
    try:
        whole = operator.index(value)
    except TypeError:
        whole = int(value) if isinstance(value, float) and value.is_integer() else -1
    if isinstance(value, bool) or not 0 <= whole <= MOST_TOKENS:
        raise RejectedRequest(
            Rejected.BAD_USAGE, f"{what}: expected a whole number of tokens, got {value!r:.60}"
        )
    return whole


def no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser takes for JSON."""
    raise ValueError(f"{name} is no JSON")


def _arrivals(times_ns: list[int]) -> int:
    """Chunks that came apart from the one before: later by a quarter of the mean gap."""
    if len(times_ns) < 2:
        return len(times_ns)
    apart = (times_ns[-1] - times_ns[0]) / (len(times_ns) - 1) / 4
    return 1 + sum(b - a > apart for a, b in itertools.pairwise(times_ns))


def _text(content: Any) -> str:
    """Content as text: a string, or parts that have some."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p for p in content if isinstance(p, dict)]
        return "".join(_text(p.get("text") or p.get("thinking")) for p in parts)
    return ""


class Answer:
    """Collects the events of one streamed answer."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.pieces: list[str] = []
        self.usage: dict[str, Any] | None = None
        self.timings: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self.end_ns = 0

    def add(self, data: str, now_ns: int) -> None:
        """Take one event's data in."""
        try:
            event = json.loads(data, parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            raise RejectedRequest(Rejected.MALFORMED, f"not JSON: {printable(data)!r}") from error
        if not isinstance(event, dict):
            raise RejectedRequest(Rejected.MALFORMED, f"expected an object: {printable(data)!r}")
        if words.is_error(event):
            raise RejectedRequest(Rejected.ERROR_IN_200, words.said(data))
        groq = event.get("x_groq")
        for source in (groq if isinstance(groq, dict) else {}, event):
            for name in ("usage", "timings"):
                if isinstance(source.get(name), dict):
                    setattr(self, name, source[name])
        choices = event.get("choices") or []
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, dict):
            raise RejectedRequest(Rejected.MALFORMED, f"a choice is no object: {printable(data)!r}")
        if choice.get("error") or choice.get("finish_reason") == "error":
            why = (
                words.error_of(choice)
                or words.error_of(choice.get("message"))
                or "it names no reason"
            )
            raise RejectedRequest(Rejected.ERROR_IN_200, printable(why))
        piece = self._piece(choice)
        if piece:
            self.times.append(now_ns)
            self.pieces.append(piece)
        if choice.get("finish_reason"):
            self.finish_reason, self.end_ns = str(choice["finish_reason"]), now_ns

    @staticmethod
    def _piece(choice: dict[str, Any]) -> str:
        for name in ("delta", "message"):
            delta = choice.get(name)
            if isinstance(delta, dict):
                return "".join(_text(delta.get(k)) for k in _REASONING)
        return _text(choice.get("text"))

    def finished(self) -> None:
        """Refuse an answer that has no end or no content."""
        if self.finish_reason is None:
            raise RejectedRequest(
                Rejected.CUT_OFF, f"the stream ended after {len(self.pieces)} chunks, unfinished"
            )
        if not self.pieces and not self._reasoning():
            said = self.usage.get("completion_tokens") if self.usage else None
            why = (
                f", though usage counts {said!r:.20} tokens; does the model think out of sight? "
                "Then ask for longer answers"
                if said not in (None, 0, 1)  # some servers count the token that ends an answer
                else ": the model ended it at once. A base model may take no part in a chat: "
                "--api completions. Or make it go on (where the server knows it, --extra "
                "'{\"ignore_eos\": true}')"
            )
            raise RejectedRequest(Rejected.EMPTY, f"the answer has no content{why}")

    def exchange(self, start_ns: int, max_tokens: int, aside_ns: int | None = None) -> Exchange:
        """The whole, checked."""
        self.finished()
        usage = self.usage or {}
        n_in, n_out = (_tokens(usage.get(k), k) for k in ("prompt_tokens", "completion_tokens"))
        if not n_in or not n_out:
            raise RejectedRequest(
                Rejected.NO_USAGE, f"no token counts in the answer (usage: {self.usage!r:.120})"
            )
        if n_out < len(self.pieces):
            raise RejectedRequest(
                Rejected.BAD_USAGE, f"{n_out} tokens in {len(self.pieces)} chunks with content"
            )
        if n_out > max_tokens:
            raise RejectedRequest(
                Rejected.IGNORED_MAX_TOKENS, f"asked for {max_tokens} tokens, got {n_out}"
            )
        text = "".join(self.pieces)
        times = self.times or [self.end_ns]
        return Exchange(
            start_ns=start_ns,
            first_ns=times[0],
            last_ns=times[-1],
            end_ns=max(self.end_ns, times[-1]),
            aside_ns=times[-1] if aside_ns is None else aside_ns,
            n_input_tokens=n_in,
            n_output_tokens=n_out,
            n_chunks=len(self.pieces),
            n_arrivals=_arrivals(self.times),
            first_share=len(self.pieces[0]) / len(text) if text else 0.0,
            cached_tokens=self._cached(usage),
            reasoning_tokens=self._reasoning(),
            server_prefill_s=_seconds(self.timings.get("prompt_ms")),
            server_decode_s=_seconds(self.timings.get("predicted_ms")),
            finish_reason=str(self.finish_reason),
            text=text,
        )

    def _reasoning(self) -> int | None:
        details = (self.usage or {}).get("completion_tokens_details")
        said = details.get("reasoning_tokens") if isinstance(details, dict) else None
        return _tokens(said, "reasoning_tokens")

    def _cached(self, usage: dict[str, Any]) -> int:
        details = usage.get("prompt_tokens_details")
        said = details.get("cached_tokens") if isinstance(details, dict) else None
        return (
            _tokens(said, "cached_tokens") or _tokens(self.timings.get("cache_n"), "cache_n") or 0
        )
