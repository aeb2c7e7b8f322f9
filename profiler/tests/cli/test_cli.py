from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from fakes.known import said_json
from fakes.virtual import URL, World

from cr2fast_profiler import commands
from cr2fast_profiler.cli import main
from cr2fast_profiler.link.measurement import Estimate, LinkMeasurement, LinkSample

QUICK = ["--grid", "40,120x3,8", "--rounds", "3-3", "--quiet", "--meter", "none"]
STEADY = {"beta_pre_s": 1e-3, "beta_dec_s": 5e-3, "noise": 0.01}


@pytest.fixture
def world(monkeypatch):
    """Commands ask a known server on a virtual clock, at URL."""

    def enter(**manners) -> World:
        made = World(**manners)
        monkeypatch.setattr(commands, "CLOCK", made.clock)
        monkeypatch.setattr(commands, "TRANSPORT", made.transport)
        monkeypatch.setattr(commands, "is_this_host", lambda url: True)
        return made

    return enter


def link_file(path: Path) -> Path:
    samples = tuple(LinkSample(1e7 + i, 4e7 + i, 0.02 + i * 1e-4, i) for i in range(12))
    names = {"rate_ul_bps": "bit/s", "rate_dl_bps": "bit/s", "rtt_s": "s"}
    values = {k: [getattr(s, k) for s in samples] for k in names}
    summary = {
        k: Estimate(v[6], v[4], v[8], 0.95, len(v), names[k], {"p05": v[0], "p95": v[-1]})
        for k, v in values.items()
    }
    path.mkdir()
    text = LinkMeasurement(samples, summary, "connect").to_json()
    (path / "link.json").write_text(text)
    return path


