from __future__ import annotations

import math
import time

import numpy as np
import pytest
from fakes.clock import FakeClock
from fakes.powercap_tree import EACCES, EIO, ENODATA, ENOENT, RANGE_UJ, Opener, PowercapTree
from hypothesis import given
from hypothesis import strategies as st

from cr2fast_profiler.meters.base import MeterError, Reason, Trace
from cr2fast_profiler.meters.counters import Counter
from cr2fast_profiler.meters.powercap import find_zones
from cr2fast_profiler.meters.rapl import RaplMeter
from cr2fast_profiler.meters.recorder import Readings


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tree(tmp_path, clock) -> PowercapTree:
    return PowercapTree(tmp_path, clock)


def open_rapl(tree: PowercapTree, read=None) -> RaplMeter:
    return RaplMeter(tree.root, tree.clock, tree.clock.sleep, read or Opener())


def watch(meter, clock: FakeClock, seconds: float, step_s: float = 1.0) -> Trace:
    readings = Readings(meter.domains)
    readings.append(*meter.read())
    for _ in range(round(seconds / step_s)):
        clock.sleep(step_s)
        readings.append(*meter.read())
    return Trace(*readings.trace(), meter.domains, tuple(meter.faults))


def energy_j(trace: Trace) -> float | None:
    return trace.window(int(trace.t_ns[0]), int(trace.t_ns[-1])).energy_j


def names(meter) -> list[str]:
    return [d.name for d in meter.domains]


# Check 1: wraps.


def test_pitfall_counter_wraps_within_minutes_at_full_load(tree, clock):
    tree.add("intel-rapl:0", "package-0", 900, start_uj=RANGE_UJ - 1, limit_w=400)
    meter = open_rapl(tree)
    # 900 W for 20 minutes wraps four times.
    trace = watch(meter, clock, 1200, 20)
    assert energy_j(trace) == pytest.approx(900 * 1200, abs=1e-4)
    assert meter.faults == []
    assert meter.poll_s <= RANGE_UJ * 1e-6 / 1200 / 4


def test_a_small_range_is_polled_four_times_a_wrap(tree, clock):
    tree.add("intel-rapl:0", "package-0", 90, range_uj=20_000_000, limit_w=40)
    meter = open_rapl(tree)
    assert meter.poll_s == pytest.approx(20 / 400 / 4)
    trace = watch(meter, clock, 2, meter.poll_s)
    elapsed = (trace.t_ns[-1] - trace.t_ns[0]) * 1e-9
    assert energy_j(trace) == pytest.approx(90 * elapsed, abs=1e-5)


def test_pitfall_decrease_that_is_no_wrap_is_a_reset(tree, clock):
    zone = tree.add("intel-rapl:0", "package-0", 50, start_uj=10**9, limit_w=100)
    meter = open_rapl(tree)
    before = watch(meter, clock, 5)
    zone.offset_uj -= 10**9
    after = watch(meter, clock, 5)
    assert [f.reason for f in meter.faults] == [Reason.RESET]
    assert energy_j(before) == pytest.approx(250)
    # The first reading after the reset is NaN; then counting goes on.
    assert np.flatnonzero(np.isnan(after.joules[:, 0])).tolist() == [1]
    resumed = after.window(int(after.t_ns[2]), int(after.t_ns[-1]))
    assert resumed.energy_j == pytest.approx(150)
    across = after.window(int(after.t_ns[0]), int(after.t_ns[-1]))
    assert (across.energy_j, across.reason) == (None, Reason.RESET)


def test_pitfall_implausible_jump_is_invalid(tree, clock):
    zone = tree.add("intel-rapl:0", "package-0", 50, limit_w=100)
    meter = open_rapl(tree)
    watch(meter, clock, 2)
    zone.offset_uj += 10**9
    trace = watch(meter, clock, 2)
    assert trace.window(int(trace.t_ns[0]), int(trace.t_ns[-1])).reason is Reason.IMPLAUSIBLE
    assert "400 W" in meter.faults[0].detail


def test_pitfall_no_readable_range_makes_a_decrease_invalid(tree, clock):
    zone = tree.add("intel-rapl:0", "package-0", 50, start_uj=10**8, range_uj=None)
    meter = open_rapl(tree)
    assert energy_j(watch(meter, clock, 4)) == pytest.approx(200)
    zone.offset_uj -= 10**8
    watch(meter, clock, 1)
    assert [f.reason for f in meter.faults] == [Reason.NO_RANGE]


def test_readings_too_seldom_to_exclude_a_second_wrap_are_invalid(tree, clock):
    tree.add("intel-rapl:0", "package-0", 50, limit_w=100)
    meter = open_rapl(tree)
    clock.sleep(RANGE_UJ * 1e-6 / 400 + 1)
    assert math.isnan(meter.read()[1][0])
    assert meter.faults[0].reason is Reason.NOT_COVERED


