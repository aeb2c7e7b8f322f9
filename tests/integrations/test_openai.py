"""Two openai clients as one, with the real package, against loopback servers."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import replace
from pathlib import Path

import openai
import pytest

import cr2fast
from cr2fast import Cr2Error, OperatingPointError
from cr2fast.datasets import make_routing_problem
from cr2fast.integrations import texts as read
from cr2fast.integrations.openai import AsyncRoutedOpenAI, RoutedOpenAI, UnusableAnswerError


def chat(text):
    return [{"role": "system", "content": "Be short."}, {"role": "user", "content": text}]


# Reading the machine's certificates takes longer than a test, and loopback needs none.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def made(kind, servers):
    http = openai.DefaultHttpxClient if kind is openai.OpenAI else openai.DefaultAsyncHttpxClient
    return [
        kind(base_url=s.url, api_key="secret", max_retries=0, http_client=http(verify=NO_TLS))
        for s in servers
    ]


class Caller:
    """A routed client, sync or async, called the same way."""

    def __init__(self, asynchronous, servers, router, encoder, **options):
        options = {"lam": 0.1, "alpha": 0.1} | options
        plain = openai.AsyncOpenAI if asynchronous else openai.OpenAI
        routed = AsyncRoutedOpenAI if asynchronous else RoutedOpenAI
        self.client = routed(*made(plain, servers), router=router, encoder=encoder, **options)
        self.loop = asyncio.new_event_loop() if asynchronous else None

    def wait(self, value):
        return self.loop.run_until_complete(value) if self.loop else value

    def ask(self, text, model="cr2fast", **kwargs):
        create = self.client.chat.completions.create
        return self.wait(create(model=model, messages=chat(text), **kwargs))

    def chunks(self, stream):
        async def collect():
            return [chunk async for chunk in stream]

        return self.loop.run_until_complete(collect()) if self.loop else list(stream)

    def said(self, stream):
        parts = [c.choices[0].delta.content or "" for c in self.chunks(stream) if c.choices]
        return "".join(parts).strip()

    def close(self):
        self.wait(self.client.close())
        if self.loop:
            self.loop.close()


@pytest.fixture(params=["sync", "async"])
def make(request, servers, text_router, letters):
    callers = []

    def caller(**options):
        callers.append(Caller(request.param == "async", servers, text_router, letters, **options))
        return callers[-1]

    yield caller
    for c in callers:
        c.close()


@pytest.fixture
def caller(make):
    return make()


def test_each_request_goes_where_the_router_says(caller, servers, texts, text_router, letters):
    (device, edge), (local, deferred) = servers, texts
    one = caller.ask(local, temperature=0.5)
    assert isinstance(one, openai.types.chat.ChatCompletion)
    assert one.choices[0].message.content == "from the device"
    assert (one.cr2fast.place, one.cr2fast.why) == ("device", "accepted")
    assert one.cr2fast.model == text_router.models[0]
    other = caller.ask(deferred)
    assert other.choices[0].message.content == "from the edge"
    assert (other.cr2fast.place, other.cr2fast.why) == ("edge", "deferred")
    n = sum(letters.count_tokens(t) for t in ("Be short.", deferred))
    choice = text_router.two_stage(0.1, 0.1).route(letters.encode(deferred), n)
    assert (other.cr2fast.model, other.cr2fast.margin) == (choice.model, choice.margin)
    (_, headers, body), (_, _, at_edge) = device.requests[0], edge.requests[0]
    assert body == {"model": one.cr2fast.model, "messages": chat(local), "temperature": 0.5}
    assert at_edge["model"] == other.cr2fast.model
    assert not any(h.lower().startswith("x-cr2fast") for h in headers)


def test_an_answer_is_what_the_server_sent_and_nothing_more(caller, texts):
    answer = caller.ask(texts[0])
    assert answer.extra_field == "kept"
    assert "cr2fast" not in answer.model_dump()
    assert answer.usage.total_tokens == 5
    said = answer.cr2fast.headers
    assert said["x-cr2fast-place"] == "device"
    assert set(said) == {
        f"x-cr2fast-{n}"
        for n in ("request-id", "place", "model", "margin", "threshold", "lam", "alpha", "why")
    }


@pytest.mark.parametrize("which", [0, 1])
def test_streams_are_routed_and_whole(caller, servers, texts, which):
    stream = caller.ask(texts[which], stream=True)
    assert stream.cr2fast.place == ("device", "edge")[which]
    assert stream.response.status_code == 200
    assert caller.said(stream) == servers[which].text


@pytest.mark.parametrize("behaviour", ["cut", "500", "503", "429", "401", "garbage", "error"])
@pytest.mark.parametrize("which", [0, 1])
def test_the_other_place_answers_where_one_fails(caller, servers, texts, behaviour, which):
    servers[which].behaviour = behaviour
    answer = caller.ask(texts[which])
    assert answer.choices[0].message.content == servers[1 - which].text
    assert answer.cr2fast.place == ("edge", "device")[which]
    assert answer.cr2fast.why == ("device-down", "edge-down")[which]
    assert len(servers[which].requests) == 1


@pytest.mark.parametrize("behaviour", ["cut", "500", "cut before", "empty", "error"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_stream_that_fails_before_its_first_content_is_replaced(
    caller, servers, texts, behaviour, which
):
    servers[which].behaviour = behaviour
    stream = caller.ask(texts[which], stream=True)
    assert stream.cr2fast.why == ("device-down", "edge-down")[which]
    assert caller.said(stream) == servers[1 - which].text


def test_after_the_first_content_nothing_is_switched(caller, servers, texts):
    servers[0].behaviour = "cut after"
    stream = caller.ask(texts[0], stream=True)
    with pytest.raises(Exception, match="incomplete|closed|peer|Connection"):
        caller.chunks(stream)
    assert not servers[1].requests


@pytest.mark.parametrize(("status", "error"), [("400", openai.BadRequestError),
                                               ("404", openai.NotFoundError)])  # fmt: skip
def test_what_is_wrong_with_a_request_is_wrong_everywhere(caller, servers, texts, status, error):
    servers[0].behaviour = status
    with pytest.raises(error, match=f"stub says {status}"):
        caller.ask(texts[0])
    assert not servers[1].requests


def test_both_down_raises_the_last_error_from_the_first(caller, servers, texts):
    servers[0].behaviour, servers[1].behaviour = "503", "garbage"
    with pytest.raises((UnusableAnswerError, openai.APIError)) as caught:
        caller.ask(texts[0])
    assert isinstance(caught.value.__cause__, openai.InternalServerError)


def test_points_budgets_and_names(caller, servers, texts, text_router):
    names = text_router.models
    answer = caller.ask(texts[1], model="cr2fast:lam=1,alpha=0.05")
    assert (answer.cr2fast.lam, answer.cr2fast.alpha) == (1.0, 0.05)
    answer = caller.ask(texts[1], extra_headers={"x-cr2fast-lam": "20", "X-Other": "1"})
    assert answer.cr2fast.lam == 20.0
    sent = [headers for s in servers for _, headers, _ in s.requests]
    assert "1" in [{k.lower(): v for k, v in h.items()}.get("x-other") for h in sent]
    assert not any(k.lower().startswith("x-cr2fast") for h in sent for k in h)
    direct = caller.ask(texts[0], model=names[2])
    assert (direct.cr2fast.why, direct.cr2fast.place, direct.cr2fast.margin) == (
        "direct", "edge", None,
    )  # fmt: skip
    assert caller.ask(texts[1], model=names[0]).cr2fast.place == "device"
    # An impossible budget is the router's word, not a request's.
    with pytest.raises(cr2fast.BudgetError):
        caller.ask(texts[0], extra_headers={"x-cr2fast-max-latency-ms": "0.001"})
    before = len(servers[0].requests) + len(servers[1].requests)
    for bad, words in [
        ({"model": "gpt-9"}, "expected 'cr2fast' or one of"),
        ({"model": "cr2fast:lam=x"}, "finite number"),
        ({"model": "cr2fast:lambda=1"}, "cr2fast:lam=0.3"),
        ({"model": 3}, "a model's name"),
        ({"extra_headers": {"x-cr2fast-lamb": "1"}}, "x-cr2fast-lam"),
        ({"extra_headers": {"x-cr2fast-lam": "1"}, "model": "cr2fast:lam=1"}, "lam once"),
    ]:
        with pytest.raises(Cr2Error, match=words):
            caller.ask(texts[0], **bad)
    with pytest.raises(OperatingPointError, match="nearest"):
        caller.ask(texts[0], model="cr2fast:lam=0.7")
    with pytest.raises(TypeError, match="got none"):
        caller.wait(caller.client.chat.completions.create(messages=chat("a")))
    assert len(servers[0].requests) + len(servers[1].requests) == before


def test_images_go_where_the_client_was_told(make, texts):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": texts[0]}, picture]}]
    for place in ("edge", "device"):
        caller = make(not_text=place)
        create = caller.client.chat.completions.create
        answer = caller.wait(create(model="cr2fast", messages=messages))
        assert (answer.cr2fast.place, answer.cr2fast.why) == (place, "not-text")
        assert answer.cr2fast.margin is None


def test_completions_and_responses_are_routed_too(caller, servers, texts):
    for which, text in enumerate(texts):
        done = caller.wait(caller.client.completions.create(model="cr2fast", prompt=text))
        assert done.choices[0].text == servers[which].text
        assert done.cr2fast.place == ("device", "edge")[which]
        items = [{"role": "user", "content": [{"type": "input_text", "text": text}]}]
        for given in (text, items):
            made = caller.wait(caller.client.responses.create(model="cr2fast", input=given))
            assert made.output_text == servers[which].text
            assert made.cr2fast.place == ("device", "edge")[which]


def test_servers_names_and_an_edge_that_chooses(make, servers, texts, text_router):
    names = text_router.models
    caller = make(models={names[0]: "tiny.gguf"}, edge_model="cr2fast")
    caller.ask(texts[0])
    caller.ask(texts[1])
    assert servers[0].requests[0][2]["model"] == "tiny.gguf"
    assert servers[1].requests[0][2]["model"] == "cr2fast"
    some = make(available=[names[2]])
    assert some.ask(texts[1]).cr2fast.model == names[2]
    with pytest.raises(Cr2Error, match="models: expected names among"):
        make(models={"x": "y"})
    with pytest.raises(Cr2Error, match="available: expected some of"):
        make(available=[names[0]])


def test_a_client_has_a_group_where_thresholds_are_per_group(
    servers, text_router, letters, texts, problem
):
    router = cr2fast.Router(text_router._core)
    table = make_routing_problem(n=400, d=24, models=3, seed=5).table
    rows = replace(table, encoder=letters.info).split()[1]
    router.calibrate(rows, alphas=(0.1,), lams=[0.1], groups=["app"] * len(rows))
    given = {"router": router, "encoder": letters, "lam": 0.1}
    for group, place in (("app", "device"), ("other", "edge"), (None, "edge")):
        client = RoutedOpenAI(*made(openai.OpenAI, servers), group=group, **given)
        answer = client.chat.completions.create(model="cr2fast", messages=chat(texts[0]))
        assert answer.cr2fast.place == place
        client.close()


def test_what_is_wrong_with_a_client_is_said_when_it_is_made(
    servers, text_router, letters, fitted, tmp_path
):
    one, two = made(openai.OpenAI, servers)
    given = {"router": text_router, "encoder": letters, "lam": 1.0}
    with pytest.raises(TypeError, match="AsyncRoutedOpenAI is for those"):
        RoutedOpenAI(*made(openai.AsyncOpenAI, servers), **given)
    with pytest.raises(TypeError, match="edge: expected an openai.OpenAI client, got str"):
        RoutedOpenAI(one, "http://edge", **given)
    with pytest.raises(OperatingPointError):
        RoutedOpenAI(one, two, **given | {"lam": 0.7})
    with pytest.raises(Cr2Error, match="encoder"):
        RoutedOpenAI(one, two, **given | {"router": cr2fast.Router(fitted._core)})
    path = tmp_path / "router.safetensors"
    text_router.save(path)
    client = RoutedOpenAI(one, two, **given | {"router": path})
    with pytest.raises(AttributeError, match=r"use \.device\.embeddings or \.edge\.embeddings"):
        _ = client.embeddings
    with pytest.raises(AttributeError, match="routed for create and parse"):
        _ = client.chat.completions.stream
    assert client.with_options(timeout=3).device.timeout == 3


@pytest.mark.parametrize(
    ("messages", "embedded", "counted"),
    [
        (chat("a b"), "a b", ["Be short.", "a b"]),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], "a", ["a"]),
        ([{"role": "assistant", "content": "x"}], None, ["x"]),
        ([], None, []),
        ("text", None, []),
        (None, None, []),
        ([1, {"x": 1}], None, []),
        ([{"role": "user", "content": None}], None, []),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], None, []),
    ],
)
def test_the_texts_of_a_request(messages, embedded, counted):
    assert read.of_messages(messages) == (embedded, counted)


def test_without_the_package_the_pip_command_is_named(monkeypatch, servers, text_router, letters):
    import sys

    one, two = made(openai.OpenAI, servers)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install 'cr2fast\[openai\]'"):
        RoutedOpenAI(one, two, router=text_router, encoder=letters, lam=1.0)


def test_the_page_about_it_runs(servers, text_router, letters, tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "in-process.md"
    code = "\n".join(re.findall(r"```python notest\n(.*?)```", page.read_text(), re.S))
    code = code.replace("http://127.0.0.1:8081/v1", servers[0].url)
    code = code.replace("http://127.0.0.1:8090/v1", servers[1].url)
    monkeypatch.chdir(tmp_path)
    text_router.save("router.safetensors")
    letters.save("static.safetensors")
    names: dict[str, object] = {}
    exec(compile(code, "in-process.md", "exec"), names)
    assert capsys.readouterr().out.startswith("from the ")
    names["client"].close()
