"""Which part of a request is embedded: a text as it is, or the last user turn of a chat.

In: a string, or chat messages in the OpenAI format. Out: a string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cr2fast._core import Cr2Error

Text: TypeAlias = "str | Sequence[Mapping[str, Any]]"


def is_chat(value: object) -> bool:
    """Whether `value` is one list of messages, as opposed to a list of texts or of chats."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and len(value) > 0
        and all(isinstance(m, Mapping) for m in value)
    )


def texts_of(value: Text | Sequence[Text]) -> tuple[list[str], bool]:
    """Find the strings of one text or of many.

    Parameters
    ----------
    value : str, chat messages, or a sequence of these

    Returns
    -------
    strings : list of str
    many : bool
        Whether `value` was a sequence of texts.

    Raises
    ------
    TypeError, Cr2Error
        Something is no text; the message names its place.
    """
    if isinstance(value, str) or is_chat(value):
        return [text_of(value)], False  # type: ignore[arg-type]
    if isinstance(value, bytes) or not isinstance(value, Sequence):
        raise TypeError(
            f"texts: expected a string, chat messages, or a list of them, got "
            f"{type(value).__name__}"
        )
    return [text_of(t, f"texts[{i}]") for i, t in enumerate(value)], True  # type: ignore[arg-type]


def text_of(value: Text, what: str = "text") -> str:
    """Find the string to embed.

    Parameters
    ----------
    value : str or list of dict
        A text, or messages ``{"role": ..., "content": ...}``; a content is a string or a list of
        parts, of which those of type "text" count. The system prompt and earlier turns are left
        out: they differ little between requests, and the question is in the last user turn.
    what : str
        What errors call the value.

    Raises
    ------
    TypeError
        Neither a string nor messages.
    Cr2Error
        Messages without a user turn, or a content without text.
    """
    if isinstance(value, str):
        return value
    if not is_chat(value):
        raise TypeError(
            f"{what}: expected a string or a list of chat messages, got {type(value).__name__}"
        )
    users = [m for m in value if m.get("role") == "user"]
    if not users:
        roles = [m.get("role") for m in value]
        raise Cr2Error(f"{what}: expected a message with role 'user', got the roles {roles}")
    content = users[-1].get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        parts = [p for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
        texts = [p["text"] for p in parts if isinstance(p.get("text"), str)]
        if texts:
            return "\n".join(texts)
    raise Cr2Error(
        f"{what}: expected text in the last user turn, got a content of type "
        f"{type(content).__name__} without any"
    )
