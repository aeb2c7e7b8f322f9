"""The length predictor: its forward pass and its fit, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem
from testing import oracle


def test_predictions_equal_plain_numpy(fitted, artifact, problem):
    t = problem.table
    w = oracle.read_tensors(artifact.read_bytes())
    expected = oracle.lengths(w, t.embeddings, t.n_input_tokens.astype(float))
    np.testing.assert_allclose(
        fitted.predict_lengths(t.embeddings, t.n_input_tokens), expected, rtol=1e-9
    )


def test_fit_equals_ridge_regression():
    # A holdout of one row leaves nearly everything to the fit; refit in NumPy on the same rows.
    t = make_routing_problem(n=400, d=12, seed=3)
    options = {"teacher_epochs": 1, "gate_epochs": 1, "hidden": 4, "ridge": 2.0, "holdout": 1e-9}
    router = cr2fast.fit(t.table, t.costs, progress=False, **options)
    w = oracle.read_tensors(router.to_bytes())
    table = t.table
    coefficients = oracle.ridge_lengths(
        table.embeddings, table.n_input_tokens, table.n_output_tokens, 2.0
    )
    # One of 400 rows is held out: agreement is close, not exact.
    np.testing.assert_allclose(w["length.weight"].T, coefficients[:-1], atol=0.06)
    np.testing.assert_allclose(w["length.scalars"][:, 0], coefficients[-1], atol=0.02)


def test_mean_prediction_is_the_mean_length(fitted, splits):
    """Smearing: on queries it never saw, totals come out right within a tenth."""
    test = splits[2]
    predicted = fitted.predict_lengths(test.embeddings, test.n_input_tokens).mean(0)
    np.testing.assert_allclose(predicted, test.n_output_tokens.mean(0), rtol=0.1)


def test_the_scale_of_an_embedding_does_not_count(fitted, splits):
    """As in gate and teacher: a caller who forgot to normalise gets the same lengths."""
    x, n = splits[2].embeddings, splits[2].n_input_tokens
    expected = fitted.predict_lengths(x, n)
    np.testing.assert_allclose(fitted.predict_lengths(x * np.float32(10), n), expected, rtol=1e-5)
    zero = fitted.predict_lengths(np.zeros((1, 40), np.float32), n[:1])
    assert np.isfinite(zero).all()


def test_hostile_input_lengths_stay_within_what_was_seen(fitted, splits):
    x = splits[0].embeddings[:2]
    longest = splits[0].n_output_tokens.max()
    predicted = fitted.predict_lengths(x, [0.0, 1e300])
    assert (predicted >= 0).all()
    assert (predicted <= longest).all()
    with pytest.raises(cr2fast.Cr2Error, match=r"n_input_tokens\[1\]: expected a token count"):
        fitted.predict_lengths(x, [1.0, -1.0])
    with pytest.raises(cr2fast.Cr2Error, match=r"n_input_tokens: expected shape \[2\], got \[3\]"):
        fitted.predict_lengths(x, [1.0, 2.0, 3.0])
