from __future__ import annotations

import math

import numpy as np
import pynvml
import pytest
from fakes.clock import FakeClock
from fakes.nvml_library import (
    DRIVER_NOT_LOADED,
    MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    FakeGpu,
    FakeNvml,
    installed,
)

from cr2fast_profiler.meters.base import MeterError, Reason, Trace
from cr2fast_profiler.meters.nvml import NvmlMeter
from cr2fast_profiler.meters.recorder import Readings


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def serve(clock):
    """Install a library of GPUs for the length of a test."""
    managers = []

    def start(*gpus: FakeGpu, init: int = 0) -> FakeNvml:
        managers.append(installed(FakeNvml(clock, *gpus, init=init)))
        return managers[-1].__enter__()

    yield start
    for manager in reversed(managers):
        manager.__exit__(None, None, None)


def open_nvml(clock, gpu=None, **environment: str) -> NvmlMeter:
    return NvmlMeter(gpu, clock, environment)


def watch(meter: NvmlMeter, clock: FakeClock, seconds: float) -> Trace:
    readings = Readings(meter.domains)
    readings.append(*meter.read())
    for _ in range(round(seconds / meter.poll_s)):
        clock.sleep(meter.poll_s)
        readings.append(*meter.read())
    return Trace(*readings.trace(), meter.domains, tuple(meter.faults))


@pytest.mark.parametrize("tick_ms", [100, 97, 83, 20, 10])
def test_pitfall_counter_ticks_every_10_to_100_ms_half_second_within_half_a_percent(
    serve, clock, tick_ms
):
    serve(FakeGpu(power_w=300, tick_ns=tick_ms * 1_000_000))
    meter = open_nvml(clock)
    assert [d.source for d in meter.domains] == ["nvml-counter"]
    trace = watch(meter, clock, 3)
    assert trace.tick_s() == pytest.approx(tick_ms * 1e-3, abs=0.0011)
    for offset_ms in range(0, 1000, 7):
        start = int(trace.t_ns[0]) + 500_000_000 + offset_ms * 1_000_000
        window = trace.window(start, start + 500_000_000)
        assert window.energy_j == pytest.approx(150, rel=5e-3)


def test_readings_kept_grow_with_ticks_not_with_polls(serve, clock):
    serve(FakeGpu())
    meter = open_nvml(clock)
    assert len(watch(meter, clock, 10).t_ns) <= 2 * 101 + 2


def test_counter_not_supported_falls_back_on_instant_power(serve, clock):
    serve(FakeGpu(power_w=250, counter=False))
    meter = open_nvml(clock)
    assert [d.source for d in meter.domains] == ["nvml-power"]
    trace = watch(meter, clock, 2)
    start = int(trace.t_ns[0])
    assert trace.window(start, start + 10**9).energy_j == pytest.approx(250)


def test_pitfall_one_second_average_is_named(serve, clock):
    serve(FakeGpu(counter=False, instant=False))
    assert open_nvml(clock).domains[0].source == "nvml-power-average"


@pytest.mark.parametrize(
    "missing", ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues"]
)
def test_function_not_found_uses_what_there_is(serve, clock, missing):
    library = serve(FakeGpu())
    delattr(library, missing)
    meter = open_nvml(clock)
    assert meter.domains[0].source == ("nvml-power" if "Total" in missing else "nvml-counter")
    assert meter.gpus[0].power_source == (
        "nvml-power" if "Total" in missing else "nvml-power-average"
    )
    assert meter.power_w() == 300


def test_function_not_found_anywhere(serve, clock):
    library = serve(FakeGpu())
    for name in ("TotalEnergyConsumption", "FieldValues", "PowerUsage"):
        delattr(library, f"nvmlDeviceGet{name}")
    with pytest.raises(MeterError, match="neither energy nor power.*update") as caught:
        open_nvml(clock)
    assert caught.value.unavailable.reason is Reason.NOT_SUPPORTED
    assert library.running == 0


def test_pitfall_jetson_initialises_nvml_and_supports_nothing(serve, clock):
    serve(FakeGpu(counter=False, instant=False, average=False, model="Orin (nvgpu)"))
    with pytest.raises(MeterError, match="Orin.*zeus") as caught:
        open_nvml(clock)
    assert caught.value.unavailable.reason is Reason.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        (DRIVER_NOT_LOADED, Reason.NO_DRIVER),
        (MISMATCH, Reason.NO_DRIVER),
        (NO_PERMISSION, Reason.PERMISSION),
        (NOT_SUPPORTED, Reason.NOT_SUPPORTED),
    ],
)
def test_init_fails_with_a_typed_reason(serve, clock, init, reason):
    serve(FakeGpu(), init=init)
    with pytest.raises(MeterError) as caught:
        open_nvml(clock)
    assert caught.value.unavailable.reason is reason
    assert caught.value.unavailable.remedy


