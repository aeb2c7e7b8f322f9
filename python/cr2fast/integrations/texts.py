"""What of a request decides, and what of it a model reads: its texts, tools and schemas.

In: a request's fields, as a client is called with them. Out: :class:`Asked`; the same texts as of
the gateway (``rust/gateway/src/ask``), which counts the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cr2fast._core import Cr2Error
from cr2fast.encoders.messages import text_of

_CHAT = ("text",)
_RESPONSE = ("input_text", "output_text")
_CALLS = ("function_call", "custom_tool_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_MEDIA = ("image_url", "input_audio", "file")
# What is read of a request.
_FIELDS = (
    "messages", "prompt", "input", "instructions", "tools", "functions", "documents",
    "response_format", "text", "suffix", "modalities", "audio", "prompt_embeds",
)  # fmt: skip


class Asked(NamedTuple):
    """The texts of a request.

    Attributes
    ----------
    embedded : str or None
        What decides: the last user turn; None where the models would see more than text.
    counted : list of str
        Every text, for counting tokens: those of the turns, what assistants called, refused and
        thought, and the schemas of tools and of the answer as JSON.
    """

    embedded: str | None
    counted: list[str]


def of_messages(messages: Any) -> Asked:
    """Texts of a chat's turns."""
    return of_chat({"messages": messages})


def of_chat(fields: Mapping[str, Any]) -> Asked:
    """Texts of a chat completion."""
    fields = _given(fields)
    turns = _list(fields.get("messages"))
    only_text = not _is_beyond_text(fields)
    counted: list[str] = []
    if not all(isinstance(turn, Mapping) for turn in turns):
        turns = []
    for turn in turns:
        only_text &= turn.get("audio") is None
        only_text &= _content(turn.get("content"), _CHAT, counted)
        for key in ("refusal", "reasoning_content"):
            _count(turn.get(key), counted)
        for call in _list(turn.get("tool_calls")):
            if isinstance(call, Mapping):
                _count_call(call.get("function"), counted)
                _count_call(call.get("custom"), counted)
        _count_call(turn.get("function_call"), counted)
    for key in ("tools", "functions", "documents"):
        _count(_list(fields.get(key)) or None, counted)
    _count_shape(fields.get("response_format"), counted)
    try:
        return Asked(text_of(turns) if only_text and turns else None, counted)
    except (TypeError, Cr2Error):
        return Asked(None, counted)


def of_completion(fields: Mapping[str, Any]) -> Asked:
    """The text of a completion's prompt; several prompts or tokens decide nothing."""
    fields = _given(fields)
    prompt = fields.get("prompt")
    several = [prompt] if isinstance(prompt, str) else _list(prompt)
    counted = [p for p in several if isinstance(p, str)]
    embedded = counted[0] if len(several) == len(counted) == 1 else None
    _count(fields.get("suffix"), counted)
    return Asked(None if _is_beyond_text(fields) else embedded, counted)


def of_response(fields: Mapping[str, Any]) -> Asked:
    """The texts of a Responses call."""
    fields = _given(fields)
    counted: list[str] = []
    if isinstance(instructions := fields.get("instructions"), str):
        counted.append(instructions)
    value = fields.get("input")
    embedded, only_text = None, not _is_beyond_text(fields) and fields.get("prompt") is None
    if isinstance(value, str):
        counted.append(value)
        embedded = value
    items = _list(value)
    for item in items if all(isinstance(i, Mapping) for i in items) else []:
        kind = item.get("type")
        if kind is None or kind == "message":
            found: list[str] = []
            only_text &= _content(item.get("content"), _RESPONSE, counted, found)
            if item.get("role") == "user":
                embedded = found[0] if found else None
        elif kind in _OUTPUTS:
            only_text &= _content(item.get("output"), _RESPONSE, counted)
        elif kind in _CALLS:
            _count_call(item, counted)
        elif kind == "reasoning":
            parts = [*_list(item.get("summary")), *_list(item.get("content"))]
            said = [part.get("text") for part in parts if isinstance(part, Mapping)]
            counted += [text for text in said if isinstance(text, str)]
        else:
            only_text = False
    _count(_list(fields.get("tools")) or None, counted)
    settings = fields.get("text")
    _count_shape(settings.get("format") if isinstance(settings, Mapping) else None, counted)
    return Asked(embedded if only_text else None, counted)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a request's JSON would hold: no arguments that were left out, objects as JSON."""
    extra = fields.get("extra_body")
    extra = extra if isinstance(extra, Mapping) else {}
    return {k: _plain(v) for k, v in {**fields, **extra}.items() if k in _FIELDS}


def _plain(value: Any) -> Any:
    """Lists and objects as JSON has them, None of an argument that is left out."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if hasattr(value, "model_dump") and not isinstance(value, type):
        # An answer's message, sent back as a turn.
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else None


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _is_beyond_text(fields: Mapping[str, Any]) -> bool:
    """Whether the models would see or give more than the text that is here."""
    modalities = fields.get("modalities")
    spoken = modalities is not None and not (
        isinstance(modalities, list) and all(word == "text" for word in modalities)
    )
    return spoken or any(fields.get(key) is not None for key in ("audio", "prompt_embeds"))


def _content(
    content: Any, kinds: Sequence[str], counted: list[str], found: list[str] | None = None
) -> bool:
    """Count a content as the one text that it is, also in `found`; whether it is only text."""
    if isinstance(content, str):
        counted.append(content)
        if found is not None:
            found.append(content)
        return True
    only_text, texts = not isinstance(content, Mapping), []
    for part in _list(content):
        if not isinstance(part, Mapping):
            continue
        only_text &= all(part.get(key) is None for key in _MEDIA)
        if part.get("type") in kinds:
            texts += [part["text"]] if isinstance(part.get("text"), str) else []
        elif part.get("type") == "refusal":
            _count(part.get("refusal"), counted)
        else:
            only_text = False
    if texts:
        counted.append("\n".join(texts))
        if found is not None:
            found.append(counted[-1])
    return only_text


def _count(value: Any, counted: list[str]) -> None:
    """Count a value: a string by what it says, anything else by its compact JSON."""
    if value is None:
        return
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    counted.append(value)


def _count_call(call: Any, counted: list[str]) -> None:
    if isinstance(call, Mapping):
        for key in ("name", "arguments", "input"):
            _count(call.get(key), counted)


def _count_shape(shape: Any, counted: list[str]) -> None:
    """Count the schema that an answer is to have."""
    if isinstance(shape, Mapping) and any(
        shape.get(key) is not None for key in ("json_schema", "schema")
    ):
        _count(shape, counted)
