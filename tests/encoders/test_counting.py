"""How many tokens a text counts for: one rule for every encoder, by which no text is next to free."""

from __future__ import annotations

import base64
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

import cr2fast
from cr2fast._core import TokenCounter, counted_tokens
from cr2fast.data.queries import QueryTable
from cr2fast.encoders.counting import counter
from testing import counting
from testing.letters import letters
from testing.routers import small

D = 8
MANY = 10**6
# Words that are known, that are not, that are too long, and what is dropped.
PARTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["the ", "quick", "[CLS]", "[UNK", "ก", "ガ", "한", "漢", "é", "e\u0301", "\u0323", "\u200d", "\x01",
         "🙂", "∀x", "İ", "\ue000", "\u3000", " ", "\n\t", "!", "x", "ß", "\ufeff", "\u0344"]
    ),
)  # fmt: skip
TEXTS = st.lists(st.tuples(PARTS, st.sampled_from([1, 1, 1, 2, 40, 101, 300])), max_size=8).map(
    lambda parts: "".join(part * times for part, times in parts)
)


@pytest.fixture(scope="module")
def minilm():
    return cr2fast.Encoder.load("minilm")


@given(TEXTS)
def test_a_text_counts_for_what_the_twin_says(minilm, text):
    expected = counting.tokens(minilm._tokenizer, text)
    assert minilm.count_tokens(text) == expected
    # Never fewer than there are ids, and never next to none.
    assert expected >= len(minilm._tokenizer.encode(text).ids) - 2
    assert expected + 1 >= len(text.encode()) / 17


@given(TEXTS)
def test_a_static_encoder_counts_as_its_tokenizer_does(minilm, text):
    table = letters(D)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += [start + c for start in ("", "##") for c in "abcdefghijklmnopqrstuvwxyz"]
    assert table.count_tokens(text) == TokenCounter(vocabulary).count_tokens(text)
    same = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    same.normalizer, same.pre_tokenizer = (
        minilm._tokenizer.normalizer,
        minilm._tokenizer.pre_tokenizer,
    )
    assert table.count_tokens(text) == counting.tokens(same, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("a" * MANY, 333_334),
        ("a" * 100, 50),
        ("a" * 101, 34),
        ("สวัสดี" * 1000, 4_000),
        ("さようなら" * 1000, 5_000),
        ("漢字" * 1000, 2_000),
        ("🙂", 2),
        ("🙂" * 1000, 1_334),
        ("∀x ⊃ y", 4),
        (" " * MANY, 62_500),
        ("\n" * MANY, 62_500),
        ("\u200b" * 1000, 1_000),
        ("\x00" * 3000, 1_000),
        ("e" + "\u0301" * 3000, 2_000),
    ],
)
def test_what_a_vocabulary_cannot_read_counts_by_its_bytes(minilm, text, expected):
    assert minilm.count_tokens(text) == expected
    chat = [{"role": "system", "content": "x"}, {"role": "user", "content": text}]
    assert minilm.count_tokens(chat) == expected, "the last user turn"


@pytest.mark.parametrize(
    "text",
    [
        "Which planet is largest?",
        "internationalization of telecommunications",
        "Donaudampfschifffahrtsgesellschaftskapitän",
        "naïve café, déjà vu; nghiễng Tiếng Việt; příliš žluťoučký kůň",
        "nghie\u0302\u0303ng Tie\u0302\u0301ng Vie\u0323\u0302t",
        "Съешь же ещё этих мягких французских булок",
        "我能吞下玻璃而不伤身体。",
        "대한민국의 수도는 서울이며",
        "שָׁלוֹם עֲלֵיכֶם",
        "if x:\n" + " " * 40 + "return y\n",
        "| a" + " " * 30 + "| b |\n",
    ],
)
def test_ordinary_text_has_the_vocabularys_tokens(minilm, text):
    assert minilm.count_tokens(text) == len(minilm._tokenizer.encode(text).ids) - 2


def test_base64_has_a_token_per_three_bytes_at_least(minilm):
    text = base64.b64encode(random.Random(0).randbytes(300_000)).decode()
    # Cut at + and /, it has words of more and of fewer than 100 characters.
    assert len(text) / 3 <= minilm.count_tokens(text) <= len(text)


def test_counts_of_real_questions_change_only_where_a_word_is_unknown(data_dir, minilm):
    import polars as pl

    texts = pl.read_parquet(data_dir / "mmlu_pro_queries.parquet")["text"].to_list()
    tokenizer, more = minilm._tokenizer, {}
    unknown = tokenizer.token_to_id("[UNK]")
    for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
        counted, ids = minilm.count_tokens(text), len(encoding.ids) - 2
        if counted != ids:
            assert unknown in encoding.ids
            assert counted == counting.tokens(tokenizer, text)
            more[text] = counted / ids
    assert len(more) == 43
    assert 1 < np.median(list(more.values())) < 1.06
    assert max(more.values()) < 1.5


