"""What went wrong, in words: a server's own, and what to do about it.

In: a body, a status, a transport's error. Out: one line of bounded length.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from typing import Any

import httpx2

from cr2fast_profiler.redact import printable
from cr2fast_profiler.workload.exchange import Rejected

CONNECT_S = 10.0


def said(body: str) -> str:
    """What a body says: the message of its error, a page's title, or its beginning."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    found = error_of(value) if isinstance(value, (dict, list)) else None
    if found is None and (page := re.search(r"<title[^>]*>([^<]*)", body[:20_000], re.I)):
        found = f"a web page, {page.group(1).strip()!r}"
    elif found is None and re.match(r"\s*<(!doctype|html)", body, re.I):
        found = "a web page"
    return printable(body if found is None else found)


def error_of(value: Any) -> str | None:
    """The message of an error object in any of the shapes that servers have; None where none is."""
    if isinstance(value, list):
        return error_of(value[0]) if value else None
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, dict):
        inner = error.get("message") or error.get("detail") or error.get("error")
        text = inner if isinstance(inner, str) else json.dumps(error)
        kind = next((k for k in (error.get("code"), error.get("type")) if isinstance(k, str)), "")
        named = kind and kind not in text
        return f"{text} ({kind})" if named else text
    if error:
        more = value.get("message")
        text = error if isinstance(error, str) else json.dumps(error)
        return f"{text}: {more}" if isinstance(more, str) and more not in text else text
    if value.get("errors"):
        return error_of(value["errors"]) or json.dumps(value["errors"])
    detail = value.get("detail")
    if isinstance(detail, list):  # FastAPI's: what is wrong with which field
        parts = [d for d in detail if isinstance(d, dict)]
        return "; ".join(f"{_where(d)}{d.get('msg', d)}" for d in parts[:4]) or json.dumps(detail)
    if detail:
        return detail if isinstance(detail, str) else json.dumps(detail)
    for name in ("message", "msg", "error_message"):
        if isinstance(value.get(name), str):
            return str(value[name])
    return None


def _where(detail: dict[str, Any]) -> str:
    place = detail.get("loc")
    return ".".join(map(str, place)) + ": " if isinstance(place, list) else ""


def is_error(event: dict[str, Any]) -> bool:
    """Whether an event of a stream is an error and no part of an answer."""
    if event.get("error") or event.get("object") == "error" or event.get("type") == "error":
        return True
    answer = ("choices", "usage", "timings", "id", "model")
    return not any(k in event for k in answer) and error_of(event) is not None


def of_status(status: int, body: str, sent: str, redirected: str) -> str:
    """A refusal by status, and what to do.

    Parameters
    ----------
    status : int
        HTTP's.
    body : str
        What came with it.
    sent : str
        Name of the header that carried a key; empty where none was sent.
    redirected : str
        Another host, to which the request was redirected without its key; else empty.
    """
    text = f"{status}: {said(body)}" if body.strip() else str(status)
    if status in (401, 403, 407):
        if redirected:
            return (
                f"{text}. The request was redirected to {redirected}, another host, to which no "
                "key is sent: give that address itself"
            )
        if not sent:
            return (
                f"{text}. It wants an API key, and none was sent: give one by --api-key-env "
                "VARIABLE, or by --header NAME:VARIABLE where it belongs in another header"
            )
        why = "refuses" if status == 401 else "does not allow this with"
        return (
            f"{text}. It {why} the key that was sent in {sent}: is it the right key, whole and not "
            "expired, and does the server want it in this header (--header NAME:VARIABLE)?"
        )
    if status in (404, 405) and redirected:
        return f"{text} (redirected to {redirected})"
    if status in (404, 405):
        return f"{text}. Is this where the API is, and is the model's name right?"
    return text


def of_transport(error: Exception, timeout_s: float) -> tuple[Rejected, str]:
    """(reason, words) of an error below HTTP."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    bad_certificate = next((e for e in chain if isinstance(e, ssl.SSLCertVerificationError)), None)
    if bad_certificate is not None:
        return Rejected.UNREACHABLE, _of_certificate(bad_certificate)
    if any(isinstance(e, ssl.SSLError) for e in chain) and isinstance(error, httpx2.ConnectError):
        return Rejected.UNREACHABLE, (
            f"no TLS connection ({printable(str(error), 100)}): does it speak plain HTTP? Then "
            "give http://"
        )
    if any(isinstance(e, socket.gaierror) for e in chain):
        return Rejected.UNREACHABLE, "the name of the host is not known: is it misspelt?"
    if isinstance(error, (httpx2.ConnectTimeout, httpx2.PoolTimeout)):
        return Rejected.UNREACHABLE, (
            f"no connection within {CONNECT_S:g} s: is the server running, is the address right, "
            "and is no firewall in between?"
        )
    if isinstance(error, httpx2.ConnectError):
        return Rejected.UNREACHABLE, (
            f"no connection ({printable(str(error), 100)}); is the server running, and is the "
            "address right?"
        )
    if isinstance(error, httpx2.TimeoutException):
        return Rejected.TIMEOUT, f"no byte for {timeout_s:g} s (--timeout-s)"
    if isinstance(error, httpx2.DecodingError):
        return Rejected.MALFORMED, (
            f"the body is not compressed as its head says ({printable(str(error), 100)})"
        )
    text = printable(str(error), 120) or type(error).__name__
    if isinstance(error, httpx2.RemoteProtocolError) and "\\x15\\x03" in text:
        return Rejected.CUT_OFF, "it answers by TLS: give https://"
    return Rejected.CUT_OFF, f"the connection broke: {text}"


def _of_certificate(error: ssl.SSLCertVerificationError) -> str:
    why = printable(error.verify_message or str(error), 120)
    if "expired" in why or "not yet valid" in why:
        return f"its certificate cannot be trusted ({why}): renew it, or set this host's clock"
    if "ostname" in why or "IP address" in why:
        return f"its certificate is of another host ({why}): give the name that the certificate has"
    return (
        f"its certificate cannot be trusted ({why}): give the file of the authority that signed "
        "it by --ca-file FILE, or by the variable SSL_CERT_FILE"
    )
