"""Whether an endpoint is on this host, and how far it is.

In: a URL. Out: yes or no, and the round trip of a TCP connect in seconds. Sensors of this host say
nothing of another's joules, and a distant endpoint's TTFT contains a round trip that the link has
already.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import numpy as np

from cr2fast_profiler.clock import SYSTEM
from cr2fast_profiler.errors import EndpointError

CONNECTS = 9


def _addresses(url: str) -> list[tuple[int, tuple[object, ...]]]:
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise EndpointError(f"{url}: the host cannot be found ({error})") from error
    return [(family, address) for family, _, _, _, address in found]


def is_this_host(url: str) -> bool:
    """Whether `url` names an address of this machine: one that a socket here can bind to."""
    return all(_can_bind(family, address) for family, address in _addresses(url))


def _can_bind(family: int, address: tuple[object, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True


def connect_rtt_s(url: str) -> float:
    """Median time of nine TCP connects to the endpoint, s; names are resolved before.

    Raises
    ------
    EndpointError
        Nothing listens there.
    """
    tried = [_median_s(family, address) for family, address in _addresses(url)]
    times = [t for t in tried if isinstance(t, float)]
    if not times:
        raise EndpointError(f"{url} does not answer: {tried[0]}")
    return times[0]


def _median_s(family: int, address: tuple[object, ...]) -> float | OSError:
    try:
        return float(np.median([_connect_s(family, address) for _ in range(CONNECTS)]))
    except OSError as error:
        return error


def _connect_s(family: int, address: tuple[object, ...]) -> float:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(10.0)
        start_ns = SYSTEM()
        probe.connect(address)
        return (SYSTEM() - start_ns) * 1e-9
