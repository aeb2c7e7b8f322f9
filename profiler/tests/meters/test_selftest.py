from __future__ import annotations

import bisect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fakes.clock import FakeClock

from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason
from cr2fast_profiler.meters.selftest import cpu_work, gpu_work, run_selftest


class Board:
    """A GPU whose load, counter and power sensor are known, on a fake clock."""

    domains = (Domain("gpu-0", "gpu", "nvml-counter"),)
    poll_s = 0.002

    def __init__(self, tick_s=0.1, sampled_s=0.025, gain=1.0, stuck=False) -> None:
        self.clock = FakeClock()
        self.faults: list[Fault] = []
        self.tick_s, self.sampled_s, self.gain, self.stuck = tick_s, sampled_s, gain, stuck
        self.start_s = self.clock() * 1e-9
        self.knots, self.joules = [self.start_s - 1, self.start_s], [0.0, 0.0]

    def spend(self, seconds: float, power_w: float) -> None:
        self.clock.sleep(seconds)
        self.knots.append(self.clock() * 1e-9)
        self.joules.append(self.joules[-1] + seconds * power_w)

    def work(self) -> None:
        self.spend(0.002, 400.0)

    def sleep(self, seconds: float) -> None:
        self.spend(seconds, 80.0)

    def used_j(self, at_s: float) -> float:
        i = min(max(bisect.bisect(self.knots, at_s), 1), len(self.knots) - 1)
        (low, high), (first, last) = self.knots[i - 1 : i + 1], self.joules[i - 1 : i + 1]
        return first + (last - first) * min(max((at_s - low) / (high - low), 0.0), 1.0)

    def ticked_s(self) -> float:
        now_s = self.clock() * 1e-9
        return now_s - (now_s - self.start_s + 0.03) % self.tick_s

    def read(self):
        used = 0.0 if self.stuck else self.used_j(self.ticked_s())
        return self.clock(), np.array([used * self.gain])

    def power_w(self) -> float:
        end = self.ticked_s()
        return (self.used_j(end) - self.used_j(end - self.sampled_s)) / self.sampled_s

    def close(self) -> None:
        pass

    def test(self, **options):
        lengths = {"rest_s": 1.0, "load_s": 2.0, "switching_s": 6.0, **options}
        return run_selftest(self, self.work, clock=self.clock, sleep=self.sleep, **lengths)


@pytest.fixture(scope="module")
def quarter():
    return Board().test()


def test_tick_idle_and_load(quarter):
    assert quarter.tick_s == pytest.approx(0.1)
    assert quarter.poll_s == pytest.approx(0.002)
    assert quarter.idle_w == pytest.approx(80, rel=0.01)
    assert quarter.load_w == pytest.approx(400, rel=0.01)
    assert quarter.counter_to_power == pytest.approx(1, abs=0.05)
    assert not quarter.stuck


def test_pitfall_power_sampled_a_quarter_of_the_time(quarter):
    assert quarter.power_update_s == pytest.approx(0.1)
    assert quarter.sampled_fraction == pytest.approx(0.25, abs=0.06)
    assert "dither" in "".join(quarter.warnings)


def test_pitfall_one_second_average_is_seen():
    result = Board(sampled_s=1.0).test()
    assert result.sampled_s == pytest.approx(1.0, rel=0.3)
    assert result.sampled_fraction == 1.0
    assert "average over" in "".join(result.warnings)


def test_the_report_prints(quarter):
    text = quarter.report()
    watts = (f"{quarter.idle_w:.1f} W", f"{quarter.load_w:.1f} W")
    for part in ("gpu-0: nvml-counter", "100.0 ms", "25 %", *watts, "stuck"):
        assert part in text


def test_pitfall_stuck_counter():
    result = Board(stuck=True).test(switching_s=0)
    assert result.stuck
    assert result.counter_to_power == 0
    assert "do not use" in result.report()


def test_pitfall_wrong_counter_shows_its_ratio():
    result = Board(gain=3.0).test(switching_s=0)
    assert result.counter_to_power == pytest.approx(3, rel=0.05)
    assert "disagree by a factor of 3" in "".join(result.warnings)


def test_a_load_elsewhere_does_not_show():
    board = Board()
    result = run_selftest(
        board,
        lambda: board.sleep(0.002),
        rest_s=1,
        load_s=1,
        switching_s=0,
        clock=board.clock,
        sleep=board.sleep,
    )
    assert "does not show" in "".join(result.warnings)


def test_without_power_nothing_is_invented():
    board = Board()
    board.power_w = None
    result = board.test()
    assert (result.counter_to_power, result.sampled_fraction, result.sampled_s) == (None,) * 3
    assert "not known" in result.report()


def test_faults_are_told():
    board = Board()
    read = board.read

    def faulty():
        if len(board.faults) < 1:
            board.faults.append(Fault(board.clock() + 1, "gpu-0", Reason.LOST, "gone for a while"))
        return read()

    board.read = faulty
    assert "gone for a while" in board.test(switching_s=0).report()


def test_cpu_work_is_short():
    cpu_work()()


def test_gpu_work_needs_torch_and_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MeterError, match="pip install torch"):
        gpu_work()
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: False, synchronize=lambda: done.append("sync")),
        ones=lambda shape, **options: options["device"],
        matmul=lambda a, b: done.append(a),
        float16=None,
    )
    done: list[str] = []
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(MeterError, match="sees no GPU"):
        gpu_work()
    torch.cuda.is_available = lambda: True
    gpu_work()()
    assert done == ["cuda", "sync"]
