"""What of a request is embedded."""

from __future__ import annotations

import pytest

import cr2fast
from cr2fast.encoders.messages import text_of, texts_of


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
