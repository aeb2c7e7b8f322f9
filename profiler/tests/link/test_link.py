"""The link: known shapes are found, failures are counted, and noise is never a rate."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from fakes.clock import VirtualClock
from fakes.network import Network, Shape

from cr2fast_profiler.agent.server import Agent, _health
from cr2fast_profiler.errors import LinkError, WriteError
from cr2fast_profiler.link import Estimate, LinkMeasurement, LinkOptions, LinkSample, measure_link
from cr2fast_profiler.link.estimate import estimate
from cr2fast_profiler.meters.base import Reason, Unavailable

TOKEN = "a-token-of-enough-characters"
NONE = Unavailable("rapl", Reason.NOT_PRESENT, "no sensor here")
QUICK = LinkOptions(rounds=6, sizes_bytes=(2_048, 16_384, 65_536), pings=3, idle_gap_s=0.0)


FAST = Shape(40e6, 0.002)


def link(up=FAST, down=FAST, **more) -> Network:
    return Network(VirtualClock(), TOKEN, up, down, routes={"/health": _health}, **more)


def measure(network, options=QUICK, **more):
    return measure_link(
        network.URL,
        TOKEN,
        options=options,
        progress=False,
        clock=network.clock,
        sockets=network.socket,
        **more,
    )


@pytest.fixture(scope="module")
def agent():
    with Agent("127.0.0.1", 0, TOKEN, NONE) as running:
        yield running


def names(measured):
    return {f.name for f in measured.flags}


SLOW = dataclasses.replace(QUICK, rounds=4, sizes_bytes=(2_048, 16_384, 98_304))


@pytest.fixture(scope="module")
def asymmetric(tmp_path_factory):
    """A link of 4 Mbit/s up, 10 Mbit/s down and 100 ms, measured while the wall clock jumps back.

    A proxy at this end answers its connections.
    """
    start = time.time()
    jumps = iter(range(10**9))
    out = tmp_path_factory.mktemp("asymmetric")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: start - 3600.0 * next(jumps))
        network = link(Shape(4e6, 0.04), Shape(10e6, 0.06), connect_s=1e-4)
        return measure(network, SLOW, out=out), out


def test_rates_and_round_trip_of_a_shaped_link_are_found(asymmetric):
    measured, _ = asymmetric
    s = measured.summary
    assert s["rate_ul_bps"].median == pytest.approx(4e6, rel=1e-3)
    assert s["rate_dl_bps"].median == pytest.approx(10e6, rel=1e-3)
    assert s["rtt_s"].median == pytest.approx(0.100, rel=1e-3)
    assert len(measured.samples) == 4
    assert s["rate_ul_bps"].low <= s["rate_ul_bps"].median <= s["rate_ul_bps"].high


def test_a_proxy_that_answers_connections_is_told_and_not_believed(asymmetric):
    measured, _ = asymmetric
    assert "proxy" in names(measured)
    assert measured.rtt_source == "request"
    assert measured.summary["connect_s"].median < 0.050 < measured.summary["request_s"].median


def test_a_direct_path_takes_the_connections_time():
    measured = measure(link())
    assert measured.rtt_source == "connect"
    assert measured.summary["rtt_s"].median == pytest.approx(0.004, rel=1e-3)
    assert "same_host" in names(measured)


def test_sockets_of_this_machine_carry_a_measurement(agent, tmp_path):
    """Every probe goes through; what the times say of a busy machine is not asked."""
    with suppress(LinkError):
        measure_link(agent.url, TOKEN, options=QUICK, progress=False, out=tmp_path)
    rows = pl.read_parquet(tmp_path / "rows" / "*.parquet")
    assert set(rows["kind"]) == {"request", "connect", "uplink", "downlink", "warmup"}
    assert rows["duration_s"].null_count() == 0
    assert (rows["duration_s"] > 0).all()


def test_the_file_reads_back_and_makes_a_section(asymmetric):
    measured, out = asymmetric
    assert LinkMeasurement.read(out / "link.json") == measured
    section = measured.section(32.0, 40.0)
    assert section["kind"] == "empirical"
    assert section["bits_per_output_token"] == 40.0
    assert all(s["rate_ul_bps"] > 0 and s["rtt_s"] > 0 for s in section["samples"])
    low, high = section["intervals"]["rtt_s"]
    assert low <= measured.summary["rtt_s"].median <= high
    p = measured.provenance
    assert p["rounds"] == 4
    assert p["failed_probes"] == 0
    assert p["started_utc"].endswith("+00:00")
    assert TOKEN not in json.dumps(section) + (out / "run.json").read_text()


def test_raw_rows_are_kept_and_a_finished_run_is_only_read(asymmetric):
    measured, out = asymmetric
    rows = pl.read_parquet(out / "rows" / "*.parquet")
    assert set(rows["kind"]) == {"request", "connect", "uplink", "downlink", "warmup"}
    assert rows["duration_s"].null_count() == 0
    found = estimate(rows, QUICK.confidence, QUICK.seed)
    assert found.samples == measured.samples
    assert found.summary == measured.summary


def test_a_run_that_stopped_goes_on_and_ends_in_the_same_file(tmp_path):
    network = link()
    with pytest.raises(LinkError, match="run more rounds, or allow a larger budget"):
        measure(network, out=tmp_path, budget_s=1e-9)
    first = measure(network, dataclasses.replace(QUICK, rounds=3), out=tmp_path)
    (tmp_path / "rows" / ".round-00003.parquet.99").write_bytes(b"cut sh")
    whole = measure(network, out=tmp_path)
    assert whole.samples[:3] == first.samples
    again = measure(network, out=tmp_path)
    assert again.samples == whole.samples
    assert again.summary == whole.summary
    with pytest.raises(LinkError, match="that run had pings 3, not 4; choose another --out"):
        measure(network, dataclasses.replace(QUICK, pings=4), out=tmp_path)
    (tmp_path / "rows" / "round-00004.parquet").write_bytes(b"PAR1")
    with pytest.raises(LinkError, match="round-00004.parquet: expected rows of a round"):
        measure(network, out=tmp_path)


RUN = """
import os, signal, sys
from link.test_link import QUICK, link, measure
network = link()
network.clock.at(network.clock() + 700_000_000, lambda: os.kill(os.getpid(), signal.SIGKILL))
measure(network, QUICK, out=sys.argv[1])
"""


def test_a_killed_run_keeps_its_rounds_and_goes_on(tmp_path):
    def parts():
        return {p.name: p.read_bytes() for p in (tmp_path / "rows").glob("round-*.parquet")}

    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], env=here, check=False)
    assert child.returncode == -signal.SIGKILL
    before = parts()
    assert 3 <= len(before) < QUICK.rounds
    whole = measure(link(), out=tmp_path)
    assert whole.provenance["rounds"] == QUICK.rounds
    assert before.items() <= parts().items()
    assert LinkMeasurement.read(tmp_path / "link.json").samples == whole.samples


def test_a_disk_that_fills_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteError, match=r"cannot write .*the disk is full"):
        measure(link(), out=tmp_path)
    assert list(tmp_path.glob(".*")) == []


def test_power_save_shows_in_the_pair_and_not_in_the_round_trip():
    options = dataclasses.replace(QUICK, rounds=4, idle_gap_s=0.3)
    sleepy = Shape(10e6, 0.005, wake_s=0.06, sleep_after_s=0.25)
    measured = measure(link(sleepy, Shape(10e6, 0.005)), options)
    assert "power_save" in names(measured)
    assert measured.summary["after_idle_extra_s"].median == pytest.approx(0.06, rel=1e-3)
    assert measured.summary["next_s"].median < 0.0105
    assert measured.summary["rtt_s"].median == pytest.approx(0.010, rel=1e-3)


def test_a_transfer_that_is_cut_is_counted_and_the_rest_goes_on():
    measured = measure(link(cuts=2, cut_bytes=120_000))
    assert measured.rejections["probes"] == {"cut": 2}
    assert measured.provenance["failed_probes"] == 2
    assert measured.summary["rate_ul_bps"].median == pytest.approx(40e6, rel=1e-3)


def test_a_path_that_always_cuts_ends_the_run_with_the_reason():
    with pytest.raises(LinkError, match="got 0 of 4 .*4 cut.*see the reasons"):
        measure(link(cuts=10**9, cut_bytes=10_000))


def test_a_link_too_fast_for_the_sizes_is_an_error_never_a_rate():
    tiny = dataclasses.replace(QUICK, sizes_bytes=(1, 2, 3, 4))
    endless = Shape(1e15, 0.001)
    with pytest.raises(LinkError, match="too fast for these sizes.* send larger ones"):
        measure(link(endless, endless), tiny)


def test_a_wrong_token_is_refused(agent):
    with pytest.raises(LinkError, match="401.*give the token the agent was started with") as e:
        measure_link(agent.url, "another-token-that-is-wrong", progress=False)
    assert "another-token" not in str(e.value)


def test_a_dead_endpoint_is_told():
    with pytest.raises(LinkError, match="start `cr2fast-profile agent` there"):
        measure_link("http://127.0.0.1:9", TOKEN, progress=False)
    with pytest.raises(LinkError, match="expected http://HOST:PORT"):
        measure_link("ftp://host", TOKEN, progress=False)


def test_an_agent_that_dies_ends_the_run_and_keeps_the_rows(tmp_path):
    network = link()
    network.clock.at(network.clock() + 3_000_000_000, network.kill)
    with pytest.raises(LinkError, match="the agent is gone: 3 rounds in a row"):
        measure(network, dataclasses.replace(QUICK, rounds=1000), out=tmp_path)
    assert len(list((tmp_path / "rows").glob("*.parquet"))) >= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 2}, "rounds: expected 3"),
        ({"sizes_bytes": (5, 5)}, "sizes_bytes: expected 2 to 16 sizes"),
        ({"sizes_bytes": (0, 5)}, "sizes_bytes"),
        ({"sizes_bytes": (5, 1 << 30)}, "sizes_bytes"),
        ({"sizes_bytes": (5, 6), "repeats": 1}, "repeats: expected 3 transfers"),
        ({"repeats": 101}, "repeats: expected 1 to 100"),
        ({"pings": 0}, "pings"),
        ({"connects": 0}, "connects"),
        ({"idle_gap_s": -1}, "idle_gap_s"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"confidence": 1}, "confidence"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_named(change, words):
    with pytest.raises(LinkError, match=words):
        LinkOptions(**change)


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LinkError, match="choose --out"):
        measure(link(), out=tmp_path / "file")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(LinkError, match="expected a link run"):
        measure(link(), out=tmp_path)


E = dataclasses.asdict(Estimate(1.0, 0.9, 1.1, 0.95, 5, "s", {"p50": 1.0}))
GOOD = {
    "schema": "cr2fast.link/1",
    "samples": [dataclasses.asdict(LinkSample(1e6, 2e6, 0.01, 0))],
    "summary": {"rtt_s": E},
    "rtt_source": "connect",
    "flags": [],
    "rejections": {},
    "provenance": {},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "x"}, "expected schema"),
        ({"samples": []}, "at least one"),
        ({"samples": [{**GOOD["samples"][0], "rtt_s": 0}]}, r"samples\[0\].rtt_s: expected a pos"),
        ({"samples": [{**GOOD["samples"][0], "rate_ul_bps": "1"}]}, "rate_ul_bps"),
        ({"samples": [1]}, "expected the fields"),
        ({"samples": [{"rtt_s": 1}]}, "expected the fields"),
        ({"summary": []}, "expected the fields"),
        ({"flags": None}, "expected the fields"),
    ],
)
def test_bad_files_are_named(change, words):
    LinkMeasurement.from_json(json.dumps(GOOD))
    with pytest.raises(LinkError, match=words):
        LinkMeasurement.from_json(json.dumps({**GOOD, **change}))


def test_files_that_are_none(tmp_path):
    for text in ("", "[]", "null", "{}", "\xff"):
        with pytest.raises(LinkError, match=r"link\.json: expected"):
            LinkMeasurement.from_json(text)
    with pytest.raises(LinkError, match="run `cr2fast-profile link` first"):
        LinkMeasurement.read(tmp_path / "absent.json")
