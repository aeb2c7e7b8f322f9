from __future__ import annotations

import logging
import math
import sys
import warnings

import numpy as np
import pytest
from fakes.clock import FakeClock
from fakes.powercap_tree import EACCES, RANGE_UJ, PowercapTree

from cr2fast_profiler.meters.base import MeterError, Reason
from cr2fast_profiler.meters.probe import open_rapl
from cr2fast_profiler.meters.pyrapl import PyraplMeter
from cr2fast_profiler.meters.rapl import RaplMeter


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tree(tmp_path, clock) -> PowercapTree:
    return PowercapTree(tmp_path, clock)


def simple(tree: PowercapTree) -> None:
    tree.sockets(0, 0, 1, 1)
    for i, power in enumerate((50, 70)):
        tree.add(f"intel-rapl:{i}", f"package-{i}", power, start_uj=RANGE_UJ - 10**8)
        tree.add(f"intel-rapl:{i}:0", "core", power - 10)
        tree.add(f"intel-rapl:{i}:1", "dram", 5 + i, start_uj=10**7)


def test_equal_to_the_own_reader_on_simple_trees_through_a_wrap(tree, clock, monkeypatch):
    simple(tree)
    tree.serve_pyrapl(monkeypatch)
    own, other = RaplMeter(tree.root, clock, clock.sleep), PyraplMeter(tree.root, clock)
    assert {d.name for d in own.domains} == {d.name for d in other.domains}
    assert {d.source for d in other.domains} == {"pyrapl"}
    order = [[d.name for d in other.domains].index(d.name) for d in own.domains]
    for _ in range(20):
        clock.sleep(1.0)
        np.testing.assert_array_equal(own.read()[1], other.read()[1][order])
    assert own.read()[1].sum() == pytest.approx(20 * (50 + 70 + 5 + 6))
    assert own.poll_s == other.poll_s
    assert not own.faults
    assert not other.faults
    other.close()


def test_a_reset_is_judged_by_the_same_code(tree, clock, monkeypatch):
    simple(tree)
    tree.serve_pyrapl(monkeypatch)
    meter = PyraplMeter(tree.root, clock)
    tree.zones["intel-rapl:0"].offset_uj += 10**11
    clock.sleep(1.0)
    assert math.isnan(meter.read()[1][0])
    assert [(f.domain, f.reason) for f in meter.faults] == [("package-0", Reason.RESET)]
    clock.sleep(1.0)
    assert meter.read()[1][0] == pytest.approx(50)
    meter.close()


def test_a_read_that_fails_midway_is_lost(tree, clock, monkeypatch):
    simple(tree)
    tree.serve_pyrapl(monkeypatch)
    meter = PyraplMeter(tree.root, clock)
    (tree.zones["intel-rapl:1"].folder / "energy_uj").write_text("")
    assert np.isnan(meter.read()[1]).all()
    assert {f.reason for f in meter.faults} == {Reason.LOST}
    meter.close()


def test_without_ranges_a_decrease_is_invalid(tree, clock, monkeypatch, tmp_path):
    simple(tree)
    tree.serve_pyrapl(monkeypatch)
    meter = PyraplMeter(tmp_path / "missing", clock)
    tree.zones["intel-rapl:0"].offset_uj -= 10**8
    clock.sleep(1.0)
    meter.read()
    assert [f.reason for f in meter.faults] == [Reason.NO_RANGE]
    meter.close()


# Where its constructor fails, the own reader takes over.


def fails(tree: PowercapTree, monkeypatch) -> None:
    tree.serve_pyrapl(monkeypatch)
    with pytest.raises(MeterError) as caught:
        PyraplMeter(tree.root, tree.clock)
    why = caught.value.unavailable
    assert why.reason is Reason.NOT_SUPPORTED
    assert "rapl" in why.remedy
    assert isinstance(open_rapl(tree.root, pyrapl=True), RaplMeter)


