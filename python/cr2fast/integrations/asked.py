"""What a request in the OpenAI format asks: its texts, and which operating point.

In: keyword arguments as a client was called with. Out: :class:`Asked` and :class:`Wish`; the same
texts and the same words for points as the gateway's (``rust/gateway``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown
from cr2fast.encoders.messages import text_of

NAME = "cr2fast"
PREFIX = "x-cr2fast-"
_TEXTS = ("text", "refusal", "input_text", "output_text")
# Header -> option and how many of its units make one of ours.
_WISHES = {
    "x-cr2fast-lam": ("lam", 1.0),
    "x-cr2fast-alpha": ("alpha", 1.0),
    "x-cr2fast-max-latency-ms": ("max_latency_s", 1e-3),
    "x-cr2fast-max-energy-j": ("max_energy_j", 1.0),
    "x-cr2fast-max-usd": ("max_usd", 1.0),
}


class Asked(NamedTuple):
    """The texts of a request.

    Attributes
    ----------
    embedded : str or None
        What decides: the last user turn; None where the models would see more than text.
    counted : list of str
        Every text, for counting tokens.
    """

    embedded: str | None
    counted: list[str]


class Wish(NamedTuple):
    """What a request asks of its routing; None where it leaves that to the client's defaults.

    Attributes
    ----------
    model : str or None
        A model's name; None where the request is to be routed.
    """

    model: str | None
    lam: float | None = None
    alpha: float | None = None
    max_latency_s: float | None = None
    max_energy_j: float | None = None
    max_usd: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The budgets that were given."""
        names = ("max_latency_s", "max_energy_j", "max_usd")
        return {n: v for n in names if (v := getattr(self, n)) is not None}


def of_messages(messages: Any) -> Asked:
    """Texts of a chat, or of the items of a Responses call."""
    turns = list(messages) if isinstance(messages, Sequence) else []
    turns = [t for t in turns if isinstance(t, Mapping) and "role" in t]
    if not turns:
        return Asked(None, [])
    counted: list[str] = []
    plain: list[dict[str, Any]] = []
    only_text = True
    for turn in turns:
        content = turn.get("content")
        parts = content if isinstance(content, (list, tuple)) else [content]
        texts = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, Mapping):
                kind = part.get("type")
                text = part.get("refusal" if kind == "refusal" else "text")
                if kind in _TEXTS and isinstance(text, str):
                    texts.append(text)
                only_text = only_text and kind in _TEXTS
        # As the gateway counts: what a turn says is one text.
        counted += ["\n".join(texts)] if texts else []
        # What the last user turn says is for the one rule of messages.py to find.
        same = [{"type": "text", "text": t} for t in texts]
        plain.append({"role": turn["role"], "content": content if content is None else same})
        if isinstance(content, str):
            plain[-1]["content"] = content
    if not only_text:
        return Asked(None, counted)
    try:
        return Asked(text_of(plain), counted)
    except (TypeError, Cr2Error):
        return Asked(None, counted)


def of_prompt(prompt: Any) -> Asked:
    """The text of a completion's prompt; several prompts or tokens decide nothing."""
    if isinstance(prompt, (list, tuple)) and len(prompt) == 1:
        prompt = prompt[0]
    return Asked(prompt, [prompt]) if isinstance(prompt, str) else Asked(None, [])


def of_input(value: Any) -> Asked:
    """The texts of a Responses call's input."""
    return of_prompt(value) if isinstance(value, str) else of_messages(value)


def wish(model: Any, headers: Mapping[str, Any] | None) -> tuple[Wish, dict[str, Any]]:
    """What the model's name and the headers ask for, and the headers that are left.

    Raises
    ------
    Cr2Error
        A name such as ``cr2fast:lam=x``, or a header of ours that there is not.
    """
    if not isinstance(model, str):
        raise Cr2Error(f"model: expected {NAME!r} or a model's name, got {shown(model)}")
    found: dict[str, float] = {}
    rest = {}
    for name, value in (headers or {}).items():
        if not name.lower().startswith(PREFIX):
            rest[name] = value
            continue
        if name.lower() not in _WISHES:
            near = get_close_matches(name.lower(), _WISHES, 1) or list(_WISHES)
            raise Cr2Error(f"extra_headers: expected one of {near}, got {shown(name)}")
        key, unit = _WISHES[name.lower()]
        found[key] = _number(value, name) * unit
    if model.partition(":")[0] != NAME:
        return Wish(model), rest
    for pair in filter(None, model.partition(":")[2].split(",")):
        key, _, value = pair.partition("=")
        if key not in ("lam", "alpha"):
            raise Cr2Error(
                f"model: expected {NAME!r} or a name such as {NAME + ':lam=0.3,alpha=0.02'!r}, got "
                f"{shown(model)}"
            )
        if key in found:
            raise Cr2Error(f"model: expected {key} once, got it in a header and in {shown(model)}")
        found[key] = _number(value, f"model: {key}")
    return Wish(None, **found), rest


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise Cr2Error(f"{what}: expected a finite number, got {shown(value)}")
    return number
