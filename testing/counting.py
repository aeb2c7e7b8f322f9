"""The slow twin of how many tokens a text counts for: by the library `tokenizers`, word by word."""

from __future__ import annotations

import re

from tokenizers.normalizers import BertNormalizer

SPECIAL = re.compile(r"\[(?:PAD|UNK|CLS|SEP|MASK)\]")
_CLEAN = BertNormalizer(
    clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
)
_STRIP = BertNormalizer(
    clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False
)


def hidden(text):
    """Bytes of the characters that BERT drops: those it cleans away, and nonspacing marks."""
    dropped = [c for c in text if not _CLEAN.normalize_str(c) or not _STRIP.normalize_str(c)]
    return sum(len(c.encode()) for c in dropped)


def reading(tokenizer, text):
    """Tokens of spelled words, bytes of each unknown one, and bytes that are dropped."""
    spelled, unknown, dropped = len(SPECIAL.findall(text)), [], 0
    for part in SPECIAL.split(text):
        dropped += hidden(part)
        clean = tokenizer.normalizer.normalize_str(part)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(clean):
            pieces = [token.value for token in tokenizer.model.tokenize(word)]
            if pieces == ["[UNK]"]:
                unknown.append(len(word.encode()))
            else:
                spelled += len(pieces)
    return spelled, unknown, dropped


def tokens(tokenizer, text):
    """Tokens of a text."""
    spelled, unknown, dropped = reading(tokenizer, text)
    size = len(text.encode())
    read = spelled + sum(-(-n // 3) for n in unknown)
    return max(read, dropped // 3 + max(size - dropped, 0) // 16, min(size, 1))
