"""What a log's cells ask: prompts as they are, of chats what the last user turn says.

In: a column of prompts or chats; chats as lists, or as the text of one: JSON, or what Python writes
of a list. Out: a text per row, None where a row has none. A text that looks like a chat and cannot
be read as one is an error that names the row: it is never taken for the prompt.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from cr2fast._core import Cr2Error, text_of
from cr2fast._util.checks import shown, some

# Longer text is not parsed as Python, which takes many times its bytes.
_LONGEST = 1 << 20
_KEY = r"""['"]{}['"]\s*:"""
_OPENS = re.compile(r"""\s*(?:\[\s*)?\{\s*['"]""")
_LIST = re.compile(r"""\[\s*['"]""")
_ROLE, _SAYS = re.compile(_KEY.format("role")), re.compile(_KEY.format("(?:content|tool_calls)"))
_WHOLE = re.compile(r"\s*\{\s*" + _KEY.format("messages"))
# What polars writes of a list of structs, and libraries of their own objects.
_OTHERS = re.compile(
    r"""\s*\[\s*\{\s*['"](?:system|developer|user|assistant|tool)['"]\s*,"""
    r"""|\s*\[?\s*\w*Message\w*\(\s*\w+\s*="""
)
_TEXT_PARTS = ("input_text", "output_text")
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def texts(values: Iterable[Any], what: str, chats: bool) -> list[str | None]:
    """What was asked.

    Parameters
    ----------
    values : iterable
        Cells: text, lists or objects.
    what : str
        What errors call the column.
    chats : bool
        Whether the column is one of chats, in which also a torn one is none of a prompt.
    """
    cells = list(values)
    read = [_read(value, chats) for value in cells]
    wrong = [row for row, text in enumerate(read) if text is False]
    if wrong:
        raise Cr2Error(
            f"{what}: expected prompts, or chats as lists or JSON, got what looks like a chat and "
            f"cannot be read as one in {some([f'row {row}' for row in wrong])}, the first "
            f"{shown(cells[wrong[0]])}; write chats with json.dumps, or save the log as JSON Lines "
            f"or Parquet"
        )
    return [None if text is False else text for text in read]


def _read(value: Any, chats: bool) -> str | Literal[False] | None:
    """What was asked; False where a text looks like a chat and is none."""
    try:
        return said(value, chats)
    except _NotReadError:
        return False


def prompts(values: Sequence[Any], what: str) -> list[Any]:
    """As :func:`texts` of a column of prompts, but empty ones stay, and whatever is no text."""
    strings = [value if isinstance(value, str) else None for value in values]
    read = texts(strings, what, chats=False)
    return [
        value if text is None and (not isinstance(value, str) or not value.strip()) else text
        for value, text in zip(values, read, strict=True)
    ]


class _NotReadError(Exception):
    """A text looks like a chat, and is none."""


def said(value: Any, chats: bool = False) -> str | None:
    """The text of a prompt or a chat; None where there is none to read."""
    value = _parsed(value, chats) if isinstance(value, str) else _meant(value)
    if isinstance(value, str):
        return value if value.strip() else None
    if not value:
        return None
    try:
        text: str = text_of(value)
    except (TypeError, ValueError):
        # No chat, or none with a user's turn.
        return None
    return text if text.strip() else None


def _parsed(text: str, chats: bool) -> Any:
    """The messages that a text is, or the text: most prompts are just text."""
    stripped = text.strip()
    opens = stripped[:1] in ("[", "{")
    alike = bool(_OTHERS.match(text)) or (opens and _looks_like_a_chat(text))
    if not (opens or alike):
        return text
    closes = stripped[-1:] == {"[": "]", "{": "}"}.get(stripped[:1], ")")
    if not closes:
        # In a column of prompts something else may follow a chat.
        if alike and (chats or not _begins_with_json(stripped)):
            raise _NotReadError
        return text
    found = _value(stripped, alike)
    if found is not None and not _is_data(found):
        meant = _meant(found)
        if meant is not None or not alike:
            return meant
    elif not alike or found is not None:
        return text
    raise _NotReadError


def _begins_with_json(text: str) -> bool:
    try:
        json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _looks_like_a_chat(text: str) -> bool:
    if _WHOLE.match(text):
        return True
    return bool(_OPENS.match(text) and _ROLE.search(text) and _SAYS.search(text))


def _value(text: str, alike: bool) -> Any:
    """What a text is the JSON of, or, where it looks like a chat, what Python wrote as this."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if not (alike or _LIST.match(text)) or len(text) > _LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _meant(found: Any) -> Any:
    """The prompt or the messages of what a cell holds, None of neither."""
    if isinstance(found, dict):
        found = [found] if _is_turn(found) else found.get("messages")
    if not (isinstance(found, (list, tuple)) and found):
        return None
    if all(isinstance(item, str) for item in found):
        # As an API takes them: one prompt, or several, which are none.
        return found[0] if len(found) == 1 else None
    if not all(isinstance(turn, dict) for turn in found):
        return None
    # Items of a Responses input that are no messages have no role.
    return [_plain(turn) for turn in found if turn.get("role") is not None] or None


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in _ROLES and "content" in value


def _is_data(found: Any) -> bool:
    """Whether somebody asks about this value: no chat, whatever its keys, and no prompts."""
    if isinstance(found, dict):
        return not (_is_turn(found) or isinstance(found.get("messages"), list))
    if not isinstance(found, (list, tuple)) or not found:
        return True
    if all(isinstance(item, str) for item in found):
        return False
    plain = (dict, list, str, int, float, type(None))
    return all(isinstance(item, plain) for item in found) and not any(map(_is_turn, found))


def _plain(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn whose text is called text, as in a chat."""
    content = turn.get("content")
    if not isinstance(content, (list, tuple)):
        return turn
    parts = [
        part | {"type": "text"}
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS
        else part
        for part in content
    ]
    return turn | {"content": parts}
