"""An endpoint's address as people give it.

In: a base with or without ``/v1``, or the whole URL of a call; perhaps with credentials or a
query. Out: :class:`Address`: where the API may lie, what to attach to requests of that host only,
and how it may be shown.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.redact import hidden_query, safe_url

_CALLS = re.compile(r"/(chat/completions|completions|models|responses|embeddings|chat)$")
_VERSIONED = re.compile(r"/v\d+[a-z0-9.]*$|/deployments/[^/]+$|/v\d+[a-z0-9.]*/openai$", re.I)


@dataclass(frozen=True)
class Address:
    """Where an endpoint is.

    Attributes
    ----------
    bases : tuple of str
        Where its calls may lie, the likeliest first; no credentials, no query.
    api : str or None
        "chat" or "completions" where the URL names the call.
    deployment : str or None
        The model that the path names.
    basic : str or None
        ``Authorization`` of the URL's user and password.
    query : str
        Goes with every request.
    secrets : tuple of str
        What of it must not be shown.
    """

    bases: tuple[str, ...]
    api: str | None
    deployment: str | None
    basic: str | None
    query: str
    secrets: tuple[str, ...]

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take an address apart.

        Raises
        ------
        EndpointError
            It is none.
        """
        text = url.strip()
        if not re.match(r"https?://", text, re.IGNORECASE):
            raise EndpointError(
                "url: expected http://HOST:PORT or https://HOST, perhaps with a path, got "
                f"{safe_url(text)!r}"
            )
        try:
            parts = urlsplit(text)
            port, host = parts.port, parts.hostname
        except ValueError:
            port, host = None, None
        if not host or "#" in text or not all(c >= "!" for c in text):
            raise EndpointError(
                f"url: expected http://HOST:PORT, got {safe_url(text)!r}; is the host or the port "
                "missing or misspelt, or a sign in the password not escaped (# as %23, @ as %40, "
                "/ as %2F)?"
            )
        name = f"[{host}]" if ":" in host else host
        origin = f"{parts.scheme.lower()}://{name}{f':{port}' if port is not None else ''}"
        path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
        api = None
        if call := _CALLS.search(path):
            api = {"chat/completions": "chat", "completions": "completions"}.get(call.group(1))
            path = path[: call.start()]
        deployment = re.search(r"/(?:deployments|engines)/([^/]+)$", path)
        basic, secrets = None, [hidden for _, hidden in hidden_query(parts.query)]
        if parts.username is not None or parts.password is not None:
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            pair = f"{user}:{password}"
            basic = "Basic " + base64.b64encode(pair.encode()).decode()
            # A user alone may be a key: some gateways take it so.
            secrets += [pair, password, user, parts.password or "", parts.username or ""]
        return cls(
            bases=_bases(origin, path, bool(call)),
            api=api,
            deployment=unquote(deployment.group(1)) if deployment else None,
            basic=basic,
            query=parts.query,
            secrets=(*secrets, *(unquote(s) for s in secrets)),
        )


def _bases(origin: str, path: str, whole: bool) -> tuple[str, ...]:
    if whole and path:
        return (origin + path,)
    if _VERSIONED.search(path):
        return (origin + path,)
    found = [origin + path + "/v1", origin + path]
    if path == "/api":  # Ollama's own interface: the compatible one lies beside it
        found.append(origin + "/v1")
    return tuple(found)
