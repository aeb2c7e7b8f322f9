"""The contract with the profiler: a table it wrote is read, and queries are routed by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast import datasets

pytest.importorskip("cr2fast_profiler", reason="the profiler is not installed (make installs it)")

from cr2fast_profiler.analysis import analyse
from cr2fast_profiler.link.measurement import Estimate, LinkMeasurement, LinkSample
from cr2fast_profiler.report.prices import FIELDS
from cr2fast_profiler.report.table import (
    NO_LINK,
    cost_table,
    model_entry,
    unmeasured_entry,
    write_table,
)
from cr2fast_profiler.run import Options, profile_model
from cr2fast_profiler.workload.callable import InProcess
from cr2fast_profiler.workload.grid import Grid

NAMES = tuple(datasets.model_names(3))


class Clock:
    """Nanoseconds that only the model moves: the run is exact and takes no time."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def profiled(folder: Path, beta_pre_s: float, beta_dec_s: float):
    clock = Clock()

    def generate(prompt: str, max_tokens: int):
        n = len(prompt.split())
        clock.now_ns += int((0.01 + beta_pre_s * n) * 1e9)
        for i in range(max_tokens):
            clock.now_ns += int(beta_dec_s * 1e9)
            yield f"{i} "
        return {"prompt_tokens": n, "completion_tokens": max_tokens}

    profile_model(
        InProcess(generate, "m", clock=clock),
        folder,
        Options(Grid.cross((32, 64, 128), (8, 16, 32)), most_rounds=3, budget_s=1e6),
        progress=False,
        clock=clock,
    )
    return analyse(folder)


def link() -> LinkMeasurement:
    rng = np.random.default_rng(0)
    draws = rng.uniform((1e6, 5e6, 0.01), (2e7, 8e7, 0.05), (40, 3)).tolist()
    samples = tuple(LinkSample(*draw, i) for i, draw in enumerate(draws))
    one = Estimate(1.0, 0.5, 2.0, 0.95, 40, "s", {})
    summary = dict.fromkeys(("rate_ul_bps", "rate_dl_bps", "rtt_s"), one)
    return LinkMeasurement(samples, summary, "connect")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("profiled")
    betas = ((1e-3, 2e-2), (2e-3, 3e-2), (4e-3, 8e-2))
    entries = [
        model_entry(profiled(folder / name, *b), "edge" if i else "device", name)
        for i, (name, b) in enumerate(zip(NAMES, betas, strict=True))
    ]
    table = cost_table(
        name="contract",
        device=entries[0],
        edge=entries[1:],
        link=link().section(32.0, 32.0),
        link_measured=True,
        ue={},
        energy_weight=0.0,
    )
    write_table(folder / "cost_table.json", table)
    return folder / "cost_table.json"


def test_a_written_table_is_read_with_its_coefficients(written: Path) -> None:
    costs = cr2fast.CostTable.read(written)
    states = costs.sample_states(50, 0)
    said = json.loads(written.read_text())
    assert said["source"] == "measured"
    for model, beta in zip(said["models"], (2e-2, 3e-2, 8e-2), strict=True):
        assert model["beta_dec_s"] == pytest.approx(beta, rel=1e-3)
        assert model["p_active_w"] is None
    n_in, n_out = np.full(50, 100, np.uint32), np.full((50, 3), 20, np.uint32)
    latency = costs.latency_s(n_in, n_out, states)
    # Word counts include the instruction's, which belong to L_in here.
    assert latency[:, 0] == pytest.approx(0.01 + 1e-3 * 100 + 2e-2 * 20, rel=0.01)
    assert (latency[:, 2] > latency[:, 1]).all()
    measured = {(s["rate_ul_bps"], s["rtt_s"]) for s in said["link"]["samples"]}
    drawn = set(zip(states.rate_ul_bps.tolist(), states.rtt_s.tolist(), strict=True))
    assert drawn <= measured
    with pytest.raises(cr2fast.Cr2Error, match="p_active_w"):
        costs.energy_j(n_in, n_out, states)


def test_queries_are_routed_by_a_written_table(written: Path) -> None:
    costs = cr2fast.CostTable.read(written)
    table = datasets.make_routing_problem(900, d=32, models=3).table
    train, calibration, test = table.split((0.5, 0.3, 0.2), seed=0)
    router = cr2fast.fit(train, costs, seed=0, progress=False)
    router.calibrate(calibration, costs, alphas=(0.05, 0.2))
    result = cr2fast.evaluate(router, test, costs, seed=0)
    assert np.isfinite(result.cost).all()
    assert np.isnan(result.energy_j).all(), "no sensor, no number"
    lam = float(result.lams[len(result.lams) // 2])
    decision = router.device(lam, 0.2).route(test.embeddings[0])
    assert isinstance(decision.local, bool)
    state = costs.sample_states(1, 1)
    selected = router.edge(lam).select(test.embeddings[0], int(test.n_input_tokens[0]), state[0])
    assert selected.model in NAMES[1:]


def test_a_table_with_prices_is_read_and_costs_dollars(tmp_path):
    local, cloud = NAMES[:2]
    written = cost_table(
        name="priced",
        device=model_entry(profiled(tmp_path / "d", 1e-3, 2e-2), "device", local),
        edge=[unmeasured_entry(cloud, "cloud")],
        link=NO_LINK,
        link_measured=False,
        ue={},
        price_weight=1.0,
        prices={
            local: dict.fromkeys(FIELDS, 0.0),
            cloud: {
                "usd_per_input_token": 1e-6,
                "usd_per_output_token": 4e-6,
                "usd_per_request": 0.0,
            },
        },
    )
    write_table(tmp_path / "cost_table.json", written)
    costs = cr2fast.CostTable.read(tmp_path / "cost_table.json")
    assert costs.shares == {"latency": 0, "energy": 0, "price": 1}
    assert not costs.has_latency
    np.testing.assert_allclose(costs.usd([10], [[5, 5]]), [[0, 3e-5]])
    states = costs.sample_states(1, 0)
    costs = costs.normalized_on([10], [[5, 5]], states)
    assert costs.normalizers == (None, None, pytest.approx(3e-5))
    np.testing.assert_array_equal(costs.cost([10], [[5, 5]], states), [[0, 1]])
