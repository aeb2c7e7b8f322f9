"""What is secret stays out of every file, log, plot and message.

In: an address, request fields, or words that a server said. Out: the same without credentials. An
address keeps its host and path; of its query only versions are shown. Of request fields, texts are
shown only where their name is known to carry no secret. Words lose every secret that was sent.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
SHOWN = 200
"""Characters of a stranger's words that are passed on."""
_SHOWN_QUERY = ("api-version", "api_version", "version", "v")
_SHOWN_TEXTS = (
    "chat_template",
    "cache_type",
    "effort",
    "encoding_format",
    "grammar_type",
    "keep_alive",
    "mode",
    "quantization",
    "reasoning_effort",
    "reasoning_format",
    "response_format",
    "role",
    "service_tier",
    "stop",
    "tool_choice",
    "truncate",
    "type",
    "verbosity",
)
_SECRET_NAME = re.compile(
    r"key|token|secret|passw|pwd|passphrase|auth|cred|bearer|cookie|session|signature|sig$|jwt|"
    r"licen[cs]e|^pin$|^pass$",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"(^|_)(max|min|num|n|top|best)_|tokens|_ids?$", re.IGNORECASE)
_KEY = re.compile(r"^(sk|pk|rk|key|tok|token|hf|gsk|xai|ghp|gho|glpat|nvapi|r8)[-_].{6,}", re.I)
_LEAST = 4
"""Shorter secrets stand in ordinary words by chance."""


def _looks_secret(word: str) -> bool:
    """Whether a part of a path, or a name, is rather a key."""
    if _KEY.match(word):
        return True
    digits, letters = sum(c.isdigit() for c in word), sum(c.isalpha() for c in word)
    return len(word) >= 24 and digits >= 4 and letters >= 4 and word.count("-") < 3


def printable(text: str, most: int = SHOWN) -> str:
    """A stranger's words on one line, without control characters, at a bounded length."""
    text = " ".join(text[: 20 * most].split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= most else text[:most] + "..."


def safe_url(url: str) -> str:
    """An address as it may be shown: host and path; credentials and query values hidden.

    Parameters
    ----------
    url : str
        Any text that was given for an address, well-formed or not.
    """
    scheme, mark, rest = url.strip().partition("://")
    if not mark:
        scheme, rest = "", url.strip()
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    at = authority.rfind("@")
    if at >= 0:
        rest = f"{HIDDEN}@{rest[at + 1 :]}"
    elif re.search(r"[^/]@", rest) and (":" in authority or not scheme):
        # A password with a slash in it, say: nothing before its end is shown.
        rest = f"{HIDDEN}@{rest[rest.rfind('@') + 1 :]}"
    rest = rest.partition("#")[0]
    path, question, query = rest.partition("?")
    parts = path.split("/")
    for i, part in enumerate(parts):
        named = i > 0 and parts[i - 1] in ("deployments", "models", "engines")
        if i > 0 and not named and _looks_secret(unquote(part)):
            parts[i] = HIDDEN
    shown = "&".join(_safe_pair(pair) for pair in query.split("&")) if question else ""
    return printable(scheme + mark + "/".join(parts) + question + shown)


def hidden_query(query: str) -> list[tuple[str, str]]:
    """(name, value) of what `safe_url` hides of a query."""
    pairs = [pair.partition("=") for pair in query.split("&")]
    return [(k, v) for k, _, v in pairs if v and k.lower() not in _SHOWN_QUERY]


def _safe_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return HIDDEN if name else ""
    shown = name if not _looks_secret(name) else HIDDEN
    return f"{shown}={value if name.lower() in _SHOWN_QUERY else HIDDEN}"


def safe_fields(value: object, name: str = "") -> object:
    """Request fields as they may be written; see the module."""
    if name and _SECRET_NAME.search(name) and not _COUNTED.search(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {
            HIDDEN if _looks_secret(str(k)) else str(k): safe_fields(v, str(k))
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [safe_fields(v, name) for v in value]
    if isinstance(value, str):
        shown = name in _SHOWN_TEXTS and not _looks_secret(value) and len(value) <= SHOWN
        return value if shown else HIDDEN
    return value


def _hidden_texts(value: object, shown: object) -> Iterable[str]:
    """Texts of request fields that `safe_fields` hid."""
    if isinstance(value, Mapping):
        of = shown if isinstance(shown, Mapping) else {}
        for k, v in value.items():
            if _looks_secret(str(k)):
                yield str(k)
            yield from _hidden_texts(v, of.get(str(k), HIDDEN))
    elif isinstance(value, (list, tuple)):
        of_list = shown if isinstance(shown, list) else [HIDDEN] * len(value)
        for v, s in zip(value, of_list, strict=True):
            yield from _hidden_texts(v, s)
    elif shown == HIDDEN and not isinstance(value, bool) and value is not None:
        yield str(value)


class Secrets:
    """What was sent and must not come back in words.

    Parameters
    ----------
    values : iterable of str
        Keys, passwords, headers' values.
    fields : mapping
        Request fields; what `safe_fields` hides of them is secret.
    """

    def __init__(self, values: Iterable[str] = (), fields: Mapping[str, object] | None = None):
        known = [v for v in values if v]
        known += _hidden_texts(fields or {}, safe_fields(fields or {}))
        known += [v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= 8]
        forms = {form for value in known if len(value) >= _LEAST for form in _forms(value)}
        self._forms = sorted(forms, key=len, reverse=True)

    def scrub(self, text: str) -> str:
        """The text without any of them."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return text


def _forms(value: str) -> Iterable[str]:
    """How a secret may be written."""
    yield value
    yield from (quote(value), quote(value, safe=""), quote_plus(value), unquote(value))
    yield json.dumps(value)[1:-1]
    yield base64.b64encode(value.encode()).decode()
