"""The command line as a shell drives it: closed and narrow streams, signals, pipes (issue 13, item 15)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import cr2fast
from cr2fast import cli
from cr2fast._util import progress
from cr2fast.cli import commands, inputs

CALL = [sys.executable, "-m", "cr2fast"]


def shell(command, **env):
    """Run a line of sh; `$CR` is the command."""
    env = os.environ | {"CR": " ".join(CALL)} | {k: str(v) for k, v in env.items()}
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=env, timeout=300
    )


def test_a_closed_stdout_is_said_before_any_work(artifact):
    done = shell("$CR inspect $F >&-", F=artifact)
    assert done.returncode == 2
    assert "closed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_stderr_and_a_narrow_encoding_harm_nothing(artifact):
    expected = shell("$CR inspect $F --json", F=artifact)
    assert expected.returncode == 0
    closed = shell("$CR inspect $F --json 2>&-", F=artifact)
    assert (closed.returncode, closed.stdout) == (0, expected.stdout)
    both = shell("$CR inspect nothing.here 2>&- >&-")
    assert both.returncode == 2
    for encoding in ("ascii", "latin-1", "cp1252"):
        for line in ("$CR inspect $F", "$CR --help", "$CR calibrate --help", "$CR inspect /no/λ/α"):
            done = shell(line, F=artifact, PYTHONIOENCODING=encoding)
            assert done.returncode == (2 if "λ" in line else 0)
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_second_interrupt_on_its_way_breaks_nothing_off(artifact, capsys, monkeypatch, more):
    def interrupted(args):
        raise KeyboardInterrupt

    calls = []

    def late(number, handler):
        calls.append(handler)
        if len(calls) <= more:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "inspect", interrupted)
    monkeypatch.setattr(signal, "signal", late)
    assert cli.main(["inspect", str(artifact)]) == 130
    assert capsys.readouterr().err == "cr2fast inspect: interrupted\n"
    assert calls[-1] == signal.SIG_IGN


def test_a_second_interrupt_after_the_last_words_is_not_heard(tmp_path):
    code = """
import os, signal, sys
from cr2fast import cli
from cr2fast.cli import commands
def twice(args):
    os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit("unreached")
commands.inspect = twice
sys.argv = ["cr2fast", "inspect", "x"]
code = cli.script()
os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "cr2fast inspect: interrupted\n")


