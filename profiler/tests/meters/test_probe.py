from __future__ import annotations

import numpy as np
import pytest
from fakes.clock import FakeClock
from fakes.nvml_library import FakeGpu, FakeNvml, installed
from fakes.powercap_tree import PowercapTree

from cr2fast_profiler.meters import probe
from cr2fast_profiler.meters.base import Domain, MeterError, Reason, Trace, Unavailable
from cr2fast_profiler.meters.constant import ConstantMeter
from cr2fast_profiler.meters.nvml import NvmlMeter
from cr2fast_profiler.meters.probe import CombinedMeter, open_meter, survey
from cr2fast_profiler.meters.recorder import Readings
from cr2fast_profiler.meters.replay import record


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tree(tmp_path, clock) -> PowercapTree:
    tree = PowercapTree(tmp_path, clock)
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:1", "psys", 90)
    return tree


@pytest.fixture
def no_gpu(monkeypatch):
    def missing(gpu=None):
        raise MeterError(Unavailable("nvml", Reason.NO_DRIVER, "no driver", "install it"))

    monkeypatch.setattr(probe, "NvmlMeter", missing)


@pytest.fixture
def gpus(clock, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with installed(FakeNvml(clock, FakeGpu(), FakeGpu(uuid="GPU-b"))) as library:
        yield library


def names(meter) -> list[str]:
    return [d.name for d in meter.domains]


def test_auto_combines_gpu_and_cpu(gpus, tree):
    meter = open_meter("auto", tree.root)
    assert names(meter) == ["gpu-0", "gpu-1", "package-0", "psys"]
    assert meter.absent == ()
    meter.close()
    assert gpus.running == 0


def test_auto_without_gpu_says_so(no_gpu, tree):
    meter = open_meter("auto", tree.root)
    assert names(meter) == ["package-0", "psys"]
    assert [u.reason for u in meter.absent] == [Reason.NO_DRIVER]


def test_auto_with_nothing_names_every_reason(no_gpu, tmp_path):
    with pytest.raises(MeterError, match="nvml: no_driver, rapl: not_present.*doctor") as caught:
        open_meter("auto", tmp_path / "missing")
    assert caught.value.unavailable.reason is Reason.NOT_PRESENT


def test_combined_reads_each_part_at_its_pace(gpus, clock):
    slow = ConstantMeter(50, clock)
    meter = CombinedMeter([slow, NvmlMeter(None, clock, {})])
    assert meter.poll_s == 0.002
    readings = Readings(meter.domains)
    for _ in range(1500):
        clock.sleep(meter.poll_s)
        readings.append(*meter.read())
    trace = Trace(*readings.trace(), meter.domains, tuple(meter.faults))
    start = int(trace.t_ns[0]) + 10**9
    assert trace.window(start, start + 10**9).energy_j == pytest.approx(650, rel=5e-3)
    assert len(np.unique(trace.joules[:, 2])) <= 3 / (0.9 * slow.poll_s) + 2
    gpus.gpus[0].lost = True
    meter.read()
    assert [f.domain for f in meter.faults] == ["gpu-0"]
    meter.read()
    assert len(meter.faults) == 1
    assert np.isnan(meter.read()[1][0])


def test_parts_must_differ():
    with pytest.raises(ValueError, match="different names"):
        CombinedMeter([ConstantMeter(1), ConstantMeter(2)])


def test_specs(gpus, tree, tmp_path):
    assert names(open_meter("nvml")) == ["gpu-0", "gpu-1"]
    assert names(open_meter("nvml:1")) == ["gpu-1"]
    assert names(open_meter("nvml:GPU-b")) == ["gpu-1"]
    assert names(open_meter("rapl", tree.root)) == ["package-0", "psys"]
    assert open_meter("constant:15").domains[0].estimated
    path = tmp_path / "a:b.csv"
    record(Trace(np.array([1]), np.array([[0.0]]), (Domain("x", "cpu", "rapl"),)), path)
    assert names(open_meter(f"replay:{path}")) == ["x"]


@pytest.mark.parametrize(
    "spec", ["", "radar", "constant", "constant:many", "replay", "rapl:0", "nvml:"]
)
def test_an_unknown_spec_lists_those_known(spec):
    with pytest.raises(MeterError, match="replay:FILE"):
        open_meter(spec)


def test_pyrapl_which_knows_one_root_is_not_asked_about_another(tree, monkeypatch):
    monkeypatch.setattr(probe, "PyraplMeter", lambda root: pytest.fail("asked"))
    assert probe.open_rapl(tree.root).domains[0].source == "rapl"
    survey(tree.root)


def test_survey_lists_what_is_here_and_what_is_not(no_gpu, tree):
    found = survey(tree.root)
    assert {d.name for d in found if isinstance(d, Domain)} == {"package-0", "psys"}
    absent = {u.source: u for u in found if isinstance(u, Unavailable)}
    assert absent["nvml"].remedy == "install it"
    assert "zeus" in absent


def test_survey_of_this_host_always_answers():
    found = survey()
    assert found
    assert all(u.detail for u in found if isinstance(u, Unavailable))
