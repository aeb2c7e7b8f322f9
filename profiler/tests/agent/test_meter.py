"""A meter of a remote host: joules, faults and losses as the agent has them, never another's."""

from __future__ import annotations

import json
import math
import socket
import threading

import numpy as np
import pytest
from fakes.clock import VirtualClock
from fakes.network import Network, Shape

from cr2fast_profiler.agent import meter as module
from cr2fast_profiler.agent.meter import AgentMeter
from cr2fast_profiler.agent.server import Agent, EnergySource
from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Trace, Unavailable

TOKEN = "a-token-of-enough-characters"
SHAPE = Shape(1e9, 1e-3)
# For answers over this machine's sockets, which may be busy.
WAIT_S = 60.0


class Scripted:
    """A meter that reads what the test set."""

    domains = (
        Domain("package-0", "cpu", "rapl"),
        Domain("psys", "psys", "rapl", in_total=False),
        Domain("tdp", "gpu", "constant", estimated=True),
    )
    poll_s = 30.0

    def __init__(self, *joules):
        self.clock = VirtualClock()
        self.faults = []
        self.joules = np.array(joules or (100.0, 200.0, 300.0))

    def read(self):
        return self.clock(), self.joules.copy()

    def close(self):
        pass


@pytest.fixture
def remote():
    return Scripted()


@pytest.fixture
def agent(remote):
    with Agent("127.0.0.1", 0, TOKEN, remote, remote.clock) as running:
        yield running


@pytest.fixture
def meter(agent, remote):
    m = AgentMeter(agent.url, TOKEN, WAIT_S, clock=remote.clock)
    yield m
    m.close()


def test_joules_count_from_the_opening_and_are_stamped_within_the_request(meter, remote):
    remote.joules += [5.0, 6.0, 7.0]
    remote.clock.sleep(0.5)
    t_ns, joules = meter.read()
    assert t_ns == remote.clock()
    assert joules.tolist() == [5.0, 6.0, 7.0]
    remote.joules += 1
    later, joules = meter.read()
    assert later > t_ns
    assert joules.tolist() == [6.0, 7.0, 8.0]
    assert meter.faults == []


def test_remote_joules_never_pass_for_local_ones(meter):
    host = meter.host
    assert [d.name for d in meter.domains] == [f"{host}/{n}" for n in ("package-0", "psys", "tdp")]
    assert {d.source for d in meter.domains} == {"agent"}
    assert [d.in_total for d in meter.domains] == [True, False, True]
    assert [d.estimated for d in meter.domains] == [False, False, True]
    assert [d.source for d in meter.remote_domains] == ["rapl", "rapl", "constant"]
    assert meter.same_host, "an agent on this host counts what local meters count"


def test_another_host_is_told_from_this_one(agent, monkeypatch):
    monkeypatch.setattr(module, "host_id", lambda: "0" * 16)
    other = AgentMeter(agent.url, TOKEN, WAIT_S)
    assert not other.same_host
    other.close()


def test_an_agent_that_becomes_another_is_not_believed(meter, agent, remote):
    remote.domains = (Domain("gpu-0", "gpu", "nvml"), *Scripted.domains[1:])
    _, joules = meter.read()
    assert np.isnan(joules).all()
    assert {f.reason for f in meter.faults} == {Reason.LOST}
    assert "another agent answers" in meter.faults[0].detail


def test_remote_faults_and_nan_are_carried_over(meter, remote):
    remote.faults.append(Fault(remote.clock() - 10**9, "psys", Reason.RESET, "suspended"))
    remote.joules[1] = math.nan
    t_ns, joules = meter.read()
    assert np.isnan(joules).tolist() == [False, True, False]
    carried, mark = meter.faults
    assert carried.domain == mark.domain == f"{meter.host}/psys"
    assert carried.reason is Reason.RESET
    assert carried.detail.endswith("suspended")
    assert t_ns - carried.t_ns == 10**9 + 1  # a trace's times increase
    assert (mark.t_ns, mark.reason) == (t_ns, Reason.REMOTE)
    remote.joules += [1.0, 0.0, 1.0]
    remote.joules[1] = 205.0
    _, joules = meter.read()
    assert joules.tolist() == [1.0, 5.0, 1.0]
    assert len(meter.faults) == 2, "a fault is carried once"


def test_a_domain_untrusted_at_the_opening_starts_later(remote):
    remote.joules[0] = math.nan
    with Agent("127.0.0.1", 0, TOKEN, remote) as running:
        m = AgentMeter(running.url, TOKEN, WAIT_S)
        assert np.isnan(m.read()[1][0])
        remote.joules[0] = 50.0
        assert m.read()[1].tolist() == [0.0, 0.0, 0.0]
        remote.joules[0] = 52.0
        assert m.read()[1].tolist() == [2.0, 0.0, 0.0]
        m.close()


def test_a_decrease_is_a_reset_of_that_domain(meter, remote):
    remote.joules += 10
    meter.read()
    remote.joules[0] = 3.0
    _, joules = meter.read()
    assert np.isnan(joules).tolist() == [True, False, False]
    assert [f.reason for f in meter.faults] == [Reason.RESET]
    remote.joules[0] = 4.0
    assert meter.read()[1][0] == 11.0


