from __future__ import annotations

import math

import numpy as np
import pytest
from fakes.clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Trace
from cr2fast_profiler.meters.constant import ConstantMeter
from cr2fast_profiler.meters.replay import ReplayMeter, read_trace, record

DOMAINS = (
    Domain("package-0", "cpu", "rapl"),
    Domain("psys", "psys", "rapl", in_total=False),
)
S = 1_000_000_000


def sample() -> Trace:
    joules = np.array([[0, 0], [10.1, 3], [np.nan, 4], [10.1, 5], [0.1 + 20.2, 6]])
    faults = (Fault(7 * S, "package-0", Reason.RESET, 'fell, "hard"\nsecond line'),)
    return Trace(np.arange(5, 10, dtype=np.int64) * S, joules, DOMAINS, faults)


def same(a: Trace, b: Trace) -> None:
    np.testing.assert_array_equal(a.t_ns, b.t_ns)
    np.testing.assert_array_equal(a.joules, b.joules)
    assert (a.domains, a.faults) == (b.domains, b.faults)


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "trace.csv"
    record(sample(), path)
    same(read_trace(path), sample())


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(-(10**15), 10**15))
def test_round_trip_of_any_joules(tmp_path_factory, steps, start):
    path = tmp_path_factory.mktemp("replay") / "trace.csv"
    t_ns = start + np.arange(len(steps), dtype=np.int64)
    trace = Trace(t_ns, np.cumsum(steps)[:, None], DOMAINS[:1])
    record(trace, path)
    same(read_trace(path), trace)


def test_replay_is_a_meter_on_its_own_clock(tmp_path):
    path = tmp_path / "trace.csv"
    record(sample(), path)
    clock = FakeClock(start_ns=777)
    meter = ReplayMeter(path, clock)
    assert meter.domains == DOMAINS
    assert meter.poll_s == pytest.approx(0.1)
    clock.sleep(0.5)
    t_ns, joules = meter.read()
    assert t_ns == 777 + S // 2
    np.testing.assert_allclose(joules, [5.05, 1.5])
    clock.sleep(1)
    assert math.isnan(meter.read()[1][0])
    clock.sleep(1)
    assert math.isnan(meter.read()[1][0])
    assert [(f.t_ns, f.reason) for f in meter.faults] == [(777 + 2 * S, Reason.RESET)]
    clock.sleep(1.5)
    np.testing.assert_allclose(meter.read()[1], [20.3, 6])
    clock.sleep(0.1)
    assert np.isnan(meter.read()[1]).all()
    meter.read()
    assert [f.reason for f in meter.faults[1:]] == [Reason.NOT_COVERED] * 2
    meter.close()


def test_a_replay_read_seldom_does_not_step_over_an_untrusted_reading(tmp_path):
    path = tmp_path / "trace.csv"
    record(sample(), path)
    clock = FakeClock()
    meter = ReplayMeter(path, clock)
    clock.sleep(0.5)
    assert np.isfinite(meter.read()[1]).all()
    clock.sleep(3)
    assert np.isnan(meter.read()[1]).tolist() == [True, False]
    clock.sleep(0.1)
    assert np.isfinite(meter.read()[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: "", "line 1: the file is empty"),
        (lambda s: s[:-3], "the last line is cut off"),
        (lambda s: s.replace("# cr2fast-trace ", "# trace "), "line 1: expected"),
        (
            lambda s: s.replace("t_ns,package-0,psys", "t_ns,package-0"),
            "line 2: expected the columns",
        ),
        (lambda s: s.split("\n")[0] + "\n", "line 2: expected the columns"),
        (lambda s: "\n".join(s.split("\n")[:2]) + "\n", "line 2: there is no reading"),
        (
            lambda s: s.replace("6000000000,", "5000000000,"),
            "line 4: t_ns 5000000000 does not come after",
        ),
        (lambda s: s.replace("8000000000,", "6500000000,"), "line 6: t_ns"),
        (lambda s: s.replace("10.1,3.0", "10.1"), "line 4: expected 3 cells; got 2"),
        (lambda s: s.replace("10.1,3.0", "nan,3.0"), "line 4: joules must be finite"),
        (lambda s: s.replace("10.1,3.0", "inf,3.0"), "line 4: joules must be finite"),
        (lambda s: s.replace("10.1,3.0", "many,3.0"), "line 4: could not convert"),
        (lambda s: s.replace("6000000000,", "6e9,"), "line 4: invalid literal"),
        (
            lambda s: s.replace("10.1,5.0", "9.1,5.0"),
            "line 6: package-0 falls from 10.1 J to 9.1 J",
        ),
        (lambda s: s[: s.index("# fault")], "line 5: package-0 is empty and no fault says why"),
        (lambda s: s.replace('"reset"', '"mood"'), "malformed fault"),
        (lambda s: s.replace("# fault {", "# fault [{"), "malformed fault"),
        (lambda s: s.replace('"t_ns": 7000000000', '"t_ns": "7"'), "t_ns must be a whole number"),
        (lambda s: s.replace('"kind"', '"sort"'), "the domains are malformed"),
        (lambda s: s.replace("[{", "[", 1), "the domains are malformed"),
    ],
)
def test_hostile_files_are_refused_with_their_line(tmp_path, change, message):
    path = tmp_path / "trace.csv"
    record(sample(), path)
    path.write_text(change(path.read_text()))
    with pytest.raises(MeterError, match=message):
        read_trace(path)


def test_missing_file_and_bytes(tmp_path):
    with pytest.raises(MeterError, match="cannot be read"):
        ReplayMeter(tmp_path / "missing.csv")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MeterError, match="cannot be read"):
        read_trace(tmp_path / "bytes")


def test_constant_watts_are_always_estimated():
    clock = FakeClock()
    meter = ConstantMeter(15, clock)
    clock.sleep(2)
    assert meter.read()[1].tolist() == [30.0]
    assert all(d.estimated for d in meter.domains)
    meter.close()


@pytest.mark.parametrize("watts", [0, -1, math.nan, math.inf])
def test_constant_watts_must_make_sense(watts):
    with pytest.raises(MeterError, match="positive"):
        ConstantMeter(watts)
