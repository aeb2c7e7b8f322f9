"""Who is let in, and where requests are sent on to."""

from __future__ import annotations

import httpx2
import pytest
from fakes.known import Reply, said_json
from fakes.servers import PROMPT, Server, is_post
from fakes.virtual import URL

from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.workload.exchange import Rejected, RejectedRequest


def keyed(request: httpx2.Request) -> Reply | None:
    if request.headers.get("authorization") == "Bearer right-key-1":
        return None
    return said_json(401, {"error": {"message": "Unauthorized", "code": "invalid_api_key"}})


def test_a_missing_key_and_a_wrong_one_are_told_apart() -> None:
    server = Server(before=keyed)
    with pytest.raises(EndpointError, match="401: Unauthorized.*wants an API key, and none was se"):
        server.endpoint()
    with pytest.raises(EndpointError, match="refuses the key that was sent in Authorization"):
        server.endpoint(api_key="wrong-key-1")
    assert server.ask(api_key="right-key-1").n_output_tokens == 4
    # llama.cpp lists its models to everyone.
    server = Server(before=lambda r: keyed(r) if is_post(r) else None)
    with pytest.raises(RejectedRequest, match="wants an API key, and none was sent"):
        server.ask()
    with pytest.raises(RejectedRequest, match="refuses the key that was sent in X-Api-Key"):
        server.ask(headers={"X-Api-Key": "wrong"})


@pytest.mark.parametrize(
    "url", ["http://me:pass-1@known.test:8000", "http://me:p%40ss@known.test:8000"]
)
def test_user_and_password_of_a_url_are_sent_as_such(url: str) -> None:
    server = Server()
    server.ask(url)
    assert server.transport.requests[0].headers["authorization"].startswith("Basic ")
    assert "@" not in str(server.transport.requests[0].url)
    with pytest.raises(EndpointError, match="two keys for one header"):
        server.endpoint(url, api_key="k-123456")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"bad name": "v"}, "expected a name of letters"),
        ({"X-Key": "a\r\nHost: evil"}, "line end"),
        ({"X-Key": ""}, "line end"),
        ({"Host": "x"}, "the client's own"),
    ],
)
def test_headers_that_cannot_be_sent(headers: dict[str, str], words: str) -> None:
    with pytest.raises(EndpointError, match=words) as caught:
        Server().endpoint(headers=headers)
    assert "evil" not in str(caught.value)


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_keeps_method_and_body_and_is_learnt(status: int) -> None:
    def moved(request: httpx2.Request) -> Reply | None:
        if request.url.path.startswith("/v1/"):
            where = "/real" + request.url.path
            return Reply(status, {"Location": where, "Content-Length": "0"}, [])
        return None

    server = Server(before=moved, prefix="/real/v1")
    with server.endpoint(api_key="k-123456789") as endpoint:
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        before = len(server.posts)
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        assert len(server.posts) == before + 1, "the second request goes there at once"
        assert "redirected to http://known.test:8000/real/v1" in endpoint.notes[0]
    assert all(r.headers["authorization"] == "Bearer k-123456789" for r in server.posts)


@pytest.mark.parametrize(
    "there", ["http://other.test:8000", "https://known.test:8443", "http://known.test:9000"]
)
def test_no_credentials_go_to_another_host(there: str) -> None:
    def away(request: httpx2.Request) -> Reply | None:
        if not str(request.url).startswith(there):
            target = there + request.url.raw_path.decode()
            return Reply(307, {"Location": target, "Content-Length": "0"}, [])
        return None

    server = Server(before=away)
    given = "http://me:pass-word-1@known.test:8000?key=query-secret-1"
    server.ask(given, headers={"X-Api-Key": "header-secret-1"})
    ours = [r for r in server.transport.requests if str(r.url).startswith(URL)]
    theirs = [r for r in server.transport.requests if str(r.url).startswith(there)]
    assert ours
    assert theirs
    for secret in ("query-secret-1", "header-secret-1"):
        assert all(secret in str(r.url) + str(r.headers.raw) for r in ours)
        assert all(secret not in str(r.url) + str(r.headers.raw) for r in theirs)
    assert all("authorization" not in r.headers for r in theirs)

    server = Server(before=lambda r: away(r) or said_json(401, {"error": "who are you"}))
    with pytest.raises(EndpointError, match="redirected to .*, another host, to which no key is"):
        server.endpoint(api_key="k-123456789")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("/v1/models", "more than 5 redirects"),
        ("ftp://x/", "which is no address"),
    ],
)
def test_redirects_that_lead_nowhere(where: str, words: str) -> None:
    server = Server(before=lambda r: Reply(307, {"Location": where, "Content-Length": "0"}, []))
    with pytest.raises(EndpointError, match=words):
        server.endpoint()


def test_a_kept_connection_that_the_server_closed_is_asked_once_more() -> None:
    server = Server()
    answer = server.transport.handle_request
    broken = iter([True, False, True, True])

    def flaky(request: httpx2.Request) -> httpx2.Response:
        if next(broken):
            raise httpx2.RemoteProtocolError("Server disconnected without sending a response.")
        return answer(request)

    with server.endpoint() as endpoint:
        endpoint.generate(PROMPT, 4)
        server.transport.handle_request = flaky  # type: ignore[method-assign]
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        with pytest.raises(RejectedRequest, match="the connection broke: Server disconnected") as e:
            endpoint.generate(PROMPT, 4)
        assert e.value.reason is Rejected.CUT_OFF
