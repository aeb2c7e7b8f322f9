"""Two hosts on one machine: network namespaces with a link of known rate and delay between them.

With netem in the kernel the link is a veth pair under `tc`. Without it the link is a pair of TUN
devices with this process between them, which holds each packet as netem would: packets leave one
after another, each for its bits over the rate, and arrive a delay later.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
HOSTS = ("cr2fast-a", "cr2fast-b")
ADDRESSES = ("10.99.7.1", "10.99.7.2")


@dataclass
class Link:
    """How it is made, and how to run something on either side."""

    kind: str
    device: tuple[str, ...]
    edge: tuple[str, ...]
    edge_address: str


def _ip(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.returncode == 0


def _netem(delay_s: float, rates: tuple[float, float]) -> bool:
    """A veth pair under netem, if there is one."""
    _ip("link", "add", "cr2a", "netns", HOSTS[0], "type", "veth",
        "peer", "name", "cr2b", "netns", HOSTS[1])  # fmt: skip
    for host, name, rate in zip(HOSTS, ("cr2a", "cr2b"), rates, strict=True):
        shape = ["delay", f"{delay_s * 1e6:.0f}us", "rate", f"{rate:.0f}bit", "limit", "10000"]
        command = ["tc", "-n", host, "qdisc", "add", "dev", name, "root", "netem", *shape]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            _ip("-n", HOSTS[0], "link", "del", "cr2a")
            return False
    return True


def _first() -> None:
    """Run this thread before all others: the link must not wait for a busy machine's cores."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _carry(source: int, target: int, delay_s: float, rate_bps: float) -> None:
    """Move packets from one device to the other, late by what the link costs them."""
    waiting: list[tuple[float, bytes]] = []
    ready = threading.Condition()

    def read() -> None:
        _first()
        free = 0.0
        while True:
            try:
                packet = os.read(source, 65_536)
            except OSError:
                packet = b""
            with ready:
                free = max(free, time.monotonic()) + 8 * len(packet) / rate_bps
                waiting.append((free + delay_s, packet))
                ready.notify()
            if not packet:
                return

    threading.Thread(target=read, daemon=True).start()
    _first()
    while True:
        with ready:
            ready.wait_for(lambda: waiting)
            due, packet = waiting.pop(0)
        if not packet:
            return
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            os.write(target, packet)
        except OSError:
            return


def _tun() -> list[int]:
    """A TUN device on either side."""
    devices = []
    for host, name in zip(HOSTS, (b"cr2a", b"cr2b"), strict=True):
        device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name, IFF_TUN | IFF_NO_PI))
        _ip("link", "set", name.decode(), "netns", host)
        devices.append(device)
    return devices


@contextmanager
def link(rtt_s: float, up_bps: float, down_bps: float) -> Iterator[Link]:
    """A link of this round trip and these rates, device to edge and back.

    Raises
    ------
    OSError
        Where this machine makes no namespaces or no devices.
    """
    for host in HOSTS:
        _ip("netns", "del", host, check=False)
        _ip("netns", "add", host)
    devices: list[int] = []
    try:
        if _netem(rtt_s / 2, (up_bps, down_bps)):
            kind = "veth, tc netem"
        else:
            devices = _tun()
            kind = "two TUN devices: this kernel has no netem"
        for k, (host, name) in enumerate(zip(HOSTS, ("cr2a", "cr2b"), strict=True)):
            own, other = ADDRESSES[k], ADDRESSES[1 - k]
            _ip("-n", host, "addr", "add", own, "peer", other, "dev", name)
            _ip("-n", host, "link", "set", name, "up")
            _ip("-n", host, "link", "set", "lo", "up")
        # A device that is not up yet ends its reader.
        for k, rate in enumerate((up_bps, down_bps) if devices else ()):
            ends = (devices[k], devices[1 - k], rtt_s / 2, rate)
            threading.Thread(target=_carry, args=ends, daemon=True).start()
        on = [("ip", "netns", "exec", host) for host in HOSTS]
        yield Link(kind, on[0], on[1], ADDRESSES[1])
    finally:
        for host in HOSTS:
            _ip("netns", "del", host, check=False)
        for device in devices:
            os.close(device)