@pytest.mark.parametrize("command", [["demo"], ["evaluate", "r", "--data", "d", "--plots", "p"]])
def test_what_is_missing_is_said_before_training(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(inputs, "problem", lambda _: pytest.fail("work was begun"))
    assert cli.main(command) == 2
    assert "pip install 'cr2fast[lab]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["fit", "--data", "d"], ["calibrate", "r", "--data", "d"], ["distill-encoder"]],
    ids=lambda c: c[0],
)
def test_an_output_that_is_no_file_is_said_before_work(command, capsys, monkeypatch, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("problem", "encoder"):
        monkeypatch.setattr(inputs, name, lambda _: pytest.fail("work was begun"))
    for out, words in (
        (tmp_path / "pipe", "a pipe, socket or device"),
        ("/dev/null", "a regular file"),
    ):
        assert cli.main([*command, "-o", str(out)]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["demo", "--out", str(tmp_path / "file" / "deeper")]) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


def test_json_prints_json_and_nothing_else(artifact, capsys, splits, tmp_path):
    np.save(tmp_path / "x.npy", splits[2].embeddings[:3])
    for command in (
        ["inspect", artifact],
        ["route", artifact, "--lam", "1", "--alpha", "0.05", "--embeddings", tmp_path / "x.npy"],
    ):
        assert cli.main([*map(str, command), "--json"]) == 0
        out = capsys.readouterr()
        assert json.loads(out.out)
        assert out.err == ""


def test_route_says_which_level_it_took(artifact, capsys, splits, tmp_path):
    np.save(tmp_path / "x.npy", splits[2].embeddings[:3])
    router = cr2fast.Router.load(artifact)
    router.calibrate(splits[1], alphas=(0.02, 0.1))
    router.save(tmp_path / "r")
    for file, alpha in ((artifact, 0.01), (tmp_path / "r", 0.02)):
        command = ["route", str(file), "--lam", "1", "--embeddings", str(tmp_path / "x.npy")]
        assert cli.main([*command, "--json"]) == 0
        out = capsys.readouterr()
        assert json.loads(out.out)[0]["alpha"] == alpha
        assert out.err == f"cr2fast route: alpha = {alpha:g}\n"


def test_lines_come_at_both_ends_and_now_and_then(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress, "clock", lambda: now)
    with progress.epoch_bar("lines") as update:
        for i in range(41):
            now = float(i)
            update("teacher", i / 4, 10, 0.5)
        update("gate", 0, 3, 0.25)
    with progress.item_bar("lines", "texts", 100) as count:
        count(40)
        now += 60
        count(20)
        count(40)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "teacher: 0 of 10 epochs, loss 0.5000"
    assert lines[3] == "teacher: 10 of 10 epochs, loss 0.5000"
    assert [line.split(":")[0] for line in lines] == ["teacher"] * 4 + ["gate"] + ["texts"] * 3
    assert lines[-1] == "texts: 100 of 100 done"


def test_a_piped_fit_says_how_far_it_is(problem, tmp_path, capsys, monkeypatch):
    from types import SimpleNamespace

    table = problem.table.take(range(300))
    monkeypatch.setattr(
        inputs, "problem", lambda _: SimpleNamespace(table=table, costs=problem.costs)
    )
    epochs = ["--teacher-epochs", "1", "--gate-epochs", "1", "-o", str(tmp_path / "r")]
    assert cli.main(["fit", "--data", "d", *epochs]) == 0
    assert "gate: 1 of 1 epochs" in capsys.readouterr().err
    assert cli.main(["fit", "--data", "d", *epochs, "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_a_byte_order_mark_is_no_part_of_the_json(problem, tmp_path):
    text = problem.costs.to_json()
    (tmp_path / "c.json").write_text(text, encoding="utf-8-sig")
    assert cr2fast.CostTable.read(tmp_path / "c.json").to_json() == text
    assert cr2fast.CostTable.from_json("\ufeff" + text).to_json() == text


def test_small_data_calibrates_from_the_command_line(fitted, splits, tmp_path, capsys, monkeypatch):
    """Item 13: under 499 rows, with the default levels."""
    from types import SimpleNamespace

    fitted.save(tmp_path / "r")
    few = splits[1].take(range(60))
    monkeypatch.setattr(inputs, "problem", lambda _: SimpleNamespace(table=few, costs=None))
    monkeypatch.setattr(inputs, "part", lambda args, table, index: table)
    command = ["calibrate", str(tmp_path / "r"), "--data", "d"]
    assert cli.main(command) == 0
    assert "alpha 0.002, 0.005, 0.01" in capsys.readouterr().out
    assert cli.main([*command, "--alphas", "0.01"]) == 2
    assert "infeasible with 60" in capsys.readouterr().err
    assert cli.main([*command, "--on-infeasible", "raise"]) == 2
    assert cli.main([*command, "--alphas", "0.01,0.05", "--on-infeasible", "leave-out"]) == 0
    # Training rows under other ids: refused, or dropped and counted.
    capsys.readouterr()
    from testing.tables import renamed_rows

    few = renamed_rows(splits[0].take(range(60)))
    assert cli.main(command) == 2
    assert "--overlap drop" in capsys.readouterr().err


def test_an_interrupt_while_modules_load_is_no_traceback(tmp_path):
    """Ctrl-C as soon as numpy, the first large import, begins to load."""
    code = """
import importlib.abc, os, signal, sys
class Now(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Now())
sys.argv = ["cr2fast", "inspect", "x"]
from cr2fast.cli import script
assert "numpy" not in sys.modules, "loaded before anybody hears Ctrl-C"
sys.exit(script())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "cr2fast: interrupted\n")
