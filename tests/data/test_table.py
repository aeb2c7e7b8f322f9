"""RoutingTable: aligned, checked, split without overlap."""

from __future__ import annotations

import os
import subprocess
import sys
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
        (QUERIES, OUTCOMES.with_columns(pl.col("n_output_tokens") + 0.5), {}, "outcomes.n_output_tokens of s: expected token counts, got 1.5 for 'a'"),
        (QUERIES, OUTCOMES, {"edge": ()}, "models: expected a local and at least one edge model"),
        (QUERIES[:0], OUTCOMES, {}, "queries: expected at least one row"),
        (QUERIES, OUTCOMES[:0], {}, "outcomes: expected at least one row"),
        (QUERIES.with_columns(n_input_tokens=pl.lit(None, pl.Int64)), OUTCOMES, {}, r"no nulls, got some in \['n_input_tokens'\]"),
        (QUERIES.with_columns(n_input_tokens=pl.lit(-1)), OUTCOMES, {}, "n_input_tokens: expected token counts, got -1"),
        (QUERIES.with_columns(n_input_tokens=pl.lit(1.5)), OUTCOMES, {}, "n_input_tokens: expected token counts, got 1.5 for"),
        (QUERIES, OUTCOMES.with_columns(pl.col("correct").cast(pl.Int8) * 2), {}, r"outcomes.correct: .* grades in \[0, 1\], got 2 \(7 values outside\)"),
        (QUERIES, OUTCOMES.with_columns(correct=pl.lit("maybe")), {}, "outcomes.correct: expected true or false, .*got 'maybe'"),
        (QUERIES, OUTCOMES.with_columns(correct=pl.lit(b"x")), {}, "outcomes.correct: expected true or false, .*got Binary"),
        (QUERIES.with_columns(embedding=pl.lit("x")), OUTCOMES, {}, "embedding: expected lists of numbers, or text such as .*, got 'x' in row 0"),
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
    with pytest.raises(FileNotFoundError, match=r"queries: expected a file, got no file at .*none"):
        read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("query_id,model\n")
    with pytest.raises(cr2fast.Cr2Error, match="queries: expected Parquet in"):
        read(tmp_path / "text.parquet")
    with pytest.raises(
        TypeError, match=r"queries: expected a path, a polars frame or an object with .*, got dict"
    ):
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


def test_extra_columns_of_one_table_never_touch_the_others():
    """Issue 13, item 4: whatever the outcomes call their columns."""
    queries = QUERIES.with_columns(text=pl.lit("asked"), score=pl.lit("of the query"))
    taken = ["text", "score", "note", "category", "n_input_tokens", "embedding", "correct/m"]
    outcomes = OUTCOMES.with_columns(pl.lit(7).alias(c) for c in taken)
    t = read(queries, outcomes)
    plain = read(queries, OUTCOMES)
    for field in ("categories", "query_ids"):
        assert getattr(t, field) == getattr(plain, field)
    for field in ("embeddings", "n_input_tokens", "correct", "n_output_tokens"):
        np.testing.assert_array_equal(getattr(t, field), getattr(plain, field))
    assert t.extra["text"] == ["asked"] * 3
    assert t.extra["score"] == ["of the query"] * 3
    for c in ("text", "score", "note", "category", "n_input_tokens", "embedding"):
        assert t.extra[f"outcomes.{c}"] == [[7] * 3] * 3
    assert t.extra["correct/m"] == [[7] * 3] * 3
    # A model whose name and a column's name run together, as "correct/m" did.
    names = {"s": "s", "m": "x", "l": "note/x"}
    odd = OUTCOMES.with_columns(pl.col("model").replace_strict(names), note=pl.lit("n"))
    assert read(QUERIES, odd, edge=("x", "note/x")).correct.tolist() == plain.correct.tolist()


def nulled(column, query, model):
    here = (pl.col("query_id") == query) & (pl.col("model") == model)
    return OUTCOMES.with_columns(pl.when(here).then(None).otherwise(pl.col(column)).alias(column))


@pytest.mark.parametrize("column", ["correct", "n_output_tokens"])
def test_a_null_outcome_concerns_only_its_query(column):
    """Issue 13, item 9."""
    lost = nulled(column, "b", "m")
    assert read(outcomes=lost, incomplete="drop").query_ids == ("a", "c")
    with pytest.raises(cr2fast.Cr2Error, match=r"1 queries lack some \('b'\).*'b' lacks 'm'"):
        read(outcomes=lost)
    # The model was not chosen: nothing is lacking.
    assert read(outcomes=lost, edge=("l",)).query_ids == ("a", "b", "c")