def test_library_not_found(clock, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", missing)
    with pytest.raises(MeterError, match="driver") as caught:
        open_nvml(clock)
    assert caught.value.unavailable.reason is Reason.NO_DRIVER


def test_missing_package(clock, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(MeterError, match="pip install nvidia-ml-py"):
        open_nvml(clock)


def test_gpu_lost_before_it_is_opened(serve, clock):
    library = serve(FakeGpu(lost=True))
    with pytest.raises(MeterError, match="nvidia-smi") as caught:
        open_nvml(clock)
    assert caught.value.unavailable.reason is Reason.LOST
    del library.nvmlDeviceGetUUID
    pynvml._nvmlGetFunctionPointer_cache.clear()
    with pytest.raises(MeterError, match="NVML fails"):
        open_nvml(clock)
    assert library.running == 0


def test_power_that_is_not_told_is_none(serve, clock):
    gpu = FakeGpu()
    serve(gpu)
    meter = open_nvml(clock)
    gpu.lost = True
    assert meter.power_w() is None
    gpu.lost, gpu.instant, gpu.average = False, False, False
    # The counter rests, and nothing can say whether it should.
    gpu.frozen_mj = gpu.energy_mj(clock())
    watch(meter, clock, 2)
    assert not meter.faults
    assert open_nvml(clock).power_w() is None


@pytest.mark.parametrize("counter", [True, False])
def test_gpu_lost_midway_gives_nan_and_comes_back(serve, clock, counter):
    gpu = FakeGpu(counter=counter)
    serve(gpu)
    meter = open_nvml(clock)
    watch(meter, clock, 1)
    gpu.lost = True
    trace = watch(meter, clock, 1)
    assert np.isnan(trace.joules[1:]).all()
    assert [f.reason for f in meter.faults] == [Reason.LOST]
    assert trace.window(int(trace.t_ns[0]), int(trace.t_ns[-1])).reason is Reason.LOST
    gpu.lost = False
    trace = watch(meter, clock, 2)
    start = int(trace.t_ns[1]) + 500_000_000
    assert trace.window(start, start + 10**9).energy_j == pytest.approx(300, rel=5e-3)


def test_pitfall_stuck_counter_is_found_by_power(serve, clock):
    gpu = FakeGpu(power_w=300)
    serve(gpu)
    meter = open_nvml(clock)
    good = watch(meter, clock, 1)
    gpu.frozen_mj = gpu.energy_mj(clock())
    trace = watch(meter, clock, 1)
    fault = meter.faults[0]
    assert fault.reason is Reason.STUCK
    assert "300.0 W" in fault.detail
    # Untrusted from when it last moved, not from when that was noticed.
    assert fault.t_ns <= good.t_ns[-1]
    late = int(trace.t_ns[0]) + 200_000_000
    assert trace.window(late, late + 100_000_000).reason is Reason.STUCK
    gpu.frozen_mj = None
    trace = watch(meter, clock, 2)
    start = int(trace.t_ns[0]) + 500_000_000
    assert trace.window(start, start + 10**9).energy_j == pytest.approx(300, rel=5e-3)


def test_a_gpu_that_is_off_is_not_stuck(serve, clock):
    serve(FakeGpu(power_w=0))
    meter = open_nvml(clock)
    watch(meter, clock, 3)
    assert not meter.faults


def test_counter_that_falls_is_a_reset(serve, clock):
    gpu = FakeGpu()
    serve(gpu)
    meter = open_nvml(clock)
    gpu.start_mj = 0
    assert math.isnan(meter.read()[1][0])
    assert meter.faults[0].reason is Reason.RESET


TWO = (FakeGpu(power_w=100), FakeGpu(power_w=200, uuid="GPU-bbbbbbbb-1111"))


def test_several_gpus_add_up(serve, clock):
    serve(*TWO)
    meter = open_nvml(clock)
    trace = watch(meter, clock, 3)
    start = int(trace.t_ns[0]) + 10**9
    assert trace.window(start, start + 10**9).energy_j == pytest.approx(300, rel=5e-3)
    assert meter.power_w() == 300


@pytest.mark.parametrize("gpu", [1, "1", "GPU-bbbbbbbb-1111", "GPU-bbbb"])
def test_a_gpu_is_chosen_by_index_or_uuid(serve, clock, gpu):
    serve(*TWO)
    meter = open_nvml(clock, gpu, CUDA_VISIBLE_DEVICES="0")
    assert [(g.index, g.uuid) for g in meter.gpus] == [(1, "GPU-bbbbbbbb-1111")]
    assert [d.name for d in meter.domains] == ["gpu-1"]


def test_an_unknown_gpu_names_those_present(serve, clock):
    library = serve(*TWO)
    with pytest.raises(MeterError, match="no GPU '7'; present: 0 = NVIDIA H100"):
        open_nvml(clock, 7)
    assert library.running == 0


@pytest.mark.parametrize(
    ("visible", "indices"), [("1", [1]), ("GPU-aaaaaaaa-0000", [0]), ("1,0", [1, 0])]
)
def test_cuda_visible_devices_is_respected(serve, clock, visible, indices):
    serve(*TWO)
    assert [g.index for g in open_nvml(clock, CUDA_VISIBLE_DEVICES=visible).gpus] == indices


@pytest.mark.parametrize("visible", ["", "-1"])
def test_no_visible_gpu_is_no_meter(serve, clock, visible):
    serve(*TWO)
    with pytest.raises(MeterError, match="CUDA_VISIBLE_DEVICES"):
        open_nvml(clock, CUDA_VISIBLE_DEVICES=visible)


def test_cuda_order_of_unlike_gpus_is_not_guessed(serve, clock):
    serve(FakeGpu(model="A"), FakeGpu(model="B", uuid="GPU-b"))
    with pytest.raises(MeterError, match="PCI_BUS_ID"):
        open_nvml(clock, CUDA_VISIBLE_DEVICES="1")
    meter = open_nvml(clock, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert meter.gpus[0].model == "B"


def test_close_shuts_nvml_down_once(serve, clock):
    library = serve(FakeGpu())
    meter = open_nvml(clock)
    assert library.running == 1
    meter.close()
    meter.close()
    assert library.running == 0


def test_power_read_too_seldom_is_not_covered(serve, clock):
    serve(FakeGpu(counter=False))
    meter = open_nvml(clock)
    clock.sleep(5)
    assert math.isnan(meter.read()[1][0])
    assert meter.faults[0].reason is Reason.NOT_COVERED
