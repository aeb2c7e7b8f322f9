"""What of a request is embedded: a text as it is, or the last user turn of a chat.

In: a string, or chat messages in the OpenAI format. Out: a string. The rule stands in
the compiled module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cr2fast._core import text_of, texts_of

Text: TypeAlias = "str | Sequence[Mapping[str, Any]]"

__all__ = ["Text", "text_of", "texts_of"]