@pytest.mark.parametrize("code", [ENOENT, ENODATA, EIO])
def test_a_counter_lost_midway_comes_back(tree, clock, code):
    tree.add("intel-rapl:0", "package-0", 50)
    opener = Opener()
    meter = open_rapl(tree, opener)
    opener.errors["energy_uj"] = code
    trace = watch(meter, clock, 3)
    assert np.isnan(trace.joules).all()
    assert [f.reason for f in meter.faults] == [Reason.LOST]
    opener.errors.clear()
    assert energy_j(watch(meter, clock, 3)) == pytest.approx(150)


def test_garbage_in_a_counter_is_lost(tree, clock):
    zone = tree.add("intel-rapl:0", "package-0", 50)
    meter = open_rapl(tree)
    (zone.folder / "energy_uj").write_text("\n")
    assert math.isnan(meter.read()[1][0])
    assert meter.faults[0].reason is Reason.LOST


@given(
    st.integers(10**6, 10**9),
    st.integers(0, 10**9),
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
)
def test_unwrapping_is_exact_at_four_readings_a_wrap(range_uj, start_uj, shares):
    step_s = range_uj * 1e-6 / 400 / 4
    counter = Counter("package-0", range_uj * 1e-6, 400)
    counter.update(0, start_uj % range_uj * 1e-6)
    used_uj = 0
    for i, share in enumerate(shares, start=1):
        used_uj += int(share * 400 * step_s * 1e6)
        joules, fault = counter.update(
            round(i * step_s * 1e9), (start_uj + used_uj) % range_uj * 1e-6
        )
        assert fault is None
        assert joules == pytest.approx(used_uj * 1e-6, abs=1e-9)


# Check 2: layouts.


def test_pitfall_multi_die_dies_add_up(tree, clock):
    for i, (package, die, power) in enumerate([(0, 0, 50), (0, 1, 60), (1, 0, 70), (1, 1, 80)]):
        tree.add(f"intel-rapl:{i}", f"package-{package}-die-{die}", power, start_uj=i * 10**7)
        tree.add(f"intel-rapl:{i}:0", "dram", 5, start_uj=i * 10**6)
        tree.add(f"intel-rapl:{i}:1", "core", 40)
    meter = open_rapl(tree)
    assert names(meter)[0] == "package-0-die-0"
    assert names(meter)[4] == "dram-0-die-0"
    assert energy_j(watch(meter, clock, 10)) == pytest.approx(10 * (260 + 20))


def test_pitfall_dies_that_mirror_one_counter_are_dropped(tree, clock):
    tree.add("intel-rapl:0", "package-0-die-0", 50, start_uj=77)
    tree.add("intel-rapl:1", "package-0-die-1", 50, start_uj=77)
    tree.add("intel-rapl:2", "package-1-die-0", 50, start_uj=77)
    meter = open_rapl(tree)
    assert meter.mirrors == {"package-0-die-1": "package-0-die-0"}
    assert energy_j(watch(meter, clock, 10)) == pytest.approx(1000)


def test_a_die_that_cannot_be_read_just_then_is_no_mirror(tree, clock):
    tree.add("intel-rapl:0", "package-0-die-0", 50)
    tree.add("intel-rapl:1", "package-0-die-1", 50)
    opener = Opener()
    clock.listeners.append(lambda _: opener.errors.update({"intel-rapl:1/energy_uj": EIO}))
    assert open_rapl(tree, opener).mirrors == {}


def test_dies_at_rest_are_no_mirrors(tree):
    tree.add("intel-rapl:0", "package-0-die-0", 0)
    tree.add("intel-rapl:1", "package-0-die-1", 0)
    assert open_rapl(tree).mirrors == {}


def test_pitfall_gaps_in_zone_numbers(tree, clock):
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:3", "package-1", 60)
    tree.add("intel-rapl:3:2", "dram", 7)
    meter = open_rapl(tree)
    assert names(meter) == ["package-0", "package-1", "dram-1"]
    assert energy_j(watch(meter, clock, 10)) == pytest.approx(1170)


def test_pitfall_psys_contains_package_and_dram(tree, clock):
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:0:0", "core", 30)
    tree.add("intel-rapl:0:1", "uncore", 10)
    tree.add("intel-rapl:0:2", "dram", 5)
    tree.add("intel-rapl:1", "psys", 90)
    meter = open_rapl(tree)
    assert names(meter) == ["package-0", "dram-0", "psys"]
    trace = watch(meter, clock, 10)
    assert energy_j(trace) == pytest.approx(550)
    assert trace.joules[-1, 2] == pytest.approx(900)