def test_pitfall_multi_die(tree, monkeypatch):
    tree.sockets(0, 0)
    tree.add("intel-rapl:0", "package-0-die-0", 50)
    tree.add("intel-rapl:1", "package-0-die-1", 50, start_uj=9)
    fails(tree, monkeypatch)


def test_pitfall_zone_gaps(tree, monkeypatch):
    tree.sockets(0, 1)
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:2", "package-1", 50)
    fails(tree, monkeypatch)


def test_pitfall_offline_cpu(tree, monkeypatch):
    tree.sockets(0, None)
    tree.add("intel-rapl:0", "package-0", 50)
    fails(tree, monkeypatch)


def test_pitfall_amd_without_dram_is_read_all_the_same(tree, clock, monkeypatch):
    tree.sockets(0)
    tree.add("intel-rapl:0", "package-0", 120)
    tree.add("intel-rapl:0:0", "core", 90)
    tree.serve_pyrapl(monkeypatch)
    meter = PyraplMeter(tree.root, clock)
    assert [d.name for d in meter.domains] == ["package-0"]
    clock.sleep(10)
    assert meter.read()[1][0] == pytest.approx(1200)
    meter.close()


def test_dram_on_one_socket_alone_is_dropped_by_pyrapl_and_so_is_pyrapl(tree, monkeypatch):
    tree.sockets(0, 1)
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:0:0", "dram", 5)
    tree.add("intel-rapl:1", "package-1", 50)
    tree.serve_pyrapl(monkeypatch)
    meter = open_rapl(tree.root, pyrapl=True)
    assert isinstance(meter, RaplMeter)
    assert [d.name for d in meter.domains] == ["package-0", "package-1", "dram-0"]


def test_pitfall_psys_between_packages_is_skipped(tree, monkeypatch):
    tree.sockets(0, 1)
    tree.add("intel-rapl:0", "package-0", 50)
    tree.add("intel-rapl:1", "psys", 99)
    tree.add("intel-rapl:2", "package-1", 50)
    tree.serve_pyrapl(monkeypatch)
    meter = open_rapl(tree.root, pyrapl=True)
    assert isinstance(meter, PyraplMeter)
    assert [d.name for d in meter.domains] == ["package-0", "package-1"]
    meter.close()


def test_pitfall_root_only(tree, monkeypatch):
    simple(tree)
    tree.serve_pyrapl(monkeypatch, {"energy_uj": EACCES})
    with pytest.raises(MeterError, match="run as root") as caught:
        PyraplMeter(tree.root, tree.clock)
    assert caught.value.unavailable.reason is Reason.PERMISSION


def test_no_rapl_here(tmp_path, tree, monkeypatch):
    tree.serve_pyrapl(monkeypatch)
    with pytest.raises(MeterError, match="no package zone") as caught:
        PyraplMeter(tree.root, tree.clock)
    assert caught.value.unavailable.source == "pyrapl"
    assert caught.value.unavailable.reason is Reason.NOT_PRESENT


def forget_pyrapl(monkeypatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "pyRAPL"]:
        monkeypatch.delitem(sys.modules, name)


def test_missing_package(tree, monkeypatch):
    forget_pyrapl(monkeypatch)
    monkeypatch.setitem(sys.modules, "pyRAPL", None)
    with pytest.raises(MeterError, match="pip install pyRAPL") as caught:
        PyraplMeter(tree.root, tree.clock)
    assert caught.value.unavailable.reason is Reason.MISSING_PACKAGE


def test_its_import_leaves_no_handler_no_log_no_warning(tree, monkeypatch, tmp_path, capsys):
    forget_pyrapl(monkeypatch)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "cache"))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(MeterError):
            PyraplMeter(tree.root, tree.clock)
    assert not caught
    assert root.handlers == []
    assert root.manager.disable == logging.NOTSET
    assert capsys.readouterr().err == ""
