"""A run whose energy comes from an agent that is lost on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.network import Network, Shape
from fakes.virtual import Heater, World
from runs import run

from cr2fast_profiler.agent.meter import AgentMeter
from cr2fast_profiler.agent.server import EnergySource
from cr2fast_profiler.analysis import analyse
from cr2fast_profiler.meters.base import Reason
from cr2fast_profiler.report.summary import markdown
from cr2fast_profiler.store import RunStore

TOKEN = "a-token-of-enough-characters"


def watched(world: World) -> tuple[Network, AgentMeter]:
    """The world's board, read through an agent on its host."""
    source = EnergySource(Heater(world), world.clock)
    near = Shape(1e9, 1e-4)
    network = Network(world.clock, TOKEN, near, near, routes={"/energy": source.answer})
    meter = AgentMeter(network.URL, TOKEN, clock=world.clock, sockets=network.socket)
    return network, meter


@pytest.mark.parametrize("how", ["killed", "silent", "restarted"])
def test_an_agent_lost_midway_leaves_lost_readings_never_silence(tmp_path: Path, how: str) -> None:
    world = World(beta_pre_s=2e-4, beta_dec_s=4e-3)
    network, meter = watched(world)
    lost_ns = world.clock() + 7_000_000_000
    back_ns = lost_ns + 1_000_000_000

    def lose() -> None:
        network.kill() if how != "silent" else setattr(network, "silent", True)

    def restart() -> None:
        network.dead = False
        again = EnergySource(Heater(world), world.clock)
        network.server.routes = {"/energy": again.answer}

    world.clock.at(lost_ns, lose)
    if how == "restarted":
        world.clock.at(back_ns, restart)
    run(world, tmp_path, meter=meter, least_rounds=3, most_rounds=3, idle_s=5.0)
    trace = RunStore(tmp_path).trace(0)
    assert trace is not None
    end_ns = world.clock()
    assert end_ns - lost_ns > 2e9
    # Readings go on to the run's end, and those without an agent are no numbers.
    assert trace.t_ns[-1] >= RunStore(tmp_path).rows()["last_ns"].max()
    gone = (trace.t_ns > lost_ns) & (trace.t_ns < (back_ns if how == "restarted" else end_ns))
    assert gone.any()
    assert np.isnan(trace.joules[gone]).all()
    reasons = [f.reason for f in trace.faults]
    expected = [Reason.LOST, Reason.RESET] if how == "restarted" else [Reason.LOST]
    assert reasons == expected
    window = trace.window(lost_ns - 10**9, int(trace.t_ns[-1]))
    assert window.energy_j is None
    assert window.reason in expected
    if how == "restarted":
        assert np.isfinite(trace.joules[trace.t_ns > back_ns + 10**9]).all()
        return
    assert np.isnan(trace.joules[-1]).all()
    profile = analyse(tmp_path)
    assert profile.energy is None
    assert "the agent is lost" in markdown(profile)
