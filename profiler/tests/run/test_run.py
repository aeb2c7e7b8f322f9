"""Whole runs against the known server: coefficients, bad manners, kills, full disks, clocks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fakes.known import said_json
from fakes.virtual import Heater, World
from runs import SMALL, run

from cr2fast_profiler import files
from cr2fast_profiler.analysis import analyse
from cr2fast_profiler.errors import RunError, WriteError
from cr2fast_profiler.profile import ModelProfile
from cr2fast_profiler.report.summary import markdown
from cr2fast_profiler.run import Options, profile_model
from cr2fast_profiler.store import RunStore
from cr2fast_profiler.workload.grid import Grid
from cr2fast_profiler.workload.load import Load

SLOW = {"beta_pre_s": 1e-3, "beta_dec_s": 1e-2}
MANNERS = {
    "plain": {},
    "role chunk, reasoning": {"role_chunk": True, "reasoning": True},
    "four tokens a chunk": {"chunk_tokens": 4},
    "no usage in the stream": {"stream_usage": False},
    "error in 200": {"bad": "error_in_200", "every": 7},
    "prefix cache": {"bad": "cached", "every": 5},
    "cut off": {"bad": "cut_off", "every": 6},
}
REASONS = {"error in 200": "error_in_200", "prefix cache": "cached_prompt", "cut off": "cut_off"}


@pytest.fixture(scope="module")
def profiles(tmp_path_factory) -> dict[str, ModelProfile]:
    """A run against each manner."""

    def one(name: str) -> ModelProfile:
        folder = tmp_path_factory.mktemp("known")
        world = World(**SLOW, noise=0.01, **MANNERS[name])
        run(world, folder, grid=Grid.cross((32, 128, 256), (4, 12, 24)), most_rounds=4)
        return analyse(folder)

    return {name: one(name) for name in MANNERS}


@pytest.mark.parametrize("name", MANNERS)
def test_known_coefficients_come_back_whatever_the_manners(profiles, name: str) -> None:
    profile = profiles[name]
    fit = profile.latency
    for coefficient, truth in SLOW.items():
        assert getattr(fit, coefficient) == pytest.approx(truth, rel=0.03)
        low, high = fit.intervals[coefficient]
        # One run of one seed: an interval may miss by a hair. Coverage is tested by simulation.
        assert low * 0.99 <= truth <= high * 1.01
    assert fit.tau0_s == pytest.approx(0.004, abs=0.003)
    assert (fit.phi_pre, fit.phi_dec) == ("linear", "linear")
    if name in REASONS:
        n = profile.rejected[REASONS[name]]
        assert n >= 4
        assert set(profile.rejected) == {REASONS[name]}
        assert f"{n} x {REASONS[name]}" in markdown(profile)
    else:
        assert profile.rejected == {}


def test_without_noise_the_coefficients_are_exact(tmp_path: Path) -> None:
    run(World(**SLOW), tmp_path, least_rounds=3, most_rounds=3)
    fit = analyse(tmp_path).latency
    for coefficient, truth in (*SLOW.items(), ("tau0_s", 0.004)):
        assert getattr(fit, coefficient) == pytest.approx(truth, rel=1e-6)


def test_more_than_half_rejected_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    world = World()
    said, endpoint = world.manners, world.endpoint()
    with endpoint:
        plan = endpoint.generate

        def generate(prompt: str, max_tokens: int):
            if said.served > 12:
                said.bad, said.every = "error_in_200", 1
            return plan(prompt, max_tokens)

        endpoint.generate = generate  # type: ignore[method-assign]
        with pytest.raises(RunError, match=r"more than half of \d+ .*\d+ x error_in_200: .*memory"):
            profile_model(endpoint, tmp_path, Options(SMALL), progress=False, clock=world.clock)
    rows = RunStore(tmp_path).rows()
    assert rows["rejected"].is_not_null().sum() > 5
    assert rows["rejected"].is_null().sum() > 5


@pytest.mark.parametrize(
    ("manners", "words"),
    [
        ({"usage": False}, "no_usage"),
        ({"bad": "ignored_max_tokens", "every": 1}, "ignored_max_tokens"),
        ({"bad": "empty", "every": 1}, "empty"),
    ],
)
def test_answers_that_never_measure_end_it_at_the_probe(tmp_path: Path, manners, words) -> None:
    with pytest.raises(RunError, match=f"no measurements: {words}"):
        run(World(**manners), tmp_path)


def test_tight_intervals_and_the_budget_end_a_run(tmp_path: Path) -> None:
    world = World(beta_pre_s=3e-4, beta_dec_s=4e-3)
    assert run(world, tmp_path / "a", precision=0.5, most_rounds=9) == "tight"
    assert RunStore(tmp_path / "a").rows()["round"].max() == 2
    assert run(world, tmp_path / "b", budget_s=0.3) == "budget"
    assert RunStore(tmp_path / "b").rows()["round"].max() <= 1


def test_loads_feed_no_fit(tmp_path: Path) -> None:
    world = World()
    run(world, tmp_path, grid=SMALL, loads=(Load.parse("concurrent:4"), Load.parse("poisson:80")))
    run(world, tmp_path, grid=SMALL, loads=(Load.parse("concurrent:4"),))
    rows = RunStore(tmp_path).rows()
    under_load = rows.filter(pl.col("phase") == "load")
    assert dict(under_load["load"].value_counts().rows()) == {"concurrent:4": 24, "poisson:80": 24}
    four = under_load.filter(pl.col("load") == "concurrent:4")
    assert four["in_flight"].max() == 4
    profile = analyse(tmp_path)
    assert (
        profile.latency.n_requests
        == rows.filter(pl.col("phase").is_in(["grid", "reference"])).height
    )
    assert [x.n for x in profile.loads] == [24, 24]
    assert "| concurrent:4 | 24 | 0 |" in markdown(profile)


CHILD = """
import os, signal, sys
from pathlib import Path
from fakes.known import said_json
from fakes.virtual import Heater, World
from runs import run
world = World()
answer = world.transport.handle
def handle(request):
    if world.manners.served == 25:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(request)
