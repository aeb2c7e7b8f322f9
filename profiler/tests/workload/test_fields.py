"""Fields that a server refuses are left out from then on."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from fakes.known import Reply, respond, said_json
from fakes.servers import PROMPT, Server, is_post

from cr2fast_profiler.workload.exchange import RejectedRequest


def refuses(field: str, status: int, message: Any):
    def before(request: httpx2.Request) -> Reply | None:
        if is_post(request) and field in json.loads(request.content):
            return said_json(status, message)
        return None

    return before


def openai(field: str) -> Any:
    text = f"Unsupported parameter: '{field}' is not supported with this model."
    return {"error": {"message": text, "param": field, "code": "unsupported_parameter"}}


MAX = openai("max_tokens")
MAX["error"]["message"] += " Use 'max_completion_tokens' instead."


@pytest.mark.parametrize(
    ("field", "status", "message"),
    [
        ("max_tokens", 400, MAX),
        ("max_tokens", 422, {"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs"}]}),
        ("max_tokens", 400, {"error": "bad request"}),
        ("temperature", 400, openai("temperature")),
        (
            "temperature",
            400,
            {"error": {"message": "'temperature' does not support 0.0; only the default (1)"}},
        ),
        ("stream_options", 400, openai("stream_options")),
        (
            "stream_options",
            422,
            {"detail": [{"loc": ["body", "stream_options"], "msg": "extra fields not permitted"}]},
        ),
        ("stream_options", 400, {"error": "Unrecognized request argument: stream_options"}),
        ("stream_options", 400, {"error": {"message": "Bad Request"}}),
        ("stream_options", 500, {"error": "unknown field stream_options"}),
        ("temperature", 422, "no"),
    ],
)
def test_a_field_that_is_refused_is_left_out_from_then_on(field, status, message) -> None:
    server = Server(before=refuses(field, status, message), stream_usage=field != "stream_options")
    respond_as = server.handle

    def handle(request: httpx2.Request) -> Reply:
        asked = json.loads(request.content or b"{}")
        if "max_completion_tokens" in asked:
            asked["max_tokens"] = asked.pop("max_completion_tokens")
            reply = respond(server.manners, "POST", "", request.headers, json.dumps(asked).encode())
            return server.before(request) or reply
        return respond_as(request)

    server.transport.handle = handle
    with server.endpoint() as endpoint:
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        before = len(server.posts)
        endpoint.generate(PROMPT, 4)
        again = server.posts[before:]
        assert all(field not in json.loads(r.content) for r in again)
        assert len(again) == (2 if field == "stream_options" else 1)
        assert any(f"refuses {field}" in note for note in endpoint.notes)


def test_a_refusal_that_nothing_helps_keeps_its_first_words() -> None:
    words = {"error": {"message": "This model's maximum context length is 8 tokens, max_tokens 4"}}
    server = Server(before=lambda r: said_json(400, words) if is_post(r) else None)
    with server.endpoint() as endpoint:
        for _ in range(2):
            with pytest.raises(RejectedRequest, match="400: This model's maximum context length"):
                endpoint.generate(PROMPT, 4)
        assert len(server.posts) < 12
        server.before = lambda r: None
        assert endpoint.generate(PROMPT, 4).n_output_tokens == 4
        asked = json.loads(server.posts[-1].content)
        assert {"max_tokens", "temperature", "stream_options"} <= {*asked}


def test_the_user_s_own_fields_stay() -> None:
    server = Server(before=refuses("temperature", 400, openai("temperature")))
    with pytest.raises(RejectedRequest, match="temperature"):
        server.ask(extra={"temperature": 0.5})
