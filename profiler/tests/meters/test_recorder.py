from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.meters.base import Domain, Fault, Reason, Trace
from cr2fast_profiler.meters.constant import ConstantMeter
from cr2fast_profiler.meters.recorder import Readings, Recorder

GPU = Domain("gpu-0", "gpu", "nvml-counter")


class Scripted:
    """Joules from a list; an event says when a reading has been taken."""

    domains = (GPU,)
    poll_s = 0.001

    def __init__(self, fail_at: int | None = None) -> None:
        self.faults: list[Fault] = []
        self.count = 0
        self.fail_at = fail_at
        self.reached = threading.Event()

    def read(self):
        self.count += 1
        if self.count == self.fail_at:
            self.reached.set()
            raise OSError("unplugged")
        if self.count == 5:
            self.faults.append(Fault(time.perf_counter_ns(), "gpu-0", Reason.LOST, "gone"))
        if self.count == 10:
            self.reached.set()
        return time.perf_counter_ns(), np.array([np.nan if self.count == 5 else self.count * 1.0])

    def close(self) -> None:
        pass


def test_drains_add_up_to_the_whole():
    meter = Scripted()
    recorder = Recorder(meter)
    recorder.start()
    parts = [recorder.drain()]
    assert meter.reached.wait(5)
    parts.append(recorder.drain())
    whole = recorder.stop()
    parts.append(recorder.drain())
    np.testing.assert_array_equal(np.concatenate([p.t_ns for p in parts]), whole.t_ns)
    np.testing.assert_array_equal(np.concatenate([p.joules for p in parts]), whole.joules)
    assert sum((p.faults for p in parts), ()) == whole.faults
    assert [f.reason for f in whole.faults] == [Reason.LOST]
    assert (np.diff(whole.t_ns) > 0).all()


def test_an_error_in_the_thread_reaches_the_caller():
    meter = Scripted(fail_at=3)
    recorder = Recorder(meter)
    recorder.start()
    assert meter.reached.wait(5)
    with pytest.raises(RunError, match="unplugged") as caught:
        recorder.stop()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(RunError, match="unplugged"):
        recorder.drain()


def test_an_error_in_the_thread_ends_a_with_block():
    meter = Scripted(fail_at=3)
    with pytest.raises(RunError, match="unplugged"), Recorder(meter):
        assert meter.reached.wait(5)


def test_the_body_s_own_error_is_not_masked():
    def body() -> None:
        meter = Scripted(fail_at=3)
        with Recorder(meter):
            meter.reached.wait(5)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        body()


def test_a_first_reading_that_fails_raises_at_the_start():
    with pytest.raises(OSError, match="unplugged"):
        Recorder(Scripted(fail_at=1)).start()


def test_a_recorder_starts_once():
    with Recorder(ConstantMeter(1)) as recorder, pytest.raises(RunError, match="starts once"):
        recorder.start()


def test_pitfall_wall_clock_has_no_part_in_it(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with Recorder(ConstantMeter(1000)) as recorder:
        start = time.perf_counter_ns()
        end = start + 1_000_000
        while time.perf_counter_ns() < end:
            pass
        trace = recorder.stop(margin_s=0.001)
    assert trace.window(start, end).energy_j == pytest.approx(1.0)


def test_stop_reads_on_until_a_slow_counter_ticks():
    class Ticking(Scripted):
        def read(self):
            t_ns = time.perf_counter_ns()
            return t_ns, np.array([float(t_ns // 30_000_000)])

    with Recorder(Ticking()) as recorder:
        time.sleep(0.1)
        end = time.perf_counter_ns()
        trace = recorder.stop()
    assert trace.t_ns[trace.edges()[-1]] > end


def test_a_flat_stretch_keeps_both_ends():
    readings = Readings((GPU,))
    for t, joules in enumerate([0, 0, 0, 5, 5, 5, 5, 6, 7, 7]):
        readings.append(t, np.array([float(joules)]))
    t_ns, joules = readings.trace()
    assert t_ns.tolist() == [0, 2, 3, 6, 7, 8, 9]
    assert joules[:, 0].tolist() == [0, 0, 5, 5, 6, 7, 7]
    assert len(readings) == 7


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 1.0, np.nan])), min_size=2))
def test_what_is_kept_interpolates_as_all_readings_do(steps):
    readings = Readings((GPU,))
    total, rows = 0.0, []
    for t, (rise, mark) in enumerate(steps):
        total += rise * mark if np.isfinite(mark) else 0.0
        rows.append(total if np.isfinite(mark) else np.nan)
        readings.append(t, np.array([rows[-1]]))
    t_ns, joules = readings.trace()
    np.testing.assert_array_equal(
        np.interp(np.arange(len(rows)), t_ns, joules[:, 0]),
        np.interp(np.arange(len(rows)), np.arange(len(rows)), rows),
    )
    kept = Trace(t_ns, joules, (GPU,))
    whole = Trace(np.arange(len(rows), dtype=np.int64), np.array(rows)[:, None], (GPU,))
    for start in range(len(rows)):
        ours, theirs = kept.window(start, len(rows) - 1), whole.window(start, len(rows) - 1)
        assert ours.reason == theirs.reason
        if theirs.energy_j is not None:
            assert ours.energy_j == pytest.approx(theirs.energy_j)
