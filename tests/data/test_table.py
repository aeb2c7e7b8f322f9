"""RoutingTable: aligned, checked, split without overlap."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import cr2fast

QUERIES = pl.DataFrame(
    {
        "query_id": ["a", "b", "c"],
        "n_input_tokens": [10, 20, 30],
        "embedding": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
        "category": ["x", "y", "x"],
        "note": ["one", "two", "three"],
    }
).with_columns(pl.col("embedding").list.to_array(2).cast(pl.Array(pl.Float32, 2)))
OUTCOMES = pl.DataFrame(
    {
        "query_id": ["c", "a", "b", "a", "b", "c", "a", "b", "c"],
        "model": ["s", "s", "s", "m", "m", "m", "l", "l", "l"],
        "correct": [True, False, True, True, False, True, True, True, True],
        "n_output_tokens": [3, 1, 2, 11, 12, 13, 21, 22, 23],
    }
)


def read(queries=QUERIES, outcomes=OUTCOMES, local="s", edge=("m", "l"), **options):
    return cr2fast.RoutingTable.read(queries, outcomes, local=local, edge=edge, **options)


def test_rows_and_columns_are_aligned():
    t = read()
    assert t.query_ids == ("a", "b", "c")
    assert t.models == ("s", "m", "l")
    np.testing.assert_array_equal(t.correct, [[0, 1, 1], [1, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(t.n_output_tokens, [[1, 11, 21], [2, 12, 22], [3, 13, 23]])
    np.testing.assert_array_equal(t.n_input_tokens, [10, 20, 30])
    np.testing.assert_array_equal(t.embeddings, np.float32([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]))
    assert t.categories == ("x", "y", "x")
    assert t.extra == {"note": ["one", "two", "three"]}
    assert read(edge=("l",)).correct.tolist() == [[False, True], [True, True], [True, True]]


def test_parquet_and_lists_of_doubles_read_the_same(tmp_path):
    QUERIES.with_columns(pl.col("embedding").arr.to_list().cast(pl.List(pl.Float64))).write_parquet(
        tmp_path / "q.parquet"
    )
    OUTCOMES.write_parquet(tmp_path / "o.parquet")
    t, expected = read(tmp_path / "q.parquet", str(tmp_path / "o.parquet")), read()
    np.testing.assert_array_equal(t.embeddings, expected.embeddings)
    assert t.query_ids == expected.query_ids


@pytest.mark.parametrize(
    ("queries", "outcomes", "options", "words"),
    [
        (QUERIES.drop("embedding", "n_input_tokens"), OUTCOMES, {}, r"queries: .*missing \['n_input_tokens', 'embedding'\]"),
        (QUERIES, OUTCOMES.drop("correct"), {}, r"outcomes: .*missing \['correct'\]"),
        (pl.concat([QUERIES, QUERIES[:1]]), OUTCOMES, {}, "queries: expected unique query_id, got duplicates: 'a'"),
        (QUERIES, pl.concat([OUTCOMES, OUTCOMES[:1]]), {}, r"outcomes: expected one row per .*\('c', 's'\)"),
        (QUERIES, OUTCOMES, {"edge": ("m", "gpt")}, r"got none of \['gpt'\]; the file has \['l', 'm', 's'\]"),
        (QUERIES.with_columns(query_id=pl.col("query_id") + "!"), OUTCOMES, {}, "query ids in common, got none; queries have 'a!'"),
        (QUERIES, OUTCOMES[1:], {}, "1 queries lack some .'c'.; pass incomplete='drop'"),
        (QUERIES, OUTCOMES, {"incomplete": "maybe"}, "incomplete: expected"),
        (QUERIES, OUTCOMES, {"edge": ("m", "m")}, "models: expected a local and at least one edge model, distinct"),
        (QUERIES, OUTCOMES, {"edge": "ml"}, "edge: expected a list of model names, got the string 'ml'"),
        (QUERIES.with_columns(category=pl.Series(["x", None, "y"])), OUTCOMES, {}, r"no nulls, got some in \['category'\]"),
        (QUERIES.with_columns(query_id=pl.Series([[1], [2], [3]])), OUTCOMES, {}, "queries: expected text in"),
        (QUERIES, OUTCOMES.with_columns(pl.col("n_output_tokens").cast(pl.Float64)), {}, "outcomes.n_output_tokens of s: expected integers, got Float64"),
        (QUERIES, OUTCOMES, {"edge": ()}, "models: expected a local and at least one edge model"),
        (QUERIES[:0], OUTCOMES, {}, "queries: expected at least one row"),
        (QUERIES, OUTCOMES[:0], {}, "outcomes: expected at least one row"),
        (QUERIES.with_columns(n_input_tokens=pl.lit(None, pl.Int64)), OUTCOMES, {}, r"no nulls, got some in \['n_input_tokens'\]"),
        (QUERIES.with_columns(n_input_tokens=pl.lit(-1)), OUTCOMES, {}, "n_input_tokens: expected token counts, got -1"),
        (QUERIES.with_columns(n_input_tokens=pl.lit(1.5)), OUTCOMES, {}, "n_input_tokens: expected integers, got Float64"),
        (QUERIES, OUTCOMES.with_columns(pl.col("correct").cast(pl.Int8)), {}, "outcomes.correct: expected Boolean, got Int8"),
        (QUERIES.with_columns(embedding=pl.lit("x")), OUTCOMES, {}, "embedding: expected lists of float32, got String"),
        (QUERIES.with_columns(embedding=pl.Series([[1.0], [1.0, 2.0], [3.0]])), OUTCOMES, {}, "embedding: expected one width, got 1, 2"),
        (QUERIES.with_columns(embedding=pl.Series([[1.0, float("nan")], [1.0, 2.0], [3.0, 4.0]])), OUTCOMES, {}, "got NaN or infinity for 'a'"),
        (QUERIES.with_columns(embedding=pl.Series([[1.0, None], [1.0, 2.0], [3.0, 4.0]])), OUTCOMES, {}, "embedding: expected no nulls inside"),
    ],
)  # fmt: skip
def test_bad_tables_are_named(queries, outcomes, options, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        read(queries, outcomes, **options)


def test_extra_outcome_columns_are_kept_and_names_are_no_globs(tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    QUERIES.write_parquet(folder / "q.parquet")
    OUTCOMES.with_columns(score=pl.col("n_output_tokens") * 0.5).write_parquet(folder / "o.parquet")
    t = read(folder / "q.parquet", folder / "o.parquet")
    assert t.extra["score"] == [[0.5, 5.5, 10.5], [1.0, 6.0, 11.0], [1.5, 6.5, 11.5]]
    assert t.take([2]).extra == {"note": ["three"], "score": [[1.5, 6.5, 11.5]]}
    assert repr(t) == "RoutingTable(3 queries, d=2, models=('s', 'm', 'l'))"


def test_categorical_columns_and_integer_ids_read(tmp_path):
    ids = {"a": 1, "b": 2, "c": 3}
    as_int = pl.col("query_id").replace_strict(ids)
    t = read(
        QUERIES.with_columns(as_int, pl.col("category").cast(pl.Categorical)),
        OUTCOMES.with_columns(as_int, pl.col("model").cast(pl.Categorical)),
    )
    assert t.query_ids == ("1", "2", "3")
    assert t.categories == ("x", "y", "x")


@pytest.mark.parametrize("rows", [[9], [[0, 1]], [True, False], ["a"]])
def test_rows_that_are_none_are_refused(rows):
    with pytest.raises(cr2fast.Cr2Error, match="rows: expected"):
        read().take(rows)
    with pytest.raises(cr2fast.Cr2Error, match="expected at least one query"):
        read().take([])


def test_bad_files_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"queries: expected a Parquet file, got no file at .*none"
    ):
        read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("query_id,model\n")
    with pytest.raises(cr2fast.Cr2Error, match="queries: expected a Parquet file"):
        read(tmp_path / "text.parquet")
    with pytest.raises(TypeError, match=r"queries: expected a path or polars.DataFrame, got dict"):
        read({})


def test_incomplete_queries_can_be_dropped_on_request():
    assert read(outcomes=OUTCOMES[1:], incomplete="drop").query_ids == ("a", "b")


@pytest.mark.parametrize("seed", range(4))
def test_splits_are_disjoint_whole_and_stratified(problem, seed):
    table = problem.table
    parts = table.split((0.6, 0.2, 0.2), seed=seed)
    assert [len(p) for p in parts] == [1500, 500, 500]
    ids = [i for p in parts for i in p.query_ids]
    assert sorted(ids) == sorted(table.query_ids)
    whole = Counter(table.categories)
    for part, fraction in zip(parts, (0.6, 0.2, 0.2), strict=True):
        for category, count in Counter(part.categories).items():
            assert abs(count - fraction * whole[category]) <= 2.5, (category, count)
    where = {i: k for k, i in enumerate(table.query_ids)}
    for part in parts:
        rows = [where[i] for i in part.query_ids]
        np.testing.assert_array_equal(part.embeddings, table.embeddings[rows])
        np.testing.assert_array_equal(part.n_output_tokens, table.n_output_tokens[rows])


def test_splits_follow_the_seed_and_work_without_categories(problem):
    a, b = problem.table.split(seed=1)[0], problem.table.split(seed=1)[0]
    assert a.query_ids == b.query_ids != problem.table.split(seed=2)[0].query_ids
    plain = replace(problem.table, categories=None)
    assert [len(p) for p in plain.split((0.5, 0.5))] == [1250, 1250]


def test_every_query_is_as_likely_in_each_part(problem):
    """Over many seeds each query is in the test part a fifth of the time."""
    small = problem.table.take(range(100))
    hits = Counter(i for seed in range(600) for i in small.split(seed=seed)[2].query_ids)
    rates = np.array([hits[i] / 600 for i in small.query_ids])
    assert abs(rates.mean() - 0.2) < 1e-9
    assert np.abs(rates - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 600)


def test_bad_seeds_are_named(problem):
    with pytest.raises(cr2fast.Cr2Error, match="seed: expected a whole number"):
        problem.table.split(seed=-1)


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.5, -0.5), (), (0.999999, 0.000001), "ab"])
def test_bad_fractions_are_named(problem, fractions):
    with pytest.raises(cr2fast.Cr2Error, match="fractions: "):
        problem.table.split(fractions)


def test_real_outcomes_read(data_dir):
    t = cr2fast.RoutingTable.read(
        data_dir / "mmlu_pro_queries.parquet",
        data_dir / "mmlu_pro_outcomes.parquet",
        local="Phi-3-mini-4k-instruct",
        edge=["mathstral-7B", "Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct"],
    )
    assert t.embeddings.shape == (12_032, 384)
    np.testing.assert_allclose(t.correct.mean(0), [0.415, 0.420, 0.442, 0.628], atol=5e-4)
    assert abs(t.answerable.mean() - 0.766) < 5e-4
