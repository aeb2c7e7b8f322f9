"""What the profiler finds on this machine's own clock and sockets: `make bench-profiler`.

The tests put client, server and meters on a virtual clock; these runs go over loopback and wait for
real. Figures depend on the machine and on what else it does: they are printed beside the truth and
asserted nowhere.
"""

from __future__ import annotations

import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from fakes.sse_server import serve

from benches.shaped import Shape, ShapedProxy
from cr2fast_profiler.agent.client import AgentClient
from cr2fast_profiler.agent.server import Agent
from cr2fast_profiler.analysis import analyse
from cr2fast_profiler.errors import LinkError
from cr2fast_profiler.link import LinkOptions, measure_link
from cr2fast_profiler.meters.base import Reason, Unavailable
from cr2fast_profiler.run import Options, profile_model
from cr2fast_profiler.workload.endpoint import Endpoint
from cr2fast_profiler.workload.grid import Grid

TRUTH = {"beta_pre_s": 1e-3, "beta_dec_s": 1e-2}
MANNERS = {
    "plain": {},
    "role chunk, reasoning": {"role_chunk": True, "reasoning": True},
    "four tokens a chunk": {"chunk_tokens": 4},
    "no usage in the stream": {"stream_usage": False},
    "error in 200": {"bad": "error_in_200", "every": 7},
    "prefix cache": {"bad": "cached", "every": 5},
    "cut off": {"bad": "cut_off", "every": 6},
}
TOKEN = "a-token-of-enough-characters"
NONE = Unavailable("rapl", Reason.NOT_PRESENT, "no sensor here")
IDLE = 300


def endpoints() -> None:
    """Known coefficients over sockets. The servers sleep nearly all the time: side by side."""

    def one(name: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            grid = Grid.cross((32, 128, 256), (4, 12, 24))
            options = Options(grid, least_rounds=3, most_rounds=4, precision=0.015)
            with serve(**TRUTH, **MANNERS[name]) as (url, _), Endpoint(url) as endpoint:
                profile_model(endpoint, folder, options, progress=False)
            fit = analyse(folder).latency
        cells = []
        for key, truth in TRUTH.items():
            low, high = fit.intervals[key]
            cells.append(
                f"{getattr(fit, key) / truth - 1:+.2%} [{low / truth - 1:+.2%}, {high / truth - 1:+.2%}]"
            )
        return f"| {name} | {' | '.join(cells)} | {fit.tau0_s * 1e3:.2f} ms |"

    print("| server | β_pre, off the truth | β_dec, off the truth | tau0 (4 ms and HTTP) |")
    print("| --- | --- | --- | --- |")
    with ThreadPoolExecutor(len(MANNERS)) as pool:
        for line in pool.map(one, MANNERS):
            print(line)


def links() -> None:
    """A shaped link over loopback."""
    options = LinkOptions(rounds=6, sizes_bytes=(2_048, 16_384, 98_304), pings=3, idle_gap_s=0.0)
    print("\n| link | up | down | round trip |\n| --- | --- | --- | --- |")
    for up, down, delay_s in ((4e6, 10e6, 0.05), (20e6, 50e6, 0.01)):
        with (
            Agent("127.0.0.1", 0, TOKEN, NONE) as agent,
            ShapedProxy(agent.port, Shape(up, delay_s), Shape(down, delay_s)) as proxy,
        ):
            name = f"{up / 1e6:g} and {down / 1e6:g} Mbit/s, {2e3 * delay_s:g} ms"
            try:
                found = measure_link(proxy.url, TOKEN, options=options, progress=False).summary
            except LinkError as error:
                print(f"| {name} | {error} | | |")
                continue
            rates = [found[f"rate_{way}_bps"].median / 1e6 for way in ("ul", "dl")]
            rtt_ms = found["rtt_s"].median * 1e3
            print(f"| {name} | {rates[0]:.3f} | {rates[1]:.3f} | {rtt_ms:.2f} ms |")


def crowds() -> None:
    """A client with the token while strangers hold connections open."""
    with Agent("127.0.0.1", 0, TOKEN, NONE) as agent:
        held = [socket.create_connection(("127.0.0.1", agent.port)) for _ in range(IDLE)]
        times = []
        for _ in range(200):
            start = time.perf_counter()
            with AgentClient(agent.url, TOKEN) as client:
                client.request("GET", "/ping")
            times.append(time.perf_counter() - start)
            held.append(socket.create_connection(("127.0.0.1", agent.port)))
        for connection in held:
            connection.close()
    times.sort()
    print(
        f"\nA new client with the token, {IDLE} idle strangers and one more for each request: "
        f"median {times[100] * 1e3:.2f} ms, slowest of 200 {times[-1] * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    endpoints()
    links()
    crowds()
