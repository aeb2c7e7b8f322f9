"""The fields of a request, and what a server that refuses one of them is asked instead.

In: a prompt, a bound on tokens; a refusal. Out: the request's body. Servers differ in the name of
the bound (``max_tokens``, ``max_completion_tokens``) and in whether ``temperature`` and
``stream_options`` may be given; what is refused is left out from then on.
"""

from __future__ import annotations

import re

from cr2fast_profiler.errors import EndpointError

OURS = (
    "messages",
    "prompt",
    "model",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
)
LIMITS = ("max_tokens", "max_completion_tokens")
OPTIONAL = ("stream_options", "temperature")
REFUSALS = (400, 404, 415, 422, 500, 501)
UNNAMED = (400, 422)
"""Statuses after which fields are left out by trial, where no field is named."""
_REFUSED = re.compile(
    r"unsupport|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra|"
    r"deprecated|forbidden|invalid|instead|only the default|does not (accept|allow)|not a valid",
    re.IGNORECASE,
)


class Fields:
    """Makes the bodies of requests to one server.

    Parameters
    ----------
    api : str
        "chat" or "completions".
    model : str
        The model's name there.
    extra : dict
        The user's own fields, which are never left out.
    """

    def __init__(self, api: str, model: str, extra: dict[str, object]) -> None:
        if taken := [k for k in extra if k in OURS]:
            raise EndpointError(f"extra: {taken} are this profiler's own to set")
        self.api, self.model, self.extra = api, model, extra
        self.limit = LIMITS[0]
        self.left_out: set[str] = set()
        self._tried: list[str] = []
        self._settled = False

    def body(self, prompt: str, max_tokens: int, *, stream: bool = True) -> dict[str, object]:
        """One request."""
        asked: dict[str, object] = (
            {"messages": [{"role": "user", "content": prompt}]}
            if self.api == "chat"
            else {"prompt": prompt}
        )
        asked |= {
            "model": self.model,
            self.limit: max_tokens,
            "temperature": 0.0,
            "stream": stream,
        }
        if stream:
            asked["stream_options"] = {"include_usage": True}
        return {k: v for k, v in asked.items() if k not in self.left_out} | self.extra

    def adapt(self, status: int, text: str) -> bool:
        """Ask otherwise after a refusal; False where there is nothing to ask otherwise.

        Parameters
        ----------
        status : int
            HTTP's.
        text : str
            The whole body of the refusal.
        """
        if status not in REFUSALS:
            return False
        change = self._named(text)
        if change is None and status in UNNAMED and not self._settled:
            left = [f for f in (*OPTIONAL, LIMITS[1]) if f not in self._tried]
            change = left[0] if left else None
        if change is None or change in self._tried:
            return False
        self._tried.append(change)
        if change == LIMITS[1]:
            self.limit = change
        else:
            self.left_out.add(change)
        return True

    def _named(self, text: str) -> str | None:
        named = [f for f in OPTIONAL if f in text and f not in self.extra]
        if self.limit == LIMITS[0] and (
            LIMITS[1] in text or (LIMITS[0] in text and _REFUSED.search(text))
        ):
            return LIMITS[1]
        return next((f for f in named if f not in self._tried), None)

    def answered(self) -> list[str]:
        """Keep what worked; says, once, what was asked otherwise."""
        first, self._settled = not self._settled, True
        if not first and not self._tried:
            return []
        notes = [f"the server refuses {f}: asked without it" for f in sorted(self.left_out)]
        if self.limit == LIMITS[1]:
            notes.append(f"the server refuses {LIMITS[0]}: asked with {LIMITS[1]}")
        self._tried.clear()
        return notes

    def refused(self) -> None:
        """Nothing helped: ask as at first."""
        if not self._settled:
            self.limit = LIMITS[0]
            self.left_out.clear()
        self._tried.clear()
