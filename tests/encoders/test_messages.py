"""What of a request is embedded."""

from __future__ import annotations

import pytest

import cr2fast
from cr2fast.encoders.messages import text_of, texts_of
from testing.letters import letters
from testing.routers import small


def turn(role, content):
    return {"role": role, "content": content}


def test_a_string_is_itself_and_a_chat_is_its_last_user_turn():
    assert text_of("a") == "a"
    chat = [
        turn("system", "s"),
        turn("user", "first"),
        turn("assistant", "x"),
        turn("user", "last"),
    ]
    assert text_of(chat) == "last"
    assert text_of([*chat, turn("assistant", "prefill")]) == "last"


def test_parts_of_text_are_joined_and_others_left_out():
    parts = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "this?"},
    ]
    assert text_of([turn("user", parts)]) == "what is\nthis?"


def test_lists_of_texts_and_of_chats_are_no_chat():
    assert texts_of([turn("user", "a")]) == (["a"], False)
    assert texts_of("a") == (["a"], False)
    for many, texts in (([], []), (["a"], ["a"]), ([[turn("user", "a")], "b"], ["a", "b"])):
        assert texts_of(many) == (texts, True)
    for other in (b"a", None, {"role": "user"}):
        with pytest.raises(TypeError, match="expected a string, chat messages, or a list of them"):
            texts_of(other)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, TypeError, "text: expected a string or a list of chat messages, got NoneType"),
        (b"bytes", TypeError, "got bytes"),
        ([], TypeError, "got list"),
        (["a"], TypeError, "got list"),
        ([turn("system", "s")], cr2fast.Cr2Error, r"role 'user', got the roles \['system'\]"),
        ([turn("user", None)], cr2fast.Cr2Error, "content of type NoneType"),
        ([{"role": "user"}], cr2fast.Cr2Error, "content of type NoneType"),
        ([turn("user", [{"type": "image_url"}])], cr2fast.Cr2Error, "content of type list"),
        ([turn("user", [{"type": "text", "text": 3}])], cr2fast.Cr2Error, "content of type list"),
    ],
)
def test_what_holds_no_text_is_refused(value, error, words):
    with pytest.raises(error, match=words):
        text_of(value)


@pytest.fixture(scope="module")
def routed():
    encoder = letters(24)
    return small(encoder.info, 24, alphas=(0.1,), lams=[1.0]), encoder


class Slow:
    """The same encoder behind the interface of others."""

    def __init__(self, encoder):
        self.info, self.encode = encoder.info, encoder.encode
        self.count_tokens = encoder.count_tokens


def image(text):
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "x"}}]


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ([turn("user", image("a"))], r"a part of type 'image_url' in messages\[0\]"),
        ([turn("user", image("a")), turn("user", "b")], "a part of type 'image_url'"),
        ([turn("user", "a"), turn("tool", [{"type": "file"}])], r"'file' in messages\[1\]"),
        ([turn("user", [{"type": "text", "text": "a", "file": {}}])], "a part with 'file'"),
        ([turn("assistant", None) | {"audio": {"id": "1"}}, turn("user", "a")], "got audio in"),
        ([turn("system", {"type": "text"}), turn("user", "a")], "a content that is one part"),
        ([turn("user", [{"type": "x" * 10_000}])], "a part of type 'xxx"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda e: e, Slow], ids=["static", "other"])
def test_a_chat_of_more_than_text_is_not_routed_by_its_text(routed, chat, words, wrap):
    router, encoder = routed
    two, device = router.two_stage(1.0, 0.1), router.device(1.0, 0.1)
    for route in (two.route_text, device.route_text):
        with pytest.raises(
            cr2fast.Cr2Error, match=f"text: expected a chat of text, .*{words}"
        ) as e:
            route(chat, wrap(encoder))
        assert "cr2fast.integrations take the edge" in str(e.value)
        assert len(str(e.value)) < 400
    with pytest.raises(cr2fast.Cr2Error, match=rf"texts\[1\]: .*{words}"):
        device.route_texts(["a", chat], wrap(encoder))


@pytest.mark.parametrize("wrap", [lambda e: e, Slow], ids=["static", "other"])
def test_calls_of_tools_are_input_that_is_not_embedded(routed, wrap):
    router, encoder = routed
    two = router.two_stage(1.0, 0.1)
    call = {"id": "1", "function": {"name": "f", "arguments": "a " * 500}}
    chat = [
        turn("assistant", None) | {"tool_calls": [call]},
        turn("tool", "b"),
        turn("user", "a c"),
    ]
    made, plain = (two.route_text(c, wrap(encoder)) for c in (chat, "a c"))
    count = encoder.count_tokens
    assert made.n_input_tokens == count("f") + count("a " * 500) + count("b") + count("a c")
    assert made.margin == plain.margin
    refused = turn("assistant", [{"type": "refusal", "refusal": "a b"}]) | {"refusal": "d"}
    refused |= {"reasoning_content": "e f", "function_call": {"name": "g", "arguments": {"x": 1}}}
    made = two.route_text([refused, turn("user", "a c")], wrap(encoder))
    assert made.n_input_tokens == sum(map(count, ["a b", "d", "e f", "g", '{"x":1}', "a c"]))


@pytest.mark.parametrize("wrap", [lambda e: e, Slow], ids=["static", "other"])
def test_a_list_of_texts_is_told_what_takes_it(routed, wrap):
    router, encoder = routed
    two, device = router.two_stage(1.0, 0.1), router.device(1.0, 0.1)
    with pytest.raises(TypeError, match="got a list of them; use route_texts for it"):
        device.route_text(["a", "b"], wrap(encoder))
    with pytest.raises(
        TypeError, match="call route_text for each, or embed them and use route_batch"
    ):
        two.route_text(["a", "b"], wrap(encoder))
    edge = router.edge(1.0)
    with pytest.raises(TypeError, match="call select_text for each, or embed .* use select_batch"):
        edge.select_text(["a", "b"], wrap(encoder))
    assert hasattr(edge, "select_batch")
    assert hasattr(device, "route_texts")
    assert hasattr(two, "route_batch")
    with pytest.raises(TypeError, match="got a list of them; call it for each"):
        encoder.count_tokens(["a", "b"])
