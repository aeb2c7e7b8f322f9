"""Routers with float16 weights: rounded once, before calibration, and exact from there on."""

from __future__ import annotations

import numpy as np
import pytest
from test_artifact import assemble, parts, put, rewritten

import cr2fast
from cr2fast import _core

MATRICES = ("gate.w1", "gate.film.weight", "teacher.w1", "length.weight")


@pytest.fixture(scope="module")
def half(fitted):
    return fitted.to_float16()


def tensor(data: bytes, name: str) -> np.ndarray:
    header, payload = parts(data)
    t = header[name]
    a, b = t["data_offsets"]
    return np.frombuffer(payload[a:b], {"F16": "<f2", "F32": "<f4"}[t["dtype"]]).reshape(t["shape"])


def test_matrices_are_numpys_float16_and_the_rest_stays(fitted, half):
    before, after = fitted.to_bytes(), half.to_bytes()
    for name in MATRICES:
        assert tensor(after, name).dtype == np.float16
        assert np.array_equal(tensor(after, name), tensor(before, name).astype(np.float16))
    for name in set(parts(before)[0]) - {"__metadata__", *MATRICES}:
        if parts(before)[0][name]["dtype"] == "F32":
            assert np.array_equal(tensor(after, name), tensor(before, name))
    assert (fitted.weights, half.weights) == ("float32", "float16")


def test_a_file_gives_the_same_bits_back(half, splits, tmp_path):
    half.save(tmp_path / "half.safetensors")
    again = cr2fast.Router.load(tmp_path / "half.safetensors")
    assert again.to_bytes() == half.to_bytes()
    x = splits[2].embeddings
    assert np.array_equal(again.margins(x, [0.5, 2.0]), half.margins(x, [0.5, 2.0]))
    assert again.weights == "float16"
    assert again.to_float16().to_bytes() == half.to_bytes(), "rounding twice changes nothing"


def test_margins_move_by_the_rounding_and_no_more(fitted, half, splits):
    x = splits[2].embeddings
    a, b = (r.margins(x, [0.2, 1.0, 5.0]) for r in (fitted, half))
    assert not np.array_equal(a, b)
    assert np.abs(a - b).max() < 2e-2 * a.std()


def test_thresholds_of_other_weights_do_not_come_along(router, splits, problem):
    half = router.to_float16()
    assert half.calibration is None
    with pytest.raises(cr2fast.Cr2Error, match="calibrate"):
        half.device(1.0, 0.05)
    half.calibrate(splits[1], problem.costs, alphas=(0.05,))
    lam = float(half.calibration["lams"][3])
    x = splits[2].embeddings
    device = half.device(lam, 0.05)
    assert np.array_equal(device.margins(x)[:5], [device.route(e).margin for e in x[:5]])


def test_a_flag_that_lies_about_the_type_is_an_error(fitted, half):
    with pytest.raises(cr2fast.ArtifactError, match=r"length.weight|gate.* of type F16, got F32"):
        _core.Router.from_bytes(rewritten(fitted.to_bytes(), put(float16=True)))
    with pytest.raises(cr2fast.ArtifactError, match="of type F32, got F16"):
        _core.Router.from_bytes(rewritten(half.to_bytes(), put(float16=False)))


def test_weights_beyond_float16_are_refused(fitted):
    data = fitted.to_bytes()
    header, payload = parts(data)
    a = header["teacher.w1"]["data_offsets"][0]
    payload = payload[:a] + np.float32(1e5).tobytes() + payload[a + 4 :]
    large = rewritten(assemble(header, payload), put())
    router = cr2fast.Router(_core.Router.from_bytes(large))
    with pytest.raises(cr2fast.Cr2Error, match="teacher.w1: expected weights of at most 65504"):
        router.to_float16()