def test_a_longer_text_never_counts_for_less(minilm):
    for part in ("a", "ก", " ", "\u200b", "🙂", "the ", "\u0301"):
        counts = [minilm.count_tokens(part * n) for n in (1, 10, 102, 1_000, 10_000)]
        assert counts == sorted(counts), part


@pytest.fixture(scope="module")
def others():
    """Tokenizers of other kinds, by what the library writes of them."""
    words = {"<unk>": 0, "hello": 1, "world": 2}
    made = {"words": Tokenizer(models.WordLevel(words, unk_token="<unk>"))}
    made["words"].pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pieces = [("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in "helowrd")]
    made["unigram"] = Tokenizer(models.Unigram(pieces, unk_id=0))
    made["unigram"].normalizer = normalizers.Replace(" ", "▁")
    made["bytes"] = Tokenizer(models.BPE())
    made["bytes"].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made["bytes"].decoder = decoders.ByteLevel()
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made["bytes"].model = models.BPE(alphabet, [])
    return {
        name: counter(tokenizer, json.loads(tokenizer.to_str())) for name, tokenizer in made.items()
    }


def test_other_tokenizers_follow_the_rule_too(others):
    assert others["words"].count_tokens("hello world") == 2
    assert others["words"].count_tokens("hello ประเทศ") == 1 + 6
    assert others["words"].count_tokens("ก" * 100_000) == 100_000
    assert others["words"].count_tokens(" " * MANY) == 62_500
    # Unknown characters in a row are one token of this kind.
    assert others["unigram"].count_tokens("hello") == 5
    assert others["unigram"].count_tokens("hello" + "ก" * 5_000) == 5 + 5_000
    assert others["bytes"].count_tokens("ก" * 1000) == 3_000
    for made in others.values():
        assert made.count_tokens("") == 0
        with pytest.raises(cr2fast.Cr2Error, match="UTF-8"):
            made.count_tokens("\ud800")


def test_a_tokenizer_with_words_of_its_own_is_counted_by_the_library(minilm):
    document = minilm.tokenizer_json
    assert isinstance(counter(minilm._tokenizer, document), TokenCounter)
    own = Tokenizer.from_str(json.dumps(document))
    own.add_tokens([AddedToken("<|tool|>", normalized=False)])
    made = counter(own, json.loads(own.to_str()))
    assert not isinstance(made, TokenCounter)
    assert made.count_tokens("<|tool|> hello") == 2
    assert minilm.count_tokens("<|tool|> hello") == 6
    assert made.count_tokens("ก" * 3_000) == 3_000


def test_counts_of_ids_and_unknown_words():
    assert counted_tokens(5, [], 20) == 5
    assert counted_tokens(5, [3, 4, 0], 20) == 6
    assert counted_tokens(0, [], 160) == 10
    assert counted_tokens(0, [], 1) == 1


@pytest.fixture(scope="module")
def router():
    return small(letters(D).info, D, alphas=(0.1, 0.5), lams=[0.1, 1.0])


class Other:
    """An encoder that is not a table: the same vectors by another way."""

    def __init__(self, encoder):
        self.info, self.encode = encoder.info, encoder.encode
        self.count_tokens = encoder.count_tokens


def test_what_it_costs_and_whether_a_limit_is_kept_follow_the_count(router):
    encoder = letters(D)
    two, edge = router.two_stage(0.1, 0.5), router.edge(0.1)
    # One unknown word each, so one embedding.
    short, long = "ก", "ก" * 30_000
    assert encoder.encode(short).tobytes() == encoder.encode(long).tobytes()
    for by in (encoder, Other(encoder)):
        few, many = two.route_text(short, by), two.route_text(long, by)
        assert (few.n_input_tokens, many.n_input_tokens) == (1, 30_000)
        chosen = [edge.select_text(text, by) for text in (short, long)]
        assert chosen[1].cost >= chosen[0].cost
        assert chosen[1].latency_s > 3 * chosen[0].latency_s
        chat = [{"role": "user", "content": long}, {"role": "user", "content": short}]
        assert two.route_text(chat, by).n_input_tokens == 30_001
        limit = 4 * two.route_text(short, by, max_latency_s=1e6).latency_s
        kept = two.route_text(short, by, max_latency_s=limit)
        assert kept.latency_s <= limit
        with pytest.raises(cr2fast.BudgetError):
            two.route_text(long, by, max_latency_s=limit)


def test_what_is_trained_on_is_counted_as_what_is_served(router):
    encoder = letters(D)
    texts = ["a b", "ก" * 3_000, " " * 4_000, "é🙂" * 500, "x" * 5_000]
    table = QueryTable.read(texts, encoder=encoder, cache=False, progress=False)
    two = router.two_stage(0.1, 0.5)
    served = [two.route_text(text, encoder).n_input_tokens for text in texts]
    assert table.n_input_tokens.tolist() == served == [2, 3_000, 250, 834, 1_667]
