"""The streaming client against a server of known manners."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from fakes.known import TEMPLATE
from fakes.sse_server import serve
from fakes.virtual import World

from cr2fast_profiler.errors import EndpointError
from cr2fast_profiler.workload.callable import InProcess
from cr2fast_profiler.workload.endpoint import Endpoint
from cr2fast_profiler.workload.exchange import Rejected, RejectedRequest
from cr2fast_profiler.workload.locality import connect_rtt_s, is_this_host

PROMPT = "one two three"


def test_counts_and_times_of_an_answer() -> None:
    with World(tau0_s=0.05, beta_dec_s=0.01).endpoint() as endpoint:
        x = endpoint.generate(PROMPT, 6)
    assert (x.n_input_tokens, x.n_output_tokens, x.n_chunks) == (3 + TEMPLATE, 6, 6)
    assert x.text == "1\n2\n3\n4\n5\n6\n"
    assert (x.first_ns - x.start_ns) * 1e-9 == pytest.approx(0.05 + 9e-4 + 0.01)
    assert (x.last_ns - x.first_ns) * 1e-9 == pytest.approx(0.05)
    assert x.first_share == pytest.approx(1 / 6)
    assert x.aside_ns == x.last_ns


def test_a_role_chunk_is_no_first_token() -> None:
    with World(tau0_s=0.1, role_chunk=True).endpoint() as endpoint:
        x = endpoint.generate(PROMPT, 4)
    assert (x.first_ns - x.start_ns) * 1e-9 == pytest.approx(0.1 + 9e-4 + 2e-3)
    assert x.n_chunks == 4


def test_reasoning_content_is_content() -> None:
    with World(reasoning=True).endpoint() as endpoint:
        x = endpoint.generate(PROMPT, 4)
    assert x.n_chunks == 4


def test_chunks_are_not_tokens() -> None:
    with World(chunk_tokens=4).endpoint() as endpoint:
        x = endpoint.generate(PROMPT, 10)
    assert (x.n_chunks, x.n_output_tokens) == (3, 10)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_stream_without_usage_is_counted_by_a_second_request(api: str) -> None:
    world = World(stream_usage=False)
    said = world.manners
    with world.endpoint(api=api) as endpoint:
        x = endpoint.generate(PROMPT, 6)
    assert (x.n_input_tokens, x.n_output_tokens) == (3 + TEMPLATE, 6)
    assert x.aside_ns > x.last_ns
    assert said.served == 2


@pytest.mark.parametrize(
    ("manners", "reason", "words"),
    [
        ({"bad": "http_500"}, Rejected.HTTP_ERROR, "500: .*boom"),
        ({"bad": "error_in_200"}, Rejected.ERROR_IN_200, "out of memory"),
        ({"bad": "json_error_in_200"}, Rejected.ERROR_IN_200, "out of memory"),
        ({"bad": "not_json"}, Rejected.MALFORMED, "not JSON"),
        ({"bad": "empty"}, Rejected.EMPTY, "no content, though usage counts"),
        (
            {"bad": "empty", "stream_usage": False},
            Rejected.EMPTY,
            "no content: .*--api completions.*ignore_eos",
        ),
        ({"bad": "cut_off"}, Rejected.CUT_OFF, "closed|incomplete|ended"),
        ({"bad": "ignored_max_tokens"}, Rejected.IGNORED_MAX_TOKENS, "asked for 6 tokens, got 11"),
        ({"usage": False}, Rejected.NO_USAGE, "no token counts"),
    ],
)
def test_an_answer_that_is_no_measurement_is_refused(manners, reason, words) -> None:
    with (
        World(every=1, **manners).endpoint() as endpoint,
        pytest.raises(RejectedRequest, match=words) as caught,
    ):
        endpoint.generate(PROMPT, 6)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ('{"prompt_tokens": NaN, "completion_tokens": 6}', Rejected.MALFORMED),
        ('{"prompt_tokens": 9, "completion_tokens": Infinity}', Rejected.MALFORMED),
        ('{"prompt_tokens": 9, "completion_tokens": 1e999}', Rejected.BAD_USAGE),
        ('{"prompt_tokens": 9, "completion_tokens": ' + "9" * 400 + "}", Rejected.BAD_USAGE),
        ('{"prompt_tokens": 1e30, "completion_tokens": 6}', Rejected.BAD_USAGE),
        ('{"prompt_tokens": -9, "completion_tokens": 6}', Rejected.BAD_USAGE),
        ('{"prompt_tokens": 16.9, "completion_tokens": 6}', Rejected.BAD_USAGE),
        ('{"prompt_tokens": "9", "completion_tokens": 6}', Rejected.BAD_USAGE),
        ('{"prompt_tokens": true, "completion_tokens": 6}', Rejected.BAD_USAGE),
        ('{"prompt_tokens": 9, "completion_tokens": 4}', Rejected.BAD_USAGE),
        ("[" * 100_000, Rejected.MALFORMED),
    ],
)
def test_counts_that_are_none_are_refused(usage: str, reason: Rejected) -> None:
    with (
        World(raw_usage=usage).endpoint() as endpoint,
        pytest.raises(RejectedRequest) as caught,
    ):
        endpoint.generate(PROMPT, 6)
    assert caught.value.reason is reason


def test_whole_floats_are_counts() -> None:
    usage = '{"prompt_tokens": 9.0, "completion_tokens": 6.0}'
    with World(raw_usage=usage).endpoint() as endpoint:
        assert endpoint.generate(PROMPT, 6).n_input_tokens == 9


def test_comments_alone_do_not_keep_a_request_alive() -> None:
    with (
        World(bad="comments", every=1).endpoint(timeout_s=0.3) as endpoint,
        pytest.raises(RejectedRequest) as caught,
    ):
        endpoint.generate(PROMPT, 6)
    assert caught.value.reason is Rejected.TIMEOUT


def test_a_server_that_stops_before_the_bound_is_counted_in_full() -> None:
    world = World(stream_usage=False, context=4)
    said = world.manners
    with world.endpoint() as endpoint:
        x = endpoint.generate(PROMPT, 6)
    assert (x.n_output_tokens, said.served) == (4, 2)


def test_options_that_are_ours_and_keys_that_are_none() -> None:
    with pytest.raises(EndpointError, match="own to set"):
        Endpoint("http://127.0.0.1:9", extra={"max_tokens": 3})
    with pytest.raises(EndpointError, match="line end") as caught:
        Endpoint("http://127.0.0.1:9", api_key="secret\n")
    assert "secret" not in str(caught.value)
    with pytest.raises(EndpointError, match="url"):
        Endpoint("http://127.0.0.1:9/\x00")


def test_an_endless_trickle_ends_at_the_bound() -> None:
    endpoint = World(beta_dec_s=0.05).endpoint(timeout_s=0.2)
    with endpoint, pytest.raises(RejectedRequest) as caught:
        endpoint.generate(PROMPT, 100)
    assert caught.value.reason is Rejected.TIMEOUT


def test_a_server_that_never_answers_times_out() -> None:
    with (
        World(tau0_s=1.0).endpoint(timeout_s=0.1) as endpoint,
        pytest.raises(RejectedRequest) as caught,
    ):
        endpoint.generate(PROMPT, 4)
    assert caught.value.reason is Rejected.TIMEOUT


def test_a_dead_endpoint_says_so() -> None:
    with serve() as (url, _):
        endpoint = Endpoint(url)
    with endpoint, pytest.raises(RejectedRequest) as caught:
        endpoint.generate(PROMPT, 4)
    assert caught.value.reason in (Rejected.UNREACHABLE, Rejected.CUT_OFF)
    with pytest.raises(EndpointError, match="is the server running"):
        Endpoint(url)


def test_names_keys_and_addresses_that_are_wrong() -> None:
    with serve(model="known", key="secret") as (url, _):
        with pytest.raises(
            EndpointError, match="401: no key. It wants an API key, and none was sent"
        ):
            Endpoint(url)
        with pytest.raises(EndpointError, match=r"no model 'other'; it lists \['known'\]"):
            Endpoint(url, "other", api_key="secret")
        with Endpoint(url + "/v1/", api_key="secret") as endpoint:
            assert endpoint.name == "known"
            said = endpoint.describe()
    assert said["url"] == url + "/v1"
    assert "secret" not in str(said)
    for wrong in ("localhost:80", "ftp://x"):
        with pytest.raises(EndpointError, match="expected http"):
            Endpoint(wrong)
    with pytest.raises(EndpointError, match="'chat' or 'completions'"):
        Endpoint(url, "known", api="images")


def test_one_endpoint_serves_many_threads() -> None:
    with serve() as (url, _), Endpoint(url) as endpoint:
        found: dict[int, int] = {}

        def ask(n: int) -> None:
            found[n] = endpoint.generate("word " * n, 3).n_input_tokens

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(1, 13)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert found == {n: n + TEMPLATE for n in range(1, 13)}


def counting(prompt: str, max_tokens: int):
    for i in range(max_tokens):
        yield f"{i} "
    return {"prompt_tokens": len(prompt.split()), "completion_tokens": max_tokens}


def failing(prompt: str, max_tokens: int):
    yield "a"
    raise OSError("the board is gone")


def refusing(prompt: str, max_tokens: int):
    raise ValueError("no such thing")


def bytewise(prompt: str, max_tokens: int):
    yield b"a"


def numpy_counted(prompt: str, max_tokens: int):
    yield "a b"
    return {"prompt_tokens": np.int64(3), "completion_tokens": np.int64(2)}


def uncounted(prompt: str, max_tokens: int):
    yield "a"


def test_a_callable_is_a_target() -> None:
    target = InProcess.load(f"{__name__}:counting", "mine")
    x = target.generate(PROMPT, 5)
    assert (x.n_input_tokens, x.n_output_tokens, x.n_chunks) == (3, 5, 5)
    assert x.start_ns < x.first_ns < x.last_ns
    assert target.describe() == {
        "kind": "callable",
        "function": f"{__name__}:counting",
        "model": "mine",
    }


def test_callables_that_fail() -> None:
    with pytest.raises(RejectedRequest, match="the board is gone") as caught:
        InProcess(failing, "x").generate(PROMPT, 5)
    assert caught.value.reason is Rejected.CUT_OFF
    assert InProcess(numpy_counted, "x").generate(PROMPT, 5).n_output_tokens == 2
    with pytest.raises(RejectedRequest, match="no such thing"):
        InProcess(refusing, "x").generate(PROMPT, 5)
    with pytest.raises(RejectedRequest, match="takes 0 positional"):
        InProcess(lambda: iter(()), "x").generate(PROMPT, 5)  # type: ignore[arg-type]
    with pytest.raises(RejectedRequest, match="expected pieces of str, got bytes"):
        InProcess(bytewise, "x").generate(PROMPT, 5)
    with pytest.raises(RejectedRequest) as caught:
        InProcess(uncounted, "x").generate(PROMPT, 5)
    assert caught.value.reason is Rejected.NO_USAGE
    for spec in ("nonsense", "no_such_module:f", f"{__name__}:nothing", f"{__name__}:PROMPT"):
        with pytest.raises(EndpointError, match="callable"):
            InProcess.load(spec, "x")


def test_this_host_and_others(monkeypatch) -> None:
    assert is_this_host("http://127.0.0.1:80")
    assert is_this_host("http://localhost")
    assert not is_this_host("http://192.0.2.1:80")
    with serve() as (url, _):
        assert connect_rtt_s(url) > 0
    with pytest.raises(EndpointError, match="does not answer"):
        connect_rtt_s(url)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(EndpointError, match="cannot be found"):
        is_this_host("http://no-such-host.invalid")
