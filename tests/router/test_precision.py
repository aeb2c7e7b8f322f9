"""Routers with smaller weights: rounded once, before calibration, and exact from there on."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from cr2fast import _core
from testing import oracle
from testing.artifacts import assemble, parts, put, rewritten

MATRICES = ("gate.w1", "gate.film.weight", "teacher.w1", "length.weight")
TYPES = ("float16", "bfloat16")


def rounded(router: cr2fast.Router, weights: str) -> cr2fast.Router:
    return router.to_float16() if weights == "float16" else router.to_bfloat16()


@pytest.fixture(scope="module", params=TYPES)
def small(request, fitted):
    return rounded(fitted, request.param)


def nearest(x: np.ndarray, weights: str) -> np.ndarray:
    """The nearest number of a type, ties to even, as float32."""
    if weights == "float16":
        return x.astype(np.float16).astype(np.float32)
    bits = x.astype(np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32)


def test_matrices_are_the_nearest_numbers_and_the_rest_stays(fitted, small):
    header = parts(small.to_bytes())[0]
    types = {header[name]["dtype"] for name in MATRICES}
    assert types == {{"float16": "F16", "bfloat16": "BF16"}[small.precision]}
    before, after = (oracle.read_tensors(r.to_bytes()) for r in (fitted, small))
    # LayerNorm's affine is in the matrices.
    for part in ("gate", "teacher"):
        gain, bias = (before[f"{part}.ln.{n}"] for n in ("weight", "bias"))
        w, b = before[f"{part}.w1"], before[f"{part}.b1"]
        expected = nearest(w * gain[..., None, :], small.precision)
        assert np.array_equal(after[f"{part}.w1"], expected)
        shift = np.einsum("...hd,...d->...h", w.astype(float), bias.astype(float))
        np.testing.assert_allclose(after[f"{part}.b1"], b + shift, atol=1e-6)
        assert set(after[f"{part}.ln.weight"].flat) == {1.0}
        assert set(after[f"{part}.ln.bias"].flat) == {0.0}
    for name in ("gate.film.weight", "length.weight"):
        assert np.array_equal(after[name], nearest(before[name], small.precision))
    for name in ("gate.film.bias", "gate.w2", "gate.b2", "gate.eta_t", "teacher.w2", "teacher.b2"):
        assert np.array_equal(after[name], before[name])
    assert fitted.precision == "float32"


def test_a_file_gives_the_same_bits_back(small, splits, tmp_path):
    small.save(tmp_path / "small.safetensors")
    again = cr2fast.Router.load(tmp_path / "small.safetensors")
    assert again.to_bytes() == small.to_bytes()
    x = splits[2].embeddings
    assert np.array_equal(again.margins(x, [0.5, 2.0]), small.margins(x, [0.5, 2.0]))
    assert again.precision == small.precision
    twice = rounded(again, small.precision)
    assert twice.to_bytes() == small.to_bytes(), "rounding twice changes nothing"


def test_what_is_computed_is_what_the_file_holds(small, splits):
    x, w = splits[2].embeddings, oracle.read_tensors(small.to_bytes())
    lams = [0.3, 1.0, 5.0]
    np.testing.assert_allclose(small.margins(x, lams), oracle.gate_margins(w, x, lams), atol=1e-5)
    np.testing.assert_allclose(small.accuracies(x), oracle.teacher_accuracies(w, x), atol=1e-5)


def test_margins_move_by_the_rounding_and_no_more(fitted, small, splits):
    x = splits[2].embeddings
    a, b = (r.margins(x, [0.2, 1.0, 5.0]) for r in (fitted, small))
    assert not np.array_equal(a, b)
    assert np.abs(a - b).max() < {"float16": 5e-3, "bfloat16": 4e-2}[small.precision] * a.std()


@pytest.mark.parametrize("weights", TYPES)
def test_thresholds_of_other_weights_do_not_come_along(router, splits, problem, weights):
    small = rounded(router, weights)
    assert small.calibration is None
    with pytest.raises(cr2fast.Cr2Error, match="calibrate"):
        small.device(1.0, 0.05)
    small.calibrate(splits[1], problem.costs, alphas=(0.05,))
    lam = float(small.calibration["lams"][3])
    x = splits[2].embeddings
    device = small.device(lam, 0.05)
    assert np.array_equal(device.margins(x)[:5], [device.route(e).margin for e in x[:5]])


def test_a_name_that_lies_about_the_type_is_an_error(fitted, small):
    kind = {"float16": "F16", "bfloat16": "BF16"}[small.precision]
    with pytest.raises(cr2fast.ArtifactError, match=f"of type {kind}, got F32"):
        _core.Router.from_bytes(rewritten(fitted.to_bytes(), put(weights=small.precision)))
    with pytest.raises(cr2fast.ArtifactError, match=f"of type F32, got {kind}"):
        _core.Router.from_bytes(rewritten(small.to_bytes(), put(weights="float32")))
    with pytest.raises(cr2fast.ArtifactError, match="float8"):
        _core.Router.from_bytes(rewritten(small.to_bytes(), put(weights="float8")))


@pytest.mark.parametrize(
    ("weights", "large", "limit"), [("float16", 1e5, "65504"), ("bfloat16", 3.4e38, "3389\\d+")]
)
def test_weights_beyond_the_type_are_refused(fitted, weights, large, limit):
    header, payload = parts(fitted.to_bytes())
    a = header["length.weight"]["data_offsets"][0]
    payload = payload[:a] + np.float32(large).tobytes() + payload[a + 4 :]
    router = cr2fast.Router(_core.Router.from_bytes(rewritten(assemble(header, payload), put())))
    with pytest.raises(
        cr2fast.Cr2Error,
        match=f"length.weight: expected weights of at most {limit} for {weights}",
    ):
        rounded(router, weights)


def test_the_core_knows_three_types(fitted):
    with pytest.raises(cr2fast.Cr2Error, match="one of float32, float16, bfloat16, got .int8"):
        fitted._core.rounded("int8")
