"""Queries used before, under whatever id, calibrate and test nothing (issue 13, item 3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from testing.tables import renamed_rows

QUICK = {"hidden": 8, "teacher_epochs": 1, "gate_epochs": 1, "progress": False}


def asked(table):
    """The same table with a text per query."""
    return replace(table, extra={"text": [f"Question {i}?" for i in table.query_ids]})


@pytest.fixture(scope="module")
def parts(problem):
    return asked(problem.table).split(seed=0)


@pytest.fixture(scope="module")
def fitted_on_texts(problem, parts):
    # Of embeddings only: some tables here have no texts.
    return cr2fast.fit(parts[0], problem.costs, features=False, **QUICK)


@pytest.fixture
def fresh(fitted_on_texts):
    return cr2fast.Router(fitted_on_texts._core)


DRESSES = {
    "same": lambda t: t,
    "dressed": lambda t: f"  {t.upper()}! ",
    "full width": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "no text": None,
}


def dressed(table, dress):
    table = renamed_rows(table)
    texts = table.extra.get("text")
    if dress is None or texts is None:
        return replace(table, extra={})
    # Another embedding: the text alone must do.
    return replace(table, embeddings=table.embeddings * np.float32(1.5),
                   extra={"text": [dress(t) for t in texts]})  # fmt: skip


@pytest.mark.parametrize("dress", DRESSES.values(), ids=DRESSES)
def test_renamed_training_rows_are_refused_or_dropped(fresh, parts, dress):
    seen = dressed(parts[0].take(range(7)), dress)
    with pytest.raises(cr2fast.SplitOverlapError, match="7 that say the same under other ids"):
        fresh.calibrate(seen, alphas=(0.5,))
    mixed = _joined(dressed(parts[1], dress), seen)
    with pytest.raises(cr2fast.SplitOverlapError, match=r'overlap="drop"'):
        fresh.calibrate(mixed, alphas=(0.05,))
    report = fresh.calibrate(mixed, alphas=(0.05,), overlap="drop")
    assert (report.dropped, report.n) == (7, len(parts[1]))
    assert report.to_dict()["dropped"] == 7
    with pytest.raises(cr2fast.SplitOverlapError, match="calibration split, got"):
        cr2fast.evaluate(fresh, renamed_rows(dressed(parts[1], dress), "again"))
    test = _joined(dressed(parts[2], dress), dressed(parts[1].take(range(5)), dress))
    result = cr2fast.evaluate(fresh, renamed_rows(test, "test"), overlap="drop")
    assert (result.dropped, result.n) == (5, len(parts[2]))
    # Nothing left: an error, as before.
    with pytest.raises(cr2fast.SplitOverlapError):
        fresh.calibrate(seen, alphas=(0.5,), overlap="drop")


def _joined(a, b):
    arrays = ("embeddings", "correct", "n_input_tokens", "n_output_tokens")
    return replace(
        a,
        query_ids=a.query_ids + tuple(f"{i}'" for i in b.query_ids),
        categories=a.categories + b.categories,
        extra={k: a.extra[k] + b.extra[k] for k in a.extra},
        **{k: np.concatenate([getattr(a, k), getattr(b, k)]) for k in arrays},
    )


def test_texts_are_found_where_training_had_none(problem, parts, fresh):
    bare = replace(parts[0], extra={})
    router = cr2fast.fit(bare, problem.costs, **QUICK)
    with pytest.raises(cr2fast.SplitOverlapError, match="say the same"):
        router.calibrate(renamed_rows(parts[0]), alphas=(0.05,))
    assert router.calibrate(parts[1], alphas=(0.05,)).dropped == 0
    assert fresh.calibrate(replace(parts[1], extra={}), alphas=(0.05,)).dropped == 0


def test_what_was_seen_is_saved_and_a_teachers_counts_too(problem, parts, fresh, tmp_path):
    fresh.calibrate(parts[1], alphas=(0.05,))
    fresh.save(tmp_path / "r.safetensors")
    back = cr2fast.Router.load(tmp_path / "r.safetensors")
    assert back.to_bytes() == fresh.to_bytes()
    with pytest.raises(cr2fast.SplitOverlapError, match="say the same"):
        cr2fast.evaluate(back, renamed_rows(parts[1]))
    gate = cr2fast.fit(parts[2], problem.costs, teacher=back, **QUICK)
    with pytest.raises(cr2fast.SplitOverlapError, match="training split, got"):
        gate.calibrate(renamed_rows(parts[0]), alphas=(0.05,))


def test_an_option_that_is_none_is_named(fresh, parts):
    with pytest.raises(cr2fast.Cr2Error, match="overlap: expected 'raise' or 'drop'"):
        fresh.calibrate(parts[1], overlap="keep")
