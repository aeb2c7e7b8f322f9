"""profile.json: written once per run, read by all, and hostile ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from fakes.virtual import World
from runs import SMALL, run

from cr2fast_profiler import analysis
from cr2fast_profiler.analysis import profile_of
from cr2fast_profiler.errors import RunError
from cr2fast_profiler.profile import read_profile
from cr2fast_profiler.report.summary import markdown
from cr2fast_profiler.report.table import model_entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(World(noise=0.01), out, grid=SMALL, most_rounds=3)
    profile_of(out)
    return out


def test_what_is_read_is_what_was_written(folder: Path) -> None:
    made, read = analysis.analyse(folder), read_profile(folder)
    assert msgspec.to_builtins(read) == msgspec.to_builtins(made)
    assert markdown(read) == markdown(made)
    assert model_entry(read, "edge") == model_entry(made, "edge")


def test_a_run_is_analysed_once_and_again_when_rows_came(folder, tmp_path, monkeypatch) -> None:
    world = World()
    run(world, tmp_path, grid=SMALL, most_rounds=3)
    first = profile_of(tmp_path)
    monkeypatch.setattr(analysis, "analyse", lambda f: pytest.fail("analysed again"))
    assert profile_of(tmp_path) == first
    monkeypatch.undo()
    run(world, tmp_path, grid=SMALL, least_rounds=5, most_rounds=5)
    again = profile_of(tmp_path)
    assert again.n_rows > first.n_rows
    assert read_profile(tmp_path) == again


def test_a_profile_stands_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_bytes((folder / "profile.json").read_bytes())
    assert profile_of(tmp_path).latency == read_profile(folder).latency


def change(said: dict, path: str, value) -> None:
    *inner, last = path.split(".")
    for key in inner:
        said = said[key]
    said[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema", "cr2fast.profile/9", "expected schema"),
        ("latency.tau0_s", "0.1", "float"),
        ("latency.beta_dec_s", 0, "beta_dec_s: 0 is no coefficient"),
        ("latency.beta_pre_s", -1.0, "is no coefficient"),
        ("latency.intervals.beta_dec_s", [1.0, 2.0], "expected an interval around"),
        ("latency.intervals", {}, "expected an interval around"),
        ("latency.phi_pre", "cubic", "phi_pre"),
        ("latency.secret", 1, "latency.secret: no such field"),
        ("extra", [1], "profile.extra: no such field"),
        ("energy", {"p_active_w": 1}, "energy"),
        ("no_energy", "", "energy"),
        ("n_rows", 1.5, "n_rows"),
        ("sessions", [], "sessions"),
        ("sessions", [{}], "started, profiler and host"),
        ("unloaded_idle", {"p_idle_w": "7"}, "unloaded_idle"),
        ("rejected", {"x": "many"}, "rejected"),
        ("notes", "x" * 100_000, "notes"),
    ],
)
def test_hostile_profiles_are_refused(folder, tmp_path, path, value, words) -> None:
    said = json.loads((folder / "profile.json").read_text())
    change(said, path, value)
    (tmp_path / "profile.json").write_text(json.dumps(said))
    with pytest.raises(RunError, match=words) as refused:
        read_profile(tmp_path)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": "cr2fast.profile/1"}', "[" * 100_000, "\x00"]
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(RunError):
        read_profile(tmp_path)


def test_numbers_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    text = (folder / "profile.json").read_text()
    said = json.loads(text)
    for bad in ("NaN", "Infinity", "1e999"):
        noise = json.dumps(said["latency"]["noise"])
        (tmp_path / "profile.json").write_text(
            text.replace(f'"noise": {noise}', f'"noise": {bad}', 1)
        )
        with pytest.raises(RunError):
            read_profile(tmp_path)
    (tmp_path / "profile.json").write_bytes(b" " * (1 << 23))
    with pytest.raises(RunError, match="at most"):
        read_profile(tmp_path)
