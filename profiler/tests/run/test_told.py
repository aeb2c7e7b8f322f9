"""What a run must say of itself: held-back text, outliers, energy lost, lengths and precision not got."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fakes.virtual import Heater, World
from runs import GRID, SMALL, run

from cr2fast_profiler.analysis import analyse, profile_of
from cr2fast_profiler.errors import FitError, RunError
from cr2fast_profiler.meters.base import Fault, Reason
from cr2fast_profiler.report.summary import markdown
from cr2fast_profiler.report.table import cost_table, model_entry, told
from cr2fast_profiler.workload.grid import Grid

TRUTH = {"tau0_s": 0.040, "beta_pre_s": 0.5e-3, "beta_dec_s": 8e-3}
DEFAULT = Grid.cross((64, 256, 768), (16, 64, 128))
HELD = {
    "3 hidden tokens": ({"hidden_tokens": 3}, "about 3 tokens that usage counts"),
    "12 hidden tokens": ({"hidden_tokens": 12}, "about 12 tokens that usage counts"),
    "10 hidden tokens, told": (
        {"hidden_tokens": 10, "tells_hidden": True},
        "the server counts 10 reasoning tokens per answer",
    ),
    "a proxy that buffers all": ({"proxy_bytes": 1 << 30}, "all at once at its end"),
    "a proxy of 1 KiB": ({"proxy_bytes": 1024}, "chunks arrive about .* at a time"),
    "a proxy of 2 KiB": ({"proxy_bytes": 2048}, "chunks arrive about .* at a time"),
    "speculation": ({"varied_chunks": 5}, "a chunk is about .* tokens, not evenly"),
}


def printed(profile) -> str:
    """What `table` says of a table of this model."""
    entry = model_entry(profile, "device", "small")
    table = cost_table(
        name="t",
        device=entry,
        edge=[entry | {"name": "large", "tier": "edge"}],
        link={"kind": "shannon"},
        link_measured=False,
        ue={},
        energy_weight=0.0,
    )
    return "\n".join(told(table))


@pytest.mark.parametrize("name", HELD)
def test_held_back_text_changes_no_coefficient_and_is_told(tmp_path: Path, name: str) -> None:
    manners, words = HELD[name]
    run(World(**TRUTH, noise=0.01, **manners), tmp_path, grid=DEFAULT, most_rounds=6)
    profile = profile_of(tmp_path)
    fit = profile.latency
    for key in ("beta_pre_s", "beta_dec_s"):
        low, high = fit.intervals[key]
        assert getattr(fit, key) == pytest.approx(TRUTH[key], rel=0.03)
        assert low * 0.995 <= TRUTH[key] <= high * 1.005
    assert (fit.phi_pre, fit.phi_dec) == ("linear", "linear")
    assert fit.estimated_by == "total"
    assert re.search(words, markdown(profile))
    assert re.search(words, printed(profile))
    total = float(fit.predict(np.array([768.0]), np.array([1000.0]))[0])
    assert total == pytest.approx(0.04 + 0.5e-3 * 768 + 8.0, rel=0.03)


def test_hidden_text_leaves_the_phases_without_power(tmp_path: Path) -> None:
    world = World(**TRUTH, proxy_bytes=1 << 30)
    run(world, tmp_path, meter=Heater(world), most_rounds=3, idle_s=5.0)
    energy = analyse(tmp_path).energy
    assert energy is not None
    assert energy.p_active_w == pytest.approx(20.0, rel=0.02)
    assert energy.p_prefill_w is None
    assert energy.p_decode_w is None
    assert any("nothing shows where the prefill ends" in n for n in energy.notes)


def test_uneven_chunks_still_show_where_the_prefill_ends(tmp_path: Path) -> None:
    world = World(**TRUTH, varied_chunks=3)
    meter = Heater(world, prefill_w=60.0, decode_w=20.0)
    run(world, tmp_path, meter=meter, grid=DEFAULT, most_rounds=3, idle_s=5.0)
    energy = analyse(tmp_path).energy
    assert energy is not None
    assert energy.p_prefill_w == pytest.approx(60.0, rel=0.05)
    assert energy.p_decode_w == pytest.approx(20.0, rel=0.05)


def test_bursts_and_a_stall_are_told_beside_the_coefficients(tmp_path: Path) -> None:
    manners = {"noise": 0.01, "burst": 3.0, "burst_share": 0.1, "stall_s": 3.0, "stall_at": 30}
    run(World(**TRUTH, **manners), tmp_path, grid=DEFAULT, least_rounds=6)
    profile = profile_of(tmp_path)
    fit = profile.latency
    assert fit.beta_pre_s == pytest.approx(TRUTH["beta_pre_s"], rel=0.03)
    assert fit.beta_dec_s == pytest.approx(TRUTH["beta_dec_s"], rel=0.03)
    assert fit.tau0_s == pytest.approx(TRUTH["tau0_s"], rel=0.1)
    assert fit.served.ratio > 1.1
    for text in (markdown(profile), printed(profile)):
        assert "of the requests are outliers" in text
    entry = model_entry(profile, "edge")
    assert entry["provenance"]["as_served"]["outliers"] == fit.served.outliers


class Killed(Heater):
    """A remote host's meter whose agent dies at a time."""

    def __init__(self, world: World, after_s: float, silent: bool = False) -> None:
        super().__init__(world)
        self.ends_ns, self.silent = world.clock() + int(after_s * 1e9), silent

    def read(self):
        t_ns, joules = super().read()
        if t_ns < self.ends_ns:
            self.last = joules
            return t_ns, joules
        if self.silent:
            return t_ns, self.last
        name = self.domains[0].name
        self.faults.append(Fault(t_ns, name, Reason.LOST, "the agent is lost"))
        return t_ns, np.full(1, np.nan)


