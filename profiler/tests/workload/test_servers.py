"""Where an API lies, which models it has, and how a server that is not ready is waited for."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from fakes.known import Reply, said_json
from fakes.servers import PROMPT, Server, is_post
from fakes.virtual import URL

from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.workload.exchange import RejectedRequest


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        (URL, "/v1"),
        (URL + "/", "/v1"),
        (f"  {URL}/v1/\n", "/v1"),
        (URL + "//v1//", "/v1"),
        (URL.replace("http", "HTTP"), "/v1"),
        (URL + "/v1/chat/completions", "/v1"),
        (URL + "/v1/completions", "/v1"),
        (URL + "/v1/models", "/v1"),
        (URL + "/v1/chat/completions/", "/v1"),
        (URL, ""),
        (URL + "/chat/completions", ""),
        (URL + "/api", "/api/v1"),
        (URL + "/api", "/v1"),
        (URL + "/openai/v1", "/openai/v1"),
        (URL + "/v1beta/openai", "/v1beta/openai"),
        (URL + "/api/paas/v4", "/api/paas/v4"),
        (URL + "/inference", "/inference/v1"),
    ],
)
def test_an_address_with_or_without_v1_or_the_whole_url(given: str, prefix: str) -> None:
    if given == URL + "/chat/completions":
        given = URL + "/x/chat/completions"
        prefix = "/x"
    server = Server(prefix=prefix)
    assert server.ask(given).n_output_tokens == 4
    called = "completions" if given.endswith("v1/completions") else "chat/completions"
    assert server.posts[-1].url.path == f"{prefix}/{called}"


def test_a_base_that_lists_no_models_is_found_by_asking() -> None:
    for prefix in ("/v1", ""):
        server = Server(
            before=lambda r: None if is_post(r) else said_json(404, {"error": "no"}), prefix=prefix
        )
        assert server.ask(model="any").n_output_tokens == 4
        assert server.posts[-1].url.path == f"{prefix}/chat/completions"


def test_a_deployment_with_its_version_in_the_query_and_its_own_header() -> None:
    base = URL + "/openai/deployments/gpt-4o-mini"

    def gate(request: httpx2.Request) -> Reply | None:
        if request.headers.get("api-key") != "k-1234567890":
            return said_json(401, {"error": {"message": "Access denied"}})
        if request.url.params.get("api-version") != "2024-06-01":
            return said_json(404, {"error": {"message": "Resource not found"}})
        return None if is_post(request) else said_json(404, {"error": "Resource not found"})

    for given in (base, base + "/chat/completions"):
        server = Server(before=gate, prefix="/openai/deployments/gpt-4o-mini")
        endpoint = server.endpoint(
            given + "?api-version=2024-06-01", headers={"api-key": "k-1234567890"}
        )
        assert endpoint.name == "gpt-4o-mini"
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        assert endpoint.url == base


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("localhost:80", "expected http://HOST:PORT"),
        ("ftp://x", "expected http://HOST:PORT"),
        ("http://", "is the host or the port missing"),
        ("http://x:99999", "is the host or the port missing"),
        ("http://x y", "is the host or the port missing"),
        ("http://x/v1#y", "# as %23"),
        ("", "expected http"),
    ],
)
def test_addresses_that_are_none(given: str, words: str) -> None:
    with pytest.raises(EndpointError, match=words):
        Server().endpoint(given)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (said_json(404, {"detail": "Not Found"}), "lists no models .404: Not Found.*--model"),
        (said_json(200, {"data": []}), "lists no models .an empty list.*--model"),
        (said_json(500, {"error": "broken"}), "lists no models .500: broken"),
        (
            Reply(200, {"Content-Type": "text/html"}, [(0, b"<html><title>Open WebUI</title>")]),
            "lists no models .200: a web page, 'Open WebUI'",
        ),
        (said_json(200, {"data": [{"id": f"m{i}"} for i in range(300)]}), "and 292 more.*--model"),
    ],
)
def test_no_list_of_models_is_told_as_what_it_is(listed: Reply, words: str) -> None:
    server = Server(before=lambda r: None if is_post(r) else listed)
    with pytest.raises(EndpointError, match=words) as caught:
        server.endpoint()
    assert len(str(caught.value)) < 500
    if "m1" not in str(caught.value):
        assert server.ask(model="any").n_output_tokens == 4


@pytest.mark.parametrize(
    "listed",
    [
        [{"id": "known"}],
        ["known"],
        {"models": [{"name": "known", "model": "known"}]},
        {"object": "list", "data": [{"id": "known", "object": "model"}], "models": [1]},
    ],
)
def test_lists_of_models_in_other_shapes(listed: Any) -> None:
    server = Server(before=lambda r: None if is_post(r) else said_json(200, listed))
    assert server.endpoint().name == "known"


def test_a_model_that_is_not_there_is_named_beside_its_nearest() -> None:
    data = {"data": [{"id": n} for n in ("llama3:latest", "qwen3-32b", "x")]}
    server = Server(before=lambda r: None if is_post(r) else said_json(200, data))
    with pytest.raises(EndpointError, match="no model 'qwen-32b'.*did you mean 'qwen3-32b'"):
        server.endpoint(model="qwen-32b")
    assert server.endpoint(model="llama3").name == "llama3"


# Loading and busy.


def loading(until_s: float, status: int = 503, **headers: str):
    """Answers that it loads, for so long."""

    def before(request: httpx2.Request) -> Reply | None:
        if server.clock() * 1e-9 - 5.0 < until_s:
            message = {"error": {"code": status, "message": "Loading model", "type": "unavailable"}}
            return said_json(status, message, **headers)
        return None

    server = Server(before=before)
    return server


def test_a_server_that_loads_its_model_is_waited_for_and_told() -> None:
    server = loading(100.0)
    with server.endpoint() as endpoint:
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        assert 100 < server.clock() * 1e-9 - 5 < 106
        assert "was busy or not ready" in endpoint.notes[0]
    (told,) = server.told
    assert told.startswith(URL)
    assert "not ready (loading its model, perhaps): 503: Loading model" in told


def test_a_server_that_loads_too_long_is_given_up_in_its_own_words() -> None:
    with pytest.raises(EndpointError, match="503: Loading model.*waited for 60 s.*--wait-s"):
        loading(1e6).ask(wait_s=60.0)


def test_a_model_that_loads_at_the_first_request_only() -> None:
    server = Server()
    server.before = lambda r: (
        said_json(503, {"message": "warming up"}) if is_post(r) and len(server.posts) < 4 else None
    )
    x = server.ask()
    assert (x.first_ns - x.start_ns) * 1e-9 == pytest.approx(0.004 + 9e-4 + 2e-3)


@pytest.mark.parametrize(
    ("headers", "waited_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        (
            {
                "Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT",
                "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            30.0,
        ),
        ({"x-ratelimit-reset-requests": "1m2s", "x-ratelimit-remaining-requests": "0"}, 62.0),
        ({"Retry-After": "soon"}, 1.0),
        ({}, 1.0),
    ],
)
def test_429_is_paced_as_it_asks(headers: dict[str, str], waited_s: float) -> None:
    server = Server()
    with server.endpoint() as endpoint:
        server.before = lambda r: (
            said_json(429, {"error": {"message": "Rate limit reached"}}, **headers)
            if len(server.posts) == 1
            else None
        )
        start_ns = server.clock()
        x = endpoint.generate(PROMPT, 4)
        assert (x.start_ns - start_ns) * 1e-9 == pytest.approx(waited_s)
        assert (x.first_ns - x.start_ns) * 1e-9 == pytest.approx(0.004 + 9e-4 + 2e-3)
    assert "is busy: 429: Rate limit reached" in server.told[0]


def test_429_that_waiting_does_not_help_is_told_at_once() -> None:
    for reply, words in (
        (
            said_json(429, {"error": {"message": "You exceeded your current quota"}}),
            "429: You exceeded your current quota",
        ),
        (said_json(429, {}, **{"Retry-After": "86400"}), "asks to wait 86400 s"),
    ):
        server = Server()
        with server.endpoint() as endpoint:
            server.before = lambda r, reply=reply: reply
            start_ns = server.clock()
            with pytest.raises(RejectedRequest, match=words):
                endpoint.generate(PROMPT, 4)
            assert server.clock() == start_ns
