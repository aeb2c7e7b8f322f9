"""The commands on logs, as a person types them."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

import cr2fast
from cr2fast.cli import traffic
from cr2fast.traffic import replay
from testing.console import run
from tests.conftest import QUICK


@pytest.fixture
def other(problem, splits, tmp_path):
    """Another router's file, of the same embeddings."""
    router = cr2fast.fit(splits[0], problem.costs, hidden=16, seed=5, **QUICK)
    router.calibrate(splits[1], alphas=(0.05,), lams=[1.0])
    router.save(tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


def test_replay_prints_a_line_per_point_below_what_was_logged(log, artifact, router, capsys):
    code, out, _ = run(
        capsys, "replay", log, "--router", artifact, "--lam", "1", "--alpha", "0.01,0.05"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("500 requests from 500 lines, 2024-11-01 00:00:00")
    assert lines[1].split()[:3] == ["lam", "alpha", "local"]
    assert lines[2].split()[0] == "logged"
    assert lines[3].split()[:2] == ["1", "0.01"]
    # The logged point, replayed, is what was logged.
    assert lines[4].split()[2:] == lines[2].split()[1:]
    code, out, err = run(
        capsys, "replay", log, "--router", artifact, "--lam", "1", "--alpha", "0.05", "--json"
    )
    (told,) = json.loads(out)
    assert told == json.loads(json.dumps(replay(log, router, 1.0, 0.05).to_dict()))
    assert "500 requests" in err


def test_a_window_and_the_usual_alpha(log, artifact, capsys):
    window = ("--since", "2024-11-01T00:01", "--until", "2024-11-01T00:02")
    code, out, _ = run(capsys, "replay", log, "--router", artifact, "--lam", "1", *window, "--json")
    assert code == 0
    (told,) = json.loads(out)
    assert (told["would"]["n"], told["alpha"]) == (60, 0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--lam", "1.01"], "lam=1.01 is not on the calibrated grid"),
        (["--lam", "x"], "expected numbers and commas"),
        (["--since", "monday"], "--since: expected a datetime"),
        (["--fallback", "edge-9", "--deferred", "fallback"], "edge-9"),
        (["--logged-by", "none.safetensors"], "No such file"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_flags(log, artifact, capsys, change, words):
    args = ["replay", log, "--router", artifact, *(["--lam", "1"] if "--lam" not in change else [])]
    try:
        code, _, err = run(capsys, *args, *change)
    except SystemExit as stop:
        code, err = stop.code, capsys.readouterr().err
    assert code == 2
    assert words in err


def test_a_log_that_is_not_there_or_holds_nothing(artifact, capsys, tmp_path):
    code, _, err = run(capsys, "replay", tmp_path / "no", "--router", artifact, "--lam", "1")
    assert code == 2
    assert "expected a decision log, got no file" in err
    (tmp_path / "d.jsonl").write_text("{}\n")
    code, _, err = run(capsys, "replay", tmp_path / "d.jsonl", "--router", artifact, "--lam", "1")
    assert code == 2
    assert "cr2fast.decision_log/1" in err


def test_recalibrate_writes_a_router_and_says_how_thresholds_moved(log, artifact, capsys, tmp_path):
    out = tmp_path / "new.safetensors"
    base = ("recalibrate", log, "--router", artifact, "-o", out)
    code, told, err = run(capsys, *base)
    # 400 requests promise alpha = 0.01 as little as one false acceptance does.
    assert code == 0, err
    assert "threshold" in told
    assert "wrote" in told
    new = cr2fast.Router.load(out)
    assert new.calibration["n"] == 400
    code, told, _ = run(capsys, *base, "--json")
    assert json.loads(told)["calibration"]["n"] == 400
    code, _, err = run(capsys, *base, "--held", "2")
    assert code == 2
    assert "--held: expected a number in (0, 1)" in err


def test_watch_looks_and_says_what_it_found(log, artifact, capsys, tmp_path):
    state = tmp_path / "state.json"
    base = (
        "watch", log, "--router", artifact, "--state", state, "--lam", "1", "--alpha", "0.05",
        "--looks", "1", "--window-h", "1000000",
    )  # fmt: skip
    before = artifact.read_bytes()
    code, out, _ = run(capsys, *base)
    assert code == 0
    assert "no alarm" in out
    code, out, err = run(capsys, *base, "--json")
    assert json.loads(out) == json.loads(err)
    assert json.loads(out)["points"][0]["n"] == 500
    assert artifact.read_bytes() == before
    code, _, err = run(capsys, *base, "--delta", "0.5")
    assert code == 2
    assert "--state: expected a watch of" in err
    code, _, err = run(capsys, *base, "--window-h", "-1")
    assert code == 2
    assert "--window-h: expected a number of seconds" in err
    code, _, err = run(capsys, *base, "--looks", "0")
    assert code == 2
    assert "--looks: expected a number of looks, at least 1, got 0" in err


def test_a_watch_that_refuses_to_the_last_ends_with_an_error(
    log, artifact, capsys, tmp_path, other
):
    base = ("--state", tmp_path / "s", "--lam", "1", "--alpha", "0.05", "--looks", "1")
    always = ("--window-h", "1000000")
    # Another router's log is read with the flag that the refusal names.
    code, out, _ = run(capsys, "watch", log, "--router", other, *base, *always)
    assert code == 2
    assert "refused: log: expected rows of this router" in out
    assert "pass the routers that wrote them with --logged-by" in out
    code, out, err = run(capsys, "watch", log, "--router", other, *base, *always, "--json")
    assert code == 2
    assert json.loads(out) == json.loads(err)
    assert json.loads(out)["verdict"] == "refused"
    code, out, _ = run(
        capsys, "watch", log, "--router", other, *base, *always, "--logged-by", artifact
    )
    assert code == 0, out
    assert "Not counted: 500 new requests at this point" in out
    # Nothing in the window, or no log at all.
    code, out, _ = run(capsys, "watch", log, "--router", artifact, *base, "--window-h", "0.1")
    assert (code, "No request of the window" in out) == (2, True)
    code, out, _ = run(capsys, "watch", tmp_path / "none", "--router", artifact, *base)
    assert (code, "no file at" in out) == (2, True)


def test_a_gateway_is_told_by_its_process_id(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
    file = tmp_path / "gateway.pid"
    file.write_text("4711\n")
    traffic._hang_up(file)
    assert sent == [(4711, signal.SIGHUP)]
    for bad in ("", "x", "0", "-1", "1"):
        file.write_text(bad)
        with pytest.raises(cr2fast.Cr2Error, match="--reload-pid: expected a process id"):
            traffic._hang_up(file)
    assert len(sent) == 1
    file.write_bytes(b"\xff")
    with pytest.raises(cr2fast.Cr2Error, match="--reload-pid: expected a process id in"):
        traffic._hang_up(file)


def test_the_process_id_is_looked_at_before_the_first_look(artifact, log, tmp_path, capsys):
    base = ("--state", tmp_path / "s", "--lam", "1", "--alpha", "0.05", "--looks", "1")
    for content, words in (
        (None, "--reload-pid: expected a file with the gateway's process id, got .*No such file"),
        ("none", "--reload-pid: expected a process id in .*, got 'none'"),
    ):
        pid = tmp_path / "gateway.pid"
        if content is not None:
            pid.write_text(content)
        code, out, err = run(capsys, "watch", log, "--router", artifact, *base, "--reload-pid", pid)
        assert (code, out) == (2, "")
        assert re.search(words, err), err
        assert not (tmp_path / "s").exists()


def test_a_log_is_summed_up_by_the_module_itself(log, records, capsys, tmp_path):
    from cr2fast.traffic.__main__ import main

    with log.open("a") as file:
        file.write('{"torn\n')
    assert main([str(log)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("1 lines are cut short or no JSON")
    n = sum(r["place"] == "edge" for r in records)
    assert f"{n}\tedge\tdeferred\tanswered" in out
    assert out[-1].startswith(f"{log}:501: expected one JSON object")
    assert main([str(tmp_path / "none")]) == 2
    assert "no file at" in capsys.readouterr().err
