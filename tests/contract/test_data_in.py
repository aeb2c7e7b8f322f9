"""Bad input around data: each an error that names the argument, what was expected and what came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from cr2fast import EncoderInfo

QUICK = {"hidden": 8, "teacher_epochs": 1, "gate_epochs": 1, "batch": 64, "progress": False}


@pytest.mark.parametrize("scale", [1e16, 1e20, 1e38])
def test_huge_embeddings_are_blamed_themselves(problem, scale):
    with pytest.raises(
        cr2fast.Cr2Error, match=r"embeddings: expected values up to 1e\+15, got larger"
    ):
        replace(problem.table, embeddings=problem.table.embeddings * np.float32(scale))
    with pytest.raises(cr2fast.Cr2Error, match="embeddings: expected"):
        replace(problem.table.queries(), embeddings=problem.table.embeddings * np.float32(scale))


@pytest.mark.filterwarnings("ignore:train")
@pytest.mark.parametrize("scale", [1e-30, 1e6, 1e14])
def test_large_and_small_embeddings_fit(problem, scale):
    table = replace(problem.table, embeddings=problem.table.embeddings * np.float32(scale))
    router = cr2fast.fit(table.take(range(200)), problem.costs, **QUICK)
    assert np.isfinite(router.margins(table.embeddings[:50], [1.0])).all()


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"models": "ab"}, cr2fast.Cr2Error, "models: expected names, got 'ab'"),
        ({"models": ("device-s", 1, 2, 3)}, cr2fast.Cr2Error, "models: expected names, got"),
        ({"models": ("a", "a", "b", "c")}, cr2fast.Cr2Error, "distinct"),
        ({"correct": [[True] * 4] * 2500}, cr2fast.Cr2Error, "correct: expected an array of bool, got a list"),
        ({"embeddings": [[1.0]] * 2500}, cr2fast.Cr2Error, "embeddings: expected an array of float32, got a list"),
        ({"embeddings": np.zeros((2500, 0), np.float32)}, cr2fast.Cr2Error, "embeddings: expected at least one number"),
        ({"categories": np.array(["x"] * 2499)}, cr2fast.Cr2Error, "categories: expected 2500 strings, got 2499"),
        ({"categories": np.arange(2500)}, cr2fast.Cr2Error, "categories: expected 2500 strings"),
        ({"categories": "x"}, cr2fast.Cr2Error, "categories: expected 2500 strings"),
        ({"extra": {"note": [1, 2]}}, cr2fast.Cr2Error, "extra: expected 2500 values of 'note', got 2"),
        ({"extra": {"note": 3}}, cr2fast.Cr2Error, "extra: expected 2500 values of 'note', got int"),
        ({"extra": [1]}, TypeError, "extra: expected a dict"),
        ({"encoder": "minilm"}, TypeError, "encoder: expected an EncoderInfo, got str"),
        ({"encoder": EncoderInfo("a\ud800", "")}, cr2fast.Cr2Error, "encoder: expected text that UTF-8 can hold"),
        ({"encoder": EncoderInfo("a", "\udfff")}, cr2fast.Cr2Error, "encoder: expected text that UTF-8 can hold"),
        ({"encoder": EncoderInfo(3, "")}, TypeError, "encoder: expected a name and a hash, both text"),
        ({"encoder": EncoderInfo("a", None)}, TypeError, "encoder: expected a name and a hash, both text"),
        ({"query_ids": "x" * 2500}, cr2fast.Cr2Error, "query_ids: expected unique ids"),
    ],
)  # fmt: skip
def test_a_table_of_wrong_parts_is_refused(problem, fields, error, words):
    with pytest.raises(error, match=words):
        replace(problem.table, **fields)


def test_arrays_of_strings_are_categories_and_models(problem):
    """What np.array and pandas give: they are read as the tuples they mean."""
    t = replace(
        problem.table,
        categories=np.array(problem.table.categories),
        models=np.array(problem.table.models),
        query_ids=np.array(problem.table.query_ids),
    )
    assert t.categories == problem.table.categories
    assert t.models == problem.table.models
    assert t.query_ids == problem.table.query_ids
    assert all(type(v) is str for v in (*t.categories[:3], *t.models, *t.query_ids[:3]))
    for mine, theirs in zip(t.split(), problem.table.split(), strict=True):
        assert mine.query_ids == theirs.query_ids


@pytest.mark.parametrize("value", ["no", 1, None, np.array([True])])
def test_simultaneous_is_true_or_false(fitted, splits, value):
    with pytest.raises(cr2fast.Cr2Error, match="simultaneous: expected True or False, got"):
        cr2fast.Router(fitted._core).calibrate(splits[1], simultaneous=value)


@pytest.mark.parametrize("value", ["a", float("nan"), 2, -1, None])
def test_defer_atypical_is_a_level(fitted, splits, value):
    if value is None:
        value = [0.1]
    with pytest.raises(cr2fast.Cr2Error, match="defer_atypical: expected"):
        cr2fast.Router(fitted._core).calibrate(splits[1], defer_atypical=value)


@pytest.mark.parametrize("value", ["x", "bars", 1.5, 7, [True]])
def test_progress_is_a_word_of_few(splits, problem, value):
    with pytest.raises(cr2fast.Cr2Error, match="progress: expected True, False"):
        cr2fast.fit(splits[0], problem.costs, **QUICK | {"progress": value})
    with pytest.raises(cr2fast.Cr2Error, match="progress: expected True, False"):
        cr2fast.QueryTable.read([], progress=value)


@pytest.mark.parametrize(
    "args",
    [("a",), (0.1, "b"), (0, 1), (2, 1), (0.1, 1, 1), (0.1, 1, 1.5), (0.1, 1, "n"), (None,),
     (float("nan"), 1), (0.1, float("inf")), (0.1, 1, 10**30), ([1],)],
)  # fmt: skip
def test_default_lams_name_what_is_wrong(args):
    with pytest.raises(cr2fast.Cr2Error, match="low: |high: |n: |lams: "):
        cr2fast.default_lams(*args)


def test_everything_seen_is_never_advised_to_be_dropped_again(fitted, splits):
    router = cr2fast.Router(fitted._core)
    with pytest.raises(
        cr2fast.SplitOverlapError, match="every one; give it another part"
    ) as caught:
        router.calibrate(splits[0], overlap="drop")
    assert "overlap" not in str(caught.value)


def test_one_damaged_embedding_is_dropped_with_a_count(problem):
    import polars as pl

    t = problem.table.take(range(30))
    rows = t.embeddings.tolist()
    rows[3][0] = float("nan")
    rows[7] = [1.0]
    rows[9][1] = 1e20
    q = pl.DataFrame(
        {"query_id": t.query_ids, "n_input_tokens": t.n_input_tokens, "embedding": rows}
    )
    o = pl.concat(
        pl.DataFrame(
            {"query_id": t.query_ids, "model": m, "correct": t.correct[:, k], "n_output_tokens": 1}
        )
        for k, m in enumerate(t.models)
    )
    options = {"local": t.models[0], "edge": t.models[1:]}
    found = cr2fast.RoutingTable.read(q, o, incomplete="drop", **options)
    assert len(found) == 27
    assert found.notes == ("3 rows of queries with damaged embeddings left out",)
    with pytest.raises(cr2fast.Cr2Error, match="queries.embedding: expected one width"):
        cr2fast.RoutingTable.read(q, o, **options)
