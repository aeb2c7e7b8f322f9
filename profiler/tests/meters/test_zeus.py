from __future__ import annotations

import sys
from queue import Empty

import numpy as np
import pytest
from fakes import zeus_soc
from fakes.clock import FakeClock
from fakes.zeus_soc import AppleSiliconMeasurement, JetsonMeasurement, Soc

from cr2fast_profiler.meters.base import MeterError, Reason
from cr2fast_profiler.meters.zeus import ZeusMeter


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def jetson(clock: FakeClock, **rails_w: float) -> Soc:
    start_ns = clock()

    def measure() -> JetsonMeasurement:
        elapsed_ms = (clock() - start_ns) * 1e-6
        return JetsonMeasurement(**{f"{r}_energy_mj": w * elapsed_ms for r, w in rails_w.items()})

    return Soc(measure)


def test_jetson_input_rail_alone_adds_up(clock, monkeypatch, tmp_path):
    model = tmp_path / "model"
    model.write_text("NVIDIA Jetson Orin Nano Developer Kit\0")
    zeus_soc.serve(monkeypatch, lambda: jetson(clock, cpu=3, gpu=5, total=11))
    meter = ZeusMeter(clock, model)
    assert meter.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert meter.rails == ("total_energy_mj", "cpu_energy_mj", "gpu_energy_mj")
    assert [d.name for d in meter.domains if d.in_total] == ["board"]
    clock.sleep(10)
    np.testing.assert_allclose(meter.read()[1], [110, 30, 50])


def test_jetson_without_an_input_rail_adds_cpu_and_gpu(clock, monkeypatch, tmp_path):
    zeus_soc.serve(monkeypatch, lambda: jetson(clock, cpu=3, gpu=5))
    meter = ZeusMeter(clock, tmp_path / "missing")
    assert [d.in_total for d in meter.domains] == [True, True]
    assert meter.board
    meter.close()


def test_apple_leaves_out_cores_and_clusters(clock, monkeypatch):
    def measure() -> AppleSiliconMeasurement:
        now = clock() // 1_000_000
        return AppleSiliconMeasurement(
            cpu_total_mj=5 * now, performance_cores_mj=[now], dram_mj=now, gpu_mj=4 * now
        )

    zeus_soc.serve(monkeypatch, lambda: Soc(measure))
    meter = ZeusMeter(clock)
    assert [d.name for d in meter.domains] == ["cpu", "gpu", "dram"]
    clock.sleep(1)
    np.testing.assert_allclose(meter.read()[1], [5, 4, 1])


def test_a_rail_lost_and_a_reader_that_stops(clock, monkeypatch):
    soc = jetson(clock, cpu=3, total=9)
    zeus_soc.serve(monkeypatch, lambda: soc)
    meter = ZeusMeter(clock)
    measure = soc.measure
    soc.measure = lambda: JetsonMeasurement(cpu_energy_mj=1e9)
    clock.sleep(1)
    joules = meter.read()[1]
    assert np.isnan(joules[0])
    assert [f.reason for f in meter.faults] == [Reason.LOST, Reason.IMPLAUSIBLE]

    def stopped() -> JetsonMeasurement:
        raise Empty

    soc.measure = stopped
    assert np.isnan(meter.read()[1]).all()
    soc.measure = measure
    meter.read()
    clock.sleep(1)
    before = meter.read()[1]
    clock.sleep(1)
    np.testing.assert_allclose(meter.read()[1] - before, [9, 3])


def test_not_installed(monkeypatch, clock):
    monkeypatch.setitem(sys.modules, "zeus", None)
    monkeypatch.delitem(sys.modules, "zeus.device.soc", raising=False)
    with pytest.raises(MeterError, match="extra `zeus`") as caught:
        ZeusMeter(clock)
    assert caught.value.unavailable.reason is Reason.MISSING_PACKAGE


def test_no_board_that_zeus_knows(monkeypatch, clock):
    def get_soc() -> Soc:
        raise zeus_soc.ZeusSoCInitError("No observable SoC was found on the current machine.")

    zeus_soc.serve(monkeypatch, get_soc)
    with pytest.raises(MeterError, match="No observable SoC") as caught:
        ZeusMeter(clock)
    assert caught.value.unavailable.reason is Reason.NOT_PRESENT


def test_no_rail_and_no_answer(monkeypatch, clock):
    zeus_soc.serve(monkeypatch, lambda: Soc(JetsonMeasurement))
    with pytest.raises(MeterError, match="no rail"):
        ZeusMeter(clock)

    def silent() -> JetsonMeasurement:
        raise Empty

    zeus_soc.serve(monkeypatch, lambda: Soc(silent))
    with pytest.raises(MeterError, match="Empty"):
        ZeusMeter(clock)