def test_profile_table_and_plots_from_the_command_line(tmp_path: Path, capsys, world) -> None:
    for name, manners in (("small", STEADY), ("large", STEADY | {"beta_dec_s": 0.01})):
        world(model=name, **manners)
        assert main(["model", "--endpoint", URL, "--out", str(tmp_path / name), *QUICK]) == 0
    said = capsys.readouterr()
    assert "| β_dec |" in said.out
    assert "energy will be null: none was asked for" in said.err
    assert "Ended because" in said.out
    assert "# large" in (tmp_path / "large" / "summary.md").read_text()

    link = link_file(tmp_path / "link")
    out = tmp_path / "cost_table.json"
    runs = ["--device", str(tmp_path / "small"), "--edge", f"{tmp_path / 'large'}=big"]
    asked = ["table", *runs, "--link", str(link), "-o", str(out)]
    assert main(asked) == 1
    assert "--energy-weight 0" in capsys.readouterr().err
    assert not out.exists()
    assert main([*asked, "--energy-weight", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    table = json.loads(out.read_text())
    assert [m["name"] for m in table["models"]] == ["small", "big"]
    assert table["source"] == "measured"
    assert len(table["link"]["samples"]) == 12
    for folder in ("small", "link"):
        assert main(["plot", str(tmp_path / folder)]) == 0
        assert (tmp_path / folder / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_link_constants_come_from_another_table_and_are_estimates(
    tmp_path: Path, capsys, world
) -> None:
    world(**STEADY)
    assert main(["model", "--endpoint", URL, "--out", str(tmp_path / "a"), *QUICK]) == 0
    constants = tmp_path / "other.json"
    shannon = {"kind": "shannon", "rtt_s": 0.018}
    constants.write_text(json.dumps({"schema": "cr2fast.cost_table/1", "link": shannon}))
    a, out = str(tmp_path / "a"), str(tmp_path / "t.json")
    asked = ["table", "--device", a, "--edge", f"{a}=b", "--energy-weight", "0", "-o", out]
    assert main([*asked, "--link", str(constants)]) == 0
    assert "estimated, not measured: link" in capsys.readouterr().out
    assert json.loads(Path(out).read_text())["source"] == "estimated"
    constants.write_text("{")
    assert main([*asked, "--link", str(constants)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_doctor_names_what_is_missing_and_succeeds(capsys, world) -> None:
    here = world()
    assert main(["doctor", "--endpoint", URL]) == 0
    said = capsys.readouterr().out
    assert "known answers" in said
    assert "this host" in said
    here.manners.bad, here.manners.every = "http_500", 1
    assert main(["doctor", "--endpoint", URL, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["endpoint"]["usable"] is False
    assert all(u["reason"] and u["detail"] for u in found["absent"])
    assert found["sensors"] or found["absent"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model", "--endpoint", "http://127.0.0.1:9", "--out", "x"], "is the server running"),
        (["model", "--endpoint", "127.0.0.1:9", "--out", "x"], "expected http"),
        (["model", "--callable", "nothing:f", "--out", "x"], "callable"),
        (["plot", "nowhere"], "neither a run"),
        (["selftest", "--meter", "rapl2"], "no meter is called"),
        (["table", "--device", "x", "--edge", "y", "--link", "z", "-o", "t"], "cannot be read"),
        (["agent", "--host", "0.0.0.0"], "token"),
    ],
)
def test_errors_in_words_and_exit_code_1(arguments, words, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CR2FAST_PROFILE_TOKEN", raising=False)
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["model"],
        ["model", "--endpoint", "x", "--callable", "y", "--out", "z"],
        ["model", "--endpoint", "x", "--out", "z", "--rounds", "5-2"],
        ["model", "--endpoint", "x", "--out", "z", "--budget-s", "nan"],
        ["model", "--endpoint", "x", "--out", "z", "--precision", "0"],
        ["model", "--endpoint", "x", "--out", "z", "--extra", "[1]"],
    ],
)
def test_usage_errors_are_exit_code_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: cr2fast-profile model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["doctor", "selftest", "idle", "model", "agent", "link", "table", "plot"]
)
def test_every_command_has_help(command: str, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"usage: cr2fast-profile {command}" in capsys.readouterr().out


def test_idle_of_the_unloaded_host_stands_beside_the_run(tmp_path: Path, capsys, world) -> None:
    idle, out = tmp_path / "idle.json", tmp_path / "run"
    world(**STEADY)
    seconds = ["--meter", "constant:7", "--seconds", "0.5", "-o", str(idle)]
    assert main(["idle", *seconds]) == 0
    assert "7 W" in capsys.readouterr().out
    asked = ["model", "--endpoint", URL, "--out", str(out), *QUICK]
    assert main([*asked, "--unloaded-idle", str(idle)]) == 0
    assert "| P_idle, unloaded | 7 | 7 to 7 |  | W |" in (out / "summary.md").read_text()
    idle.write_text("{}")
    assert main([*asked, "--unloaded-idle", str(idle)]) == 1
    assert "cr2fast.idle/1" in capsys.readouterr().err


def test_a_remote_endpoint_has_no_energy_here(tmp_path: Path, capsys, monkeypatch, world) -> None:
    world(**STEADY)
    monkeypatch.setattr(commands, "is_this_host", lambda url: False)
    monkeypatch.setattr(commands, "connect_rtt_s", lambda url: 0.001)
    arguments = [*QUICK[:-2], "--out", str(tmp_path)]
    assert main(["model", "--endpoint", URL, *arguments]) == 0
    said = capsys.readouterr()
    assert "energy will be null: the endpoint is on another host" in said.err
    assert "cr2fast-profile agent" in (tmp_path / "summary.md").read_text()


def test_ctrl_c_keeps_the_rows_and_says_how_to_go_on(tmp_path: Path, capsys, world) -> None:
    # A shell's job in the background ignores the signal, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    here = world(**STEADY)
    answer = here.transport.handle

    def interrupted(request):
        if here.manners.served == 9:
            signal.raise_signal(signal.SIGINT)
        return answer(request)

    here.transport.handle = interrupted
    arguments = ["model", "--endpoint", URL, "--out", str(tmp_path), *QUICK]
    assert main(arguments) == 130
    assert "give the same command to go on" in capsys.readouterr().err
    assert len(list(tmp_path.glob("rows/*.parquet"))) == 9 - 3  # the probe's three leave no row
    here.transport.handle = answer
    assert main(arguments) == 0


def test_a_small_budget_is_not_spent_many_times_over_on_waiting(tmp_path, capsys, world) -> None:
    here = world()
    here.transport.handle = lambda r: said_json(503, {"error": "Loading model"})
    start_ns = here.clock()
    asked = ["model", "--endpoint", URL, "--out", str(tmp_path), *QUICK, "--budget-s", "20"]
    assert main(asked) == 1
    assert (here.clock() - start_ns) * 1e-9 == pytest.approx(20)
    assert "503: Loading model" in capsys.readouterr().err