def test_a_dead_agent_is_lost_and_found_again(remote, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    clock, source = remote.clock, EnergySource(remote, remote.clock)
    network = Network(clock, TOKEN, SHAPE, SHAPE, routes={"/energy": source.answer})
    m = AgentMeter(network.URL, TOKEN, clock=clock, sockets=network.socket)
    readings = [m.read()]
    network.kill()
    readings += [m.read(), m.read()]
    assert all(np.isnan(j).all() for _, j in readings[1:])
    assert {f.reason for f in m.faults} == {Reason.LOST}
    assert len(m.faults) == 3, "an outage is one fault for each domain"
    again = Scripted(1.0, 1.0, 1.0)
    network.dead = False
    network.server.routes = {"/energy": EnergySource(again, clock).answer}
    readings.append(m.read())
    assert np.isnan(readings[-1][1]).all(), "what was used in between is not known"
    assert {f.reason for f in m.faults[3:]} == {Reason.RESET}
    again.joules += 4.0
    readings.append(m.read())
    assert readings[-1][1].tolist() == [4.0, 4.0, 4.0]
    m.close()
    t_ns = np.array([t for t, _ in readings])
    assert (np.diff(t_ns) > 0).all()
    trace = Trace(t_ns, np.array([j for _, j in readings]), m.domains, tuple(m.faults))
    window = trace.window(int(t_ns[0]), int(t_ns[-1]))
    assert window.energy_j is None
    assert window.reason is Reason.RESET  # the latest fault tells


def test_a_lost_agent_is_not_asked_at_every_reading(remote):
    clock, source = remote.clock, EnergySource(remote, remote.clock)
    network = Network(clock, TOKEN, SHAPE, SHAPE, routes={"/energy": source.answer})
    meter = AgentMeter(network.URL, TOKEN, clock=clock, sockets=network.socket)
    assert np.isfinite(meter.read()[1]).all()
    network.silent = True
    start_ns = clock()
    assert np.isnan(meter.read()[1]).all()
    assert clock() - start_ns == pytest.approx(2e9), "an answer is awaited for the timeout"
    for _ in range(10):
        start_ns = clock()
        assert np.isnan(meter.read()[1]).all()
        assert clock() == start_ns, "a lost agent is not asked again at once"
    network.silent = False
    clock.sleep(1.0)
    assert np.isfinite(meter.read()[1]).all()
    assert [f.reason for f in meter.faults] == [Reason.LOST] * 3


def test_a_wrong_token_has_a_remedy(agent):
    for token in (None, "another-token-that-is-wrong"):
        with pytest.raises(MeterError, match="401.*CR2FAST_PROFILE_TOKEN") as e:
            AgentMeter(agent.url, token, WAIT_S)
        assert e.value.unavailable.reason is Reason.PERMISSION
        assert "another-token" not in str(e.value)


def test_no_agent_has_a_remedy():
    with pytest.raises(MeterError, match="start `cr2fast-profile agent`") as e:
        AgentMeter("http://127.0.0.1:9", TOKEN)
    assert e.value.unavailable.reason is Reason.NOT_PRESENT
    with pytest.raises(MeterError, match="agent URL"):
        AgentMeter("nonsense", TOKEN)


def test_an_agent_without_a_meter_gives_its_reason():
    none = Unavailable("rapl", Reason.PERMISSION, "readable by root only", "run it as root")
    with (
        Agent("127.0.0.1", 0, None, none) as running,
        pytest.raises(MeterError, match="has no meter: rapl: readable by root only; run it as"),
    ):
        AgentMeter(running.url, None, WAIT_S)


GOOD = {
    "schema": "cr2fast.agent/1",
    "host": "edge",
    "host_id": "0123456789abcdef",
    "session": "s",
    "poll_s": 0.1,
    "domains": [
        {"name": "a", "kind": "cpu", "source": "rapl", "in_total": True, "estimated": False}
    ],
    "joules": [1.5],
    "age_s": 0.0,
    "fault_count": 0,
    "faults": [],
}


def answering(value):
    """A server that gives one answer, and its address."""
    text = value if isinstance(value, str) else json.dumps(value)
    body = text.encode()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(65_536)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_right_answer_is_taken():
    m = AgentMeter(answering(GOOD), None, WAIT_S)
    assert m.host == "edge"
    assert not m.same_host
    assert m.poll_s == 0.1


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "other"},
        {"domains": []},
        {"domains": GOOD["domains"] * 2, "joules": [1, 2]},
        {"domains": [{**GOOD["domains"][0], "in_total": "yes"}]},
        {"domains": [{**GOOD["domains"][0], "name": "x" * 2000}]},
        {"domains": None},
        {"joules": [1, 2]},
        {"joules": ["1"]},
        {"joules": [True]},
        {"host": 5},
        {"poll_s": None},
        {"age_s": "now"},
        {"fault_count": -1},
        {"faults": [{"age_s": 0, "domain": "a", "reason": "mood", "detail": ""}], "fault_count": 1},
        {"unavailable": {"source": "rapl"}},
        {"unavailable": 3},
    ],
)
def test_answers_of_no_agent_are_refused(change):
    with pytest.raises(MeterError, match="expected the joules of an agent"):
        AgentMeter(answering({**GOOD, **change}), None, WAIT_S)


@pytest.mark.parametrize("text", ["", "[]", '{"joules": NaN}', "{", json.dumps(GOOD)[:-2]])
def test_other_text_is_refused(text):
    with pytest.raises(MeterError, match="give the address of a `cr2fast-profile agent`"):
        AgentMeter(answering(text), None, WAIT_S)


def test_infinite_joules_are_refused():
    text = json.dumps(GOOD).replace("1.5", "1e999")
    with pytest.raises(MeterError, match="a finite number"):
        AgentMeter(answering(text), None, WAIT_S)