def test_pitfall_offline_cpu_needs_no_topology(tree, clock):
    tree.sockets(0, None, 1)
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:1", "package-1", 40)
    assert energy_j(watch(open_rapl(tree), clock, 10)) == pytest.approx(900)


def test_pitfall_mmio_repeats_a_package(tree, clock):
    tree.add("intel-rapl-mmio:0", "package-0", 50, start_uj=3)
    tree.add("intel-rapl:0", "package-0", 50)
    meter = open_rapl(tree)
    assert [z.path.name for z in find_zones(tree.root)] == ["intel-rapl:0"]
    assert energy_j(watch(meter, clock, 10)) == pytest.approx(500)


def test_mmio_alone_counts(tree, clock):
    tree.add("intel-rapl-mmio:0", "package-0", 50)
    assert energy_j(watch(open_rapl(tree), clock, 10)) == pytest.approx(500)


def test_pitfall_amd_without_dram(tree, clock):
    tree.add("intel-rapl:0", "package-0", 120)
    tree.add("intel-rapl:0:0", "core", 90)
    assert energy_j(watch(open_rapl(tree), clock, 10)) == pytest.approx(1200)


def test_other_control_types_are_no_counters(tree, clock):
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("dtpm:0", "package-1", 50)
    assert names(open_rapl(tree)) == ["package-0"]


# Check 3: permission, and no tree.


def test_pitfall_energy_uj_is_readable_by_root_only(tree):
    tree.add("intel-rapl:0", "package-0", 50)
    opener = Opener()
    opener.errors["energy_uj"] = EACCES
    with pytest.raises(MeterError, match="run as root") as caught:
        open_rapl(tree, opener)
    why = caught.value.unavailable
    assert why.reason is Reason.PERMISSION
    assert "chmod a+r" in why.remedy
    assert "PLATYPUS" in why.detail


def test_permission_withdrawn_midway_gives_null_energy(tree, clock):
    tree.add("intel-rapl:0", "package-0", 50)
    opener = Opener()
    meter = open_rapl(tree, opener)
    opener.errors["energy_uj"] = EACCES
    trace = watch(meter, clock, 2)
    window = trace.window(int(trace.t_ns[0]), int(trace.t_ns[-1]))
    assert (window.energy_j, window.reason) == (None, Reason.PERMISSION)


def test_a_package_that_cannot_be_read_is_no_meter(tree):
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:1", "package-1", 50)
    opener = Opener()
    opener.errors["intel-rapl:1/energy_uj"] = EIO
    with pytest.raises(MeterError, match="EIO"):
        open_rapl(tree, opener)


def test_a_zone_without_a_name_is_none_and_one_with_a_hidden_name_is_no_meter(tree):
    tree.add("intel-rapl:0", "package-0", 50)
    zone = tree.add("intel-rapl:1", "package-1", 50)
    opener = Opener()
    opener.errors["intel-rapl:1/name"] = EIO
    with pytest.raises(MeterError, match="name cannot be read: EIO"):
        open_rapl(tree, opener)
    (zone.folder / "name").unlink()
    assert names(open_rapl(tree)) == ["package-0"]


def test_a_package_that_holds_no_number_is_not_supported(tree):
    zone = tree.add("intel-rapl:0", "package-0", 50)
    (zone.folder / "energy_uj").write_text("<unknown>\n")
    with pytest.raises(MeterError, match="no whole number") as caught:
        RaplMeter(tree.root, tree.clock, lambda _: None)
    assert caught.value.unavailable.reason is Reason.NOT_SUPPORTED


def test_a_psys_that_cannot_be_read_is_named(tree, clock):
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:1", "psys", 50)
    opener = Opener()
    opener.errors["intel-rapl:1/energy_uj"] = ENODATA
    meter = open_rapl(tree, opener)
    assert names(meter) == ["package-0"]
    assert "ENODATA" in meter.absent[0].detail


def test_no_tree_and_an_empty_tree(tmp_path, tree):
    with pytest.raises(MeterError, match="there is no") as caught:
        RaplMeter(tmp_path / "missing")
    assert caught.value.unavailable.reason is Reason.NOT_PRESENT
    with pytest.raises(MeterError, match="no package zone"):
        open_rapl(tree)


def test_pitfall_wall_clock_stepped_back_has_no_effect(tree, monkeypatch):
    zone = tree.add("intel-rapl:0", "package-0", 50)
    meter = RaplMeter(tree.root)
    first_ns, first = meter.read()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    zone.offset_uj += 1_000_000
    tree.write()
    second_ns, second = meter.read()
    assert 0 < second_ns - first_ns < 10**9
    assert second[0] - first[0] == pytest.approx(1.0)