world.transport.handle = handle
run(world, Path(sys.argv[1]), least_rounds=3, most_rounds=3)
"""


def test_kill_9_and_resume_end_in_the_same_table(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.run([sys.executable, "-c", CHILD, str(killed)], env=here, check=False)
    assert child.returncode == -signal.SIGKILL
    world = World()
    before = RunStore(killed).rows()
    assert before.height == 25 - 3  # the probe's three leave no row
    run(world, killed, least_rounds=3, most_rounds=3)
    run(world, whole, least_rounds=3, most_rounds=3)
    key = ["round", "position", "phase", "l_in", "l_out", "n_input_tokens", "n_output_tokens"]
    tables = []
    for folder in (killed, whole):
        asked = RunStore(folder).rows().filter(pl.col("phase").is_in(["grid", "reference"]))
        tables.append(asked.select(key).sort("round", "position"))
    assert tables[0].equals(tables[1])
    assert tables[0].height == 3 * 11
    after = RunStore(killed).rows().filter(pl.col("session") == 0)
    assert after.equals(before), "rows written before the kill stay as they were"
    assert len(RunStore(killed).manifest()["sessions"]) == 2
    a, b = (analyse(f).latency for f in (killed, whole))
    assert a.n_requests == b.n_requests == 33


def test_the_wall_clock_has_no_say(tmp_path: Path, monkeypatch) -> None:
    steps = iter(np.linspace(0, -3600, 100_000))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(steps))
    world = World(**SLOW)
    run(world, tmp_path, grid=Grid.cross((32, 128), (4, 12)), most_rounds=3)
    fit = analyse(tmp_path).latency
    assert fit.beta_pre_s == pytest.approx(SLOW["beta_pre_s"], rel=0.05)
    assert fit.beta_dec_s == pytest.approx(SLOW["beta_dec_s"], rel=0.05)


def test_a_full_disk_loses_nothing_that_was_measured(tmp_path: Path, monkeypatch) -> None:
    real, synced = os.fsync, []

    def full(fd: int) -> None:
        if len(synced) == 9:  # run.json, its meter-less session, and seven rows
            raise OSError(errno.ENOSPC, "No space left on device")
        synced.append(fd)
        real(fd)

    world = World()
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(WriteError, match="the disk is full; rows written before are kept"):
        run(world, tmp_path, grid=SMALL)
    monkeypatch.undo()
    assert RunStore(tmp_path).rows().height == 8
    assert not list(tmp_path.glob("rows/.*"))
    run(world, tmp_path, grid=SMALL, least_rounds=3, most_rounds=3)
    asked = RunStore(tmp_path).rows().filter(pl.col("phase").is_in(["grid", "reference"]))
    assert asked.select("round", "position").n_unique() == asked.height == 18


def test_a_folder_belongs_to_one_plan_and_one_process(tmp_path: Path) -> None:
    world = World()
    run(world, tmp_path, grid=SMALL, most_rounds=3)
    with pytest.raises(RunError, match=r"another plan \(seed was 0 and is 1\)"):
        run(world, tmp_path, grid=SMALL, seed=1)
    plan = RunStore(tmp_path).manifest()["plan"]
    with RunStore(tmp_path).open(plan), pytest.raises(RunError, match="another process"):
        run(world, tmp_path, grid=SMALL)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "run.json").write_text("{"), "cannot be read"),
        (
            lambda f: (f / "run.json").write_text('{"schema": "x"}'),
            'expected schema "cr2fast.run/1"',
        ),
        (lambda f: (f / "run.json").write_text("[]"), "expected schema"),
        (lambda f: (f / "run.json").unlink(), "holds no run"),
        (lambda f: next(f.glob("rows/*.parquet")).write_bytes(b"PAR1"), "cannot be read"),
        (
            lambda f: pl.DataFrame({"a": [1]}).write_parquet(f / "rows/000001.parquet"),
            "wrong or missing columns",
        ),
    ],
)
def test_a_spoilt_folder_is_an_error_that_names_it(tmp_path: Path, spoil, words) -> None:
    world = World()
    run(world, tmp_path, grid=SMALL, most_rounds=3)
    spoil(tmp_path)
    with pytest.raises(RunError, match=words):
        analyse(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("plan", 1), ("sessions", []), ("sessions", [{}]), ("target", {}), ("target", None)],
)
def test_an_edited_manifest_is_an_error_that_names_the_field(tmp_path, field, value) -> None:
    world = World()
    run(world, tmp_path, grid=SMALL, most_rounds=3)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(RunError, match=f"{field}.* is missing or not what it should be"):
        analyse(tmp_path)


def test_rows_without_a_manifest_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".mine.tmp").touch()
    world = World()
    run(world, tmp_path, grid=SMALL, most_rounds=3)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match="holds rows and no run.json"):
        run(world, tmp_path, grid=SMALL)
    assert (tmp_path / "sub" / ".mine.tmp").exists()


def test_a_server_that_dies_ends_the_run_and_a_live_one_goes_on(tmp_path: Path) -> None:
    world = World()
    said, endpoint = world.manners, world.endpoint()
    with endpoint:
        plan = endpoint.generate

        def generate(prompt: str, max_tokens: int):
            if said.served > 15:
                said.bad, said.every = "cut_off", 1
            return plan(prompt, max_tokens)

        endpoint.generate = generate  # type: ignore[method-assign]
        options = Options(SMALL, least_rounds=3, most_rounds=3)
        with pytest.raises(RunError, match="5 requests in a row had no answer.*asks again"):
            profile_model(endpoint, tmp_path, options, progress=False, clock=world.clock)
        said.every, endpoint.generate = 0, plan  # type: ignore[method-assign]
        ended = profile_model(endpoint, tmp_path, options, progress=False, clock=world.clock)
        assert ended in ("rounds", "tight")
    profile = analyse(tmp_path)
    assert profile.latency.n_requests == 18
    assert profile.rejected == {"cut_off": 5}


def test_no_two_sessions_send_the_same_prompt(tmp_path: Path) -> None:
    world = World()
    for name in ("a", "b"):
        run(world, tmp_path / name, grid=SMALL, most_rounds=3)
    posts = [r for r in world.transport.requests if r.method == "POST"]
    sent = [json.loads(r.content)["messages"][0]["content"] for r in posts]
    heads = [" ".join(p.split()[:5]) for p in sent]
    assert len(set(heads)) == len(heads) > 40


def test_a_wide_load_fills_its_width_and_itl_knows_chunks(tmp_path: Path) -> None:
    world = World(chunk_tokens=4, beta_dec_s=0.01)
    asked = {"grid": Grid.cross((40, 80), (8, 16)), "most_rounds": 3}
    run(world, tmp_path, **asked, loads=(Load.parse("concurrent:12"),))
    rows = RunStore(tmp_path).rows().filter(pl.col("load") == "concurrent:12")
    assert rows.height == 36
    assert rows["in_flight"].max() == 12
    (load,) = analyse(tmp_path).loads
    assert load.itl_s is not None
    assert load.itl_s[0] == pytest.approx(0.01, rel=0.2)


def test_energy_of_the_serving_host(tmp_path: Path) -> None:
    world = World(beta_pre_s=2e-4, beta_dec_s=4e-3)
    options = {"least_rounds": 3, "most_rounds": 3, "idle_s": 5.0}
    run(world, tmp_path, meter=Heater(world), **options)
    profile = analyse(tmp_path)
    assert profile.energy is not None
    assert profile.energy.p_idle_w == pytest.approx(5.0, rel=0.01)
    assert profile.energy.p_active_w == pytest.approx(20.0, rel=0.01)
    assert profile.energy.sources == ("replay",)
    assert "Energy from replay" in markdown(profile)
    trace = RunStore(tmp_path).trace(0)
    assert trace is not None
    assert (np.diff(trace.t_ns) > 0).all()


def test_a_run_keeps_to_one_meter(tmp_path: Path) -> None:
    world = World()
    options = {"grid": SMALL, "most_rounds": 3, "idle_s": 0.1}
    run(world, tmp_path, meter=Heater(world), **options)
    with pytest.raises(RunError, match="another plan .*meter was .*board: replay"):
        run(world, tmp_path, **options)


def test_no_meter_no_number(tmp_path: Path) -> None:
    world = World()
    run(world, tmp_path, grid=SMALL, most_rounds=3)
    profile = analyse(tmp_path)
    assert profile.energy is None
    assert profile.no_energy == "no meter was asked for"
    assert "| P_active | not measured | | | W |" in markdown(profile)


def test_a_server_that_stays_busy_ends_the_run_once_and_goes_on_later(tmp_path: Path) -> None:
    world = World()
    answer = world.transport.handle
    busy = said_json(503, {"error": "Loading model"})
    world.transport.handle = lambda r: busy if world.manners.served > 9 else answer(r)
    start_ns = world.clock()
    with pytest.raises(RunError, match="503: Loading model.*--wait-s.*same command goes on"):
        run(world, tmp_path, grid=SMALL)
    assert (world.clock() - start_ns) * 1e-9 < 700, "it is waited for once"
    world.transport.handle = answer
    assert run(world, tmp_path, grid=SMALL) in ("tight", "rounds")


def test_a_pause_is_no_part_of_a_time_and_is_told(tmp_path: Path) -> None:
    world = World(**SLOW)
    answer, posts = world.transport.handle, iter(range(10**6))

    def limited(request):
        if request.method == "POST" and next(posts) % 5 == 4:
            return said_json(429, {"error": "slow down"}, **{"Retry-After": "3"})
        return answer(request)

    world.transport.handle = limited
    run(world, tmp_path, least_rounds=3, most_rounds=3)
    profile = analyse(tmp_path)
    assert profile.latency.beta_dec_s == pytest.approx(SLOW["beta_dec_s"], rel=1e-6)
    assert profile.rejected == {}
    assert "was busy or not ready" in markdown(profile)
