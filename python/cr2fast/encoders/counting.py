"""How many tokens a text counts for under the tokenizer of an encoder.

In: a tokenizer of the library `tokenizers`. Out: a counter with ``count_tokens(text)``. The rule
stands in the compiled module, where a static encoder and the gateway have it too: words that a
vocabulary cannot read count by their bytes, and no text counts for next to nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

from cr2fast._core import Cr2Error, TokenCounter, counted_tokens

# A tokenizer's `encode` holds the interpreter's lock, half a microsecond per character, which stops
# a server's event loop; its batch call does not, but runs on a pool of threads that it starts.
LONG_CHARS = 2048
_SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


class Counter(Protocol):
    """Whatever counts the tokens of a text, special ones left out."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a whole text."""


def counter(tokenizer: Any, document: dict[str, Any]) -> Counter:
    """A counter by a tokenizer, and by `document`, which is what the library writes of it.

    Of BERT's uncased tokenizer it counts as a static encoder with the same vocabulary does.
    """
    added = document.get("added_tokens") or []
    plain = all(
        not any(token.get(k) for k in ("normalized", "single_word", "lstrip", "rstrip"))
        for token in added
    )
    if plain and {token.get("content") for token in added} == _SPECIAL:
        try:
            return TokenCounter(bert_vocabulary(document))
        except Cr2Error:
            pass  # Another tokenizer.
    return _Library(tokenizer, document)


class _Library:
    """Counts by the library, whatever the tokenizer."""

    def __init__(self, tokenizer: Any, document: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        model = document.get("model") or {}
        word = model.get("unk_token")
        self._unknown = model.get("unk_id") if word is None else tokenizer.token_to_id(word)

    def count_tokens(self, text: str) -> int:
        unknown = self._unknown
        encoding = encoded(self._tokenizer, text)
        ids = encoding.ids
        sizes: list[int] = []
        if unknown is not None and unknown in ids:
            if len(text) > LONG_CHARS:  # The fast call has left out where tokens stand.
                encoding = self._tokenizer.encode_batch([text])[0]
            spans = zip(ids, encoding.offsets, strict=True)
            sizes = [len(text[start:end].encode()) for i, (start, end) in spans if i == unknown]
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        return counted_tokens(len(ids) - special, sizes, len(text.encode()))


def encoded(tokenizer: Any, text: str) -> Any:
    """What a tokenizer makes of a text, without offsets where the text is long."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Cr2Error(f"text: expected text that UTF-8 can hold, got {error}") from None
    if len(text) <= LONG_CHARS:
        return tokenizer.encode(text)
    # The fast one leaves out offsets; older versions of the library have only the other.
    batch = getattr(tokenizer, "encode_batch_fast", None) or tokenizer.encode_batch
    return batch([text])[0]


def bert_vocabulary(document: dict[str, Any]) -> list[str]:
    """Tokens by id of BERT's uncased tokenizer; an error for any other."""
    model, normalizer = document.get("model") or {}, document.get("normalizer") or {}
    expected = {
        "normalizer": (
            normalizer.get("type"),
            normalizer.get("lowercase"),
            normalizer.get("clean_text"),
            normalizer.get("handle_chinese_chars"),
            normalizer.get("strip_accents") in (None, True),
        )
        == ("BertNormalizer", True, True, True, True),
        "pre_tokenizer": (document.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer",
        "model": (
            model.get("type"),
            model.get("continuing_subword_prefix"),
            model.get("max_input_chars_per_word"),
            model.get("unk_token"),
        )
        == ("WordPiece", "##", 100, "[UNK]"),
    }
    if wrong := [name for name, good in expected.items() if not good]:
        raise Cr2Error(
            f"encoder: expected BERT's uncased WordPiece tokenizer, got another {wrong[0]}: "
            f"{str(document.get(wrong[0]))[:120]}"
        )
    tokens = sorted(model["vocab"].items(), key=lambda item: int(item[1]))
    if [i for _, i in tokens] != list(range(len(tokens))):
        raise Cr2Error("encoder: expected a vocabulary numbered from 0 without gaps, got another")
    return [t for t, _ in tokens]