@pytest.mark.parametrize("column", ["query_id", "model"])
def test_an_outcome_of_nobody_is_named_or_left_out(column):
    lost = pl.concat([OUTCOMES, OUTCOMES[:1].with_columns(pl.lit(None, pl.String).alias(column))])
    assert read(outcomes=lost, incomplete="drop").query_ids == ("a", "b", "c")
    where = "row 9" if column == "query_id" else "c"
    with pytest.raises(cr2fast.Cr2Error, match=rf"nulls, got some in \['{column}'\] of '{where}'"):
        read(outcomes=lost)


@pytest.mark.parametrize("column", ["n_input_tokens", "embedding", "category"])
def test_a_query_that_lacks_a_value_is_named_or_left_out(column):
    kind = QUERIES[column].dtype
    value = pl.when(pl.col("query_id") == "b").then(pl.lit(None, kind)).otherwise(pl.col(column))
    lost = QUERIES.with_columns(value.alias(column))
    assert read(lost, incomplete="drop").query_ids == ("a", "c")
    with pytest.raises(cr2fast.Cr2Error, match=rf"\['{column}'\] of 'b'; pass incomplete='drop'"):
        read(lost)


def test_one_outcome_a_query_is_not_called_another_query():
    one = OUTCOMES.group_by("query_id", maintain_order=True).first()
    one = one.with_columns(model=pl.Series(["s", "m", "l"]))
    with pytest.raises(cr2fast.Cr2Error, match="3 queries lack some .*'a' lacks"):
        read(outcomes=one)
    with pytest.raises(cr2fast.Cr2Error, match="got none among 3; 'a' lacks"):
        read(outcomes=one, incomplete="drop")


def test_what_is_odd_in_an_embedding_or_a_count_is_named():
    ragged = QUERIES.with_columns(embedding=pl.Series([[1.0, 2.0], [1.0], [3.0, 4.0]]))
    with pytest.raises(cr2fast.Cr2Error, match="got 1, 2; other than 2: 'b'"):
        read(ragged)
    hole = QUERIES.with_columns(embedding=pl.Series([[1.0, 2.0], [1.0, None], [3.0, 4.0]]))
    with pytest.raises(cr2fast.Cr2Error, match="no nulls inside, got some for 'b'"):
        read(hole)
    with pytest.raises(cr2fast.Cr2Error, match="got -1 for 'b'"):
        read(QUERIES.with_columns(n_input_tokens=pl.Series([1, -1, 2])))


def test_masked_arrays_and_lone_surrogates_are_refused():
    """Issue 13, items 6 and 12."""
    t = read()
    for name in ("embeddings", "correct", "n_input_tokens", "n_output_tokens"):
        array = getattr(t, name)
        masked = np.ma.MaskedArray(array, mask=np.zeros(array.shape, bool))
        assert len(replace(t, **{name: masked})) == 3
        masked.mask.flat[1] = True
        with pytest.raises(cr2fast.Cr2Error, match=f"{name}: .*got 1 masked values of"):
            replace(t, **{name: masked})
    with pytest.raises(cr2fast.Cr2Error, match="rows: .*got 1 masked"):
        t.take(np.ma.MaskedArray([0, 1], [True, False]))
    for name in ("query_ids", "models", "categories"):
        values = getattr(t, name)
        with pytest.raises(
            cr2fast.Cr2Error, match=rf"{name}: .*a.ud800.* surrogate at character 1"
        ):
            replace(t, **{name: ("a\ud800", *values[1:])})


def _reads_in_a_fork(parent_used_polars):
    import os

    used = "read();" if parent_used_polars else ""
    code = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
import polars, cr2fast
import numpy as np
from cr2fast.data import frames
def read():
    q = polars.DataFrame({{"query_id": ["a"], "n_input_tokens": [1], "embedding": [[1.0]]}})
    o = polars.DataFrame({{"query_id": ["a", "a"], "model": ["s", "l"], "correct": [True, True],
                          "n_output_tokens": [1, 1]}})
    return cr2fast.RoutingTable.read(q, o, local="s", edge=["l"])
{used}
pid = os.fork()
if pid == 0:
    try:
        read()
        os._exit(0)
    except RuntimeError as error:
        assert "RoutingTable.read: " in str(error) and "spawn" in str(error)
        os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    return subprocess.run(
        [sys.executable, "-c", code], timeout=120, env=dict(os.environ)
    ).returncode


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_in_place_of_hanging():
    """Issue 13, item 10."""
    assert _reads_in_a_fork(parent_used_polars=True) == 7


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads have no names here")
def test_a_fork_before_polars_was_used_reads():
    assert _reads_in_a_fork(parent_used_polars=False) == 0