@pytest.mark.parametrize("silent", [False, True])
def test_energy_lost_midway_is_null_with_its_coverage(tmp_path: Path, silent: bool) -> None:
    world = World(beta_pre_s=2e-4, beta_dec_s=4e-3)
    whole = tmp_path / "whole"
    start_ns = world.clock()
    run(world, whole, meter=Heater(world), most_rounds=3, idle_s=5.0)
    lasted_s = (world.clock() - start_ns) * 1e-9
    assert analyse(whole).energy_coverage == pytest.approx(1.0, abs=0.02)
    half = tmp_path / "half"
    meter = Killed(world, 5.0 + 0.5 * (lasted_s - 5.0), silent)
    run(world, half, meter=meter, most_rounds=3, idle_s=5.0)
    profile = profile_of(half)
    assert profile.energy is None
    assert profile.energy_coverage is not None
    assert profile.energy_coverage < 0.8
    assert f"cover {profile.energy_coverage:.0%} of the time" in profile.no_energy
    assert f"cover {profile.energy_coverage:.0%} of the time" in markdown(profile)
    entry = model_entry(profile, "device")
    assert entry["p_active_w"] is None
    assert entry["provenance"]["energy_coverage"] == profile.energy_coverage
    assert "energy was not measured (energy: trusted readings" in printed(profile)


def test_a_whole_grid_cut_to_one_length_is_named_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ends its answers after 4 tokens .*grid asks for 4 to 24"):
        run(World(context=4), tmp_path / "out", grid=GRID)
    assert not list((tmp_path / "out").glob("rows/*"))
    grid = Grid.cross((128, 256, 512), (4, 12))
    with pytest.raises(RunError, match=r"counts 120 tokens of a prompt of 512.*prompts are cut"):
        run(World(prompt_context=120), tmp_path / "in", grid=grid)


def test_lengths_not_got_are_named_and_extrapolation_is_flagged(tmp_path: Path) -> None:
    run(World(context=16), tmp_path, grid=GRID, least_rounds=3)
    profile = profile_of(tmp_path)
    assert profile.lengths.l_out[1] == 16
    words = "cell 64x24 has answers of 16 tokens (finish_reason 'length')"
    for text in (markdown(profile), printed(profile)):
        assert words in text
        assert "L_out from 3 to 16" in text or "L_out 3 to 16" in text or "to 16 tokens" in text
    entry = model_entry(profile, "edge")
    assert entry["provenance"]["measured_lengths"]["l_out"][1] == 16


def test_a_precision_not_reached_is_said_with_what_to_change(tmp_path: Path) -> None:
    ended = run(World(noise=0.1), tmp_path, grid=SMALL, most_rounds=3, precision=0.001)
    assert ended == "rounds"
    profile = profile_of(tmp_path)
    assert profile.ended == "rounds"
    text = markdown(profile)
    assert "the precision asked for (±0.1%) was not reached: β_pre ±" in text
    assert "--budget-s" in text


def test_a_budget_that_ends_in_warm_up_or_early_is_said(tmp_path: Path) -> None:
    assert run(World(), tmp_path / "a", grid=SMALL, budget_s=0.05) == "budget"
    with pytest.raises(RunError, match=r"budget of 0\.05 s ended in warm-up.*--budget-s"):
        profile_of(tmp_path / "a")
    assert run(World(), tmp_path / "b", grid=SMALL, budget_s=0.2) == "budget"
    with pytest.raises(FitError, match=r"budget of 0\.2 s ended after \d+ requests"):
        profile_of(tmp_path / "b")


def test_json_of_a_profile_has_the_numbers_that_the_summary_has(tmp_path: Path) -> None:
    run(World(noise=0.01), tmp_path, grid=SMALL, most_rounds=3)
    profile = profile_of(tmp_path)
    said = json.loads((tmp_path / "profile.json").read_text())
    assert said["latency"]["served"]["outliers"] == profile.latency.served.outliers
    assert said["lengths"]["l_in"] == list(profile.lengths.l_in)
