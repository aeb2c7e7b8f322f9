"""Prompts that come twice: known as one, kept in one part of a split."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from cr2fast.data.content import groups, keys, normalised

SAME = [
    ("Who wrote Hamlet?", "who wrote  hamlet"),
    ("Who wrote Hamlet?", "\tWho wrote\nHamlet ?!"),
    ("Ｗｈｏ wrote Ｈａｍｌｅｔ？", "Who wrote Hamlet?"),
    ("Straße", "STRASSE"),
    ("Hello, world.", "hello world"),
    ("a\u200bb", "ab"),
    ("e\u0301tude", "\u00e9tude"),
    ('He said "no".', "he said no"),
]
OTHER = [
    ("What is 1.5 + 2?", "What is 15 + 2?"),
    ("x - y", "x + y"),
    ("x = -5", "x = 5"),
    ("a*b", "a/b"),
    ("room 12", "room 21"),
    ("???", "!!!"),
    ("A. yes\nB. no", "A. no\nB. yes"),
    ("3 < 4", "3 > 4"),
    ("naïve", "naive"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_texts_that_differ_in_dress_only_are_one(a, b):
    assert normalised(a) == normalised(b) != ""


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_texts_that_ask_something_else_are_two(a, b):
    assert normalised(a) != normalised(b)


def test_rows_are_grouped_by_text_and_without_text_by_embedding():
    x = np.float32([[1, 2], [1, 2], [0.0, 3], [-0.0, 3]])
    assert groups(keys(None, x)).tolist() == [0, 0, 2, 2]
    assert groups(keys(["a", "b", "B.", "c"], x)).tolist() == [0, 1, 1, 3]
    # A row is found whether or not either side has its text; other texts of one embedding, as a
    # truncated prompt has, are two.
    kept, asked = keys(["a"] * 4, x).kept, keys(None, x).asked
    assert np.isin(asked, kept).any(axis=1).all()
    assert np.isin(keys(["a"] * 4, x).asked, keys(None, x).kept).any(axis=1).all()
    assert not np.isin(keys(["b"] * 4, x).asked, kept).any()


def test_a_row_without_a_text_goes_by_its_embedding_alone():
    x = np.float32([[1], [1], [2], [2]])
    mixed = keys(["a", None, None, "b"], x)
    assert groups(mixed).tolist() == [0, 0, 2, 2]
    assert np.isin(mixed.asked[1], mixed.kept[0]).any()
    assert groups(keys([None, None, "A!", "a"], x)).tolist() == [0, 0, 2, 2]


def repeated(table, times, dress=str):
    """Every query `times` over under new ids, its text dressed anew."""
    rows = np.tile(np.arange(len(table)), times)
    texts = [f"question {i} of {len(table)}" for i in range(len(table))] * times
    ids = tuple(f"{k}/{i}" for k, i in enumerate(rows))
    extra = {"text": [dress(t) if k >= len(table) else t for k, t in enumerate(texts)]}
    take = {
        f: getattr(table, f)[rows]
        for f in ("embeddings", "correct", "n_input_tokens", "n_output_tokens")
    }
    categories = tuple(table.categories[i] for i in rows)
    return replace(table, query_ids=ids, categories=categories, extra=extra, **take)


@pytest.mark.parametrize("dress", [str, str.upper, "{}  ?".format, " {}.".format])
@pytest.mark.parametrize("seed", range(3))
def test_a_split_keeps_what_says_the_same_together(problem, dress, seed):
    table = repeated(problem.table.take(range(400)), 3, dress)
    parts = table.split((0.6, 0.2, 0.2), seed=seed)
    assert sum(map(len, parts)) == len(table)
    seen = [{normalised(t) for t in p.extra["text"]} for p in parts]
    assert sum(map(len, seen)) == len(set.union(*seen))
    for part, fraction in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert abs(len(part) - fraction * len(table)) <= 3
    again = table.split((0.6, 0.2, 0.2), seed=seed)
    assert [p.query_ids for p in again] == [p.query_ids for p in parts]


def test_a_split_without_texts_goes_by_embeddings(problem):
    table = replace(repeated(problem.table.take(range(300)), 2), extra={})
    parts = table.split((0.5, 0.5))
    seen = [{r.tobytes() for r in p.embeddings} for p in parts]
    assert not seen[0] & seen[1]


def test_a_few_repeats_leave_nearly_all_other_queries_where_they_were(problem):
    """Figures of splits that were made before stay comparable."""
    table = problem.table
    ids = set(table.split()[2].query_ids)
    x = table.embeddings.copy()
    x[1], x[7] = x[0], x[3]
    moved = ids ^ set(replace(table, embeddings=x).split()[2].query_ids)
    assert len(moved) <= 12


def test_too_few_different_queries_are_named(problem):
    small = repeated(problem.table.take([0]), 50)
    with pytest.raises(cr2fast.Cr2Error, match="50 queries, of which 1 say different things"):
        small.split()


@pytest.mark.parametrize(
    "x",
    [np.zeros((200, 40)), np.full((200, 40), 0.3), np.tile(np.linspace(-1, 1, 40), (200, 1)),
     np.arange(200)[:, None] * np.ones(40), 1 + 1e-6 * np.random.default_rng(0).normal(size=(200, 40))],
)  # fmt: skip
def test_a_fit_on_one_embedding_warns(problem, x):
    """Issue 13, item 6."""
    train = replace(problem.table.take(range(200)), embeddings=x.astype(np.float32))
    quick = {"hidden": 8, "teacher_epochs": 1, "gate_epochs": 1, "progress": False}
    with pytest.warns(UserWarning, match="embeddings of all 200 queries are the same"):
        cr2fast.fit(train, problem.costs, **quick)


def test_mmlu_pro_repeats_159_prompts_to_the_letter_and_none_nearly(data_dir):
    """So the rule for near repeats joins no two of its questions that differ."""
    import polars as pl

    q = pl.read_parquet(data_dir / "mmlu_pro_queries.parquet", columns=["text", "embedding"])
    texts, x = q["text"].to_list(), q["embedding"].to_numpy()
    first = groups(keys(texts, x))
    assert len(texts) - len(set(texts)) == len(texts) - len(set(first.tolist())) == 159
    assert max(Counter(first.tolist()).values()) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What isn't x?", "What isn’t x?"),
        ("a - b", "a – b"),
        ("a", "a\0"),
        ("a b", "a\x07 b"),
        ("a", "a\ufe0f"),
        ("ab", "a\u034fb"),
        ("a", "a\u3164"),
    ],
)
def test_typography_and_what_is_unseen_make_no_other_text(one, other):
    assert normalised(one) == normalised(other)
    assert normalised(one)


def test_rows_that_the_overlap_check_calls_equal_stay_together(problem):
    """Half of the rows have a text, the other half is the same embeddings without one."""
    n = len(problem.table) // 2
    embeddings = problem.table.embeddings[: 2 * n].copy()
    embeddings[n:] = embeddings[:n]
    table = replace(
        problem.table.take(np.arange(2 * n)),
        embeddings=embeddings,
        categories=None,
        extra={"text": [f"question {i}" for i in range(n)] + [None] * n},
    )
    train, rest = table.split((0.5, 0.5), seed=0)
    assert not np.isin(rest.content.asked, train.content.kept).any()


def test_masked_fractions_are_refused(problem):
    with pytest.raises(cr2fast.Cr2Error, match="fractions"):
        problem.table.split(np.ma.array([0.5, 0.3, 0.2], mask=[0, 1, 0]))
