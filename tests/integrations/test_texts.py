"""What a request of a client holds: what decides, and what counts."""

from __future__ import annotations

import json
import ssl

import openai
import pytest
from pydantic import BaseModel

from cr2fast import Cr2Error
from cr2fast.integrations import asked, texts
from cr2fast.integrations.openai import RoutedOpenAI

TURN = {"role": "user", "content": "a"}
TOOL = {"type": "function", "function": {"name": "f", "description": 'ก "x"'}}
WRITTEN = '[{"type":"function","function":{"name":"f","description":"ก \\"x\\""}}]'


class City(BaseModel):
    name: str


def test_arguments_that_are_left_out_and_objects_are_as_their_json():
    message = openai.types.chat.ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        }
    )
    fields = {"messages": [message, TURN], "tools": (TOOL,), "functions": openai.NOT_GIVEN}
    fields |= {"audio": openai.NOT_GIVEN, "modalities": None, "extra_body": {"documents": ["d"]}}
    assert texts.of_chat(fields) == ("a", ["f", "{}", "a", WRITTEN, '["d"]'])


@pytest.mark.parametrize(
    ("read", "fields"),
    [
        (texts.of_chat, {"messages": [TURN], "modalities": ["text", "audio"]}),
        (texts.of_chat, {"messages": [TURN], "audio": {"voice": "alloy"}}),
        (texts.of_chat, {"messages": [TURN, {"role": "assistant", "audio": {"id": "1"}}]}),
        (texts.of_chat, {"messages": [TURN, {"role": "tool", "content": {"type": "text"}}]}),
        (
            texts.of_chat,
            {"messages": [TURN | {"content": [{"type": "text", "text": "a", "file": 1}]}]},
        ),
        (texts.of_completion, {"prompt": "a", "prompt_embeds": "AAAA"}),
        (texts.of_completion, {"prompt": ["a", "b"]}),
        (texts.of_response, {"input": "a", "prompt": {"id": "pmpt_1"}}),
        (texts.of_response, {"input": [TURN, {"type": "item_reference", "id": "x"}]}),
    ],
)
def test_what_is_beyond_text_is_not_decided_by_it(read, fields):
    assert read(fields).embedded is None


@pytest.fixture
def client(servers, text_router, letters):
    # Reading the machine's certificates takes longer than a test, and loopback needs none.
    http = [
        openai.DefaultHttpxClient(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) for _ in servers
    ]
    plain = [
        openai.OpenAI(base_url=s.url, api_key="secret", max_retries=0, http_client=h)
        for s, h in zip(servers, http, strict=True)
    ]
    with RoutedOpenAI(*plain, router=text_router, encoder=letters, lam=1.0) as routed:
        yield routed


class SpyError(Exception):
    """Ends a call where its tokens have been counted."""


@pytest.fixture
def counted(client):
    """What a routed client counts of a call."""
    seen = []

    def encode(asks):
        seen.append(asks)
        raise SpyError

    client._planner.encode = encode

    def count(resource, method="create", **kwargs):
        with pytest.raises(SpyError):
            getattr(resource(client), method)(model="cr2fast", **kwargs)
        return seen[-1]

    return count


def test_a_client_counts_tools_schemas_and_instructions(counted):
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    said = counted(
        lambda c: c.chat.completions, messages=[TURN], tools=iter([TOOL]), response_format=shape
    )
    written = json.dumps(shape, separators=(",", ":"))
    assert said == ("a", ["a", WRITTEN, written])
    said = counted(lambda c: c.responses, input="a", instructions="i", tools=[TOOL])
    assert said == ("a", ["i", "a", WRITTEN])
    assert counted(lambda c: c.completions, prompt="a", suffix="b") == ("a", ["a", "b"])


def test_the_class_of_an_answer_counts_by_its_schema(counted):
    chat = counted(
        lambda c: c.chat.completions, "parse", messages=[TURN], response_format=City
    ).counted
    response = counted(lambda c: c.responses, "parse", input="a", text_format=City).counted
    for said in (chat, response):
        schema = json.loads(said[1])
        schema = schema.get("json_schema", schema)
        assert schema["name"] == "City"
        assert schema["schema"]["properties"]["name"]["type"] == "string"


@pytest.mark.parametrize(
    ("resource", "fields", "words"),
    [
        (
            "chat",
            {"messages": []},
            "messages: expected a list of at least one message, got an empty",
        ),
        ("chat", {}, "messages: expected a list of at least one message, got none"),
        (
            "chat",
            {"messages": "a"},
            "messages: expected a list of at least one message, got another",
        ),
        (
            "completions",
            {"prompt": []},
            "prompt: expected a text, or a list of at least one, got an",
        ),
        ("completions", {}, "prompt: expected a text, or a list of at least one, got none"),
        ("responses", {"input": []}, "input: expected a text, or a list of at least one item, got"),
    ],
)
def test_a_routed_call_asks_something(client, servers, resource, fields, words):
    found = client.chat.completions if resource == "chat" else getattr(client, resource)
    with pytest.raises(Cr2Error, match=words):
        found.create(model="cr2fast", **fields)
    assert not any(server.requests for server in servers)


def test_a_header_that_there_is_not_names_all_that_there_are():
    with pytest.raises(Cr2Error, match="x-cr2fast-max-usd.*got 'x-cr2fast-lamb'; did you mean"):
        asked.wish("cr2fast", {"x-cr2fast-lamb": 1})
    with pytest.raises(Cr2Error, match="x-cr2fast-lam'.*x-cr2fast-max-usd.*'x-cr2fast-zzzzzzzz'$"):
        asked.wish("cr2fast", {"x-cr2fast-zzzzzzzz": 1})
