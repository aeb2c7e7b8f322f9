"""Who may hold a connection to the agent.

In: connections as they come, who sent them, and whether they have shown the token. Out: for each
newcomer a place, perhaps taken from another connection, or none.

A connection is *proven* once a request with the agent's token was answered on it. One that is not
proven holds its place only while nobody needs it: idle strangers, however many, never keep a client
with the token out. Bounds: so many connections in all, so many for each peer.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

MOST = 64
MOST_A_PEER = 32
BLOCK = 64
"""Bits of an IPv6 address that tell peers apart: a host has the rest to choose from."""


def peer_of(address: str) -> str:
    """Name who is behind an address: the IPv4 address, or the IPv6 network of a host."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), BLOCK), strict=False))
    return str(ip)


@dataclass
class _Place:
    peer: str
    since: int
    proven: bool = False
    serving: bool = False


class Admission:
    """Places, in the order they were last needed.

    Parameters
    ----------
    most, most_a_peer : int
        Connections in all, and of one peer.
    """

    def __init__(self, most: int = MOST, most_a_peer: int = MOST_A_PEER) -> None:
        self.most, self.most_a_peer = most, most_a_peer
        self._places: dict[Hashable, _Place] = {}
        self._lock = threading.Lock()
        self._count = 0

    def __len__(self) -> int:
        return len(self._places)

    def admit(self, connection: Hashable, peer: str) -> tuple[bool, Hashable | None]:
        """(whether it has a place, the connection to end for it, if any)."""
        with self._lock:
            victim: Hashable | None = None
            theirs = [c for c, p in self._places.items() if p.peer == peer]
            if len(theirs) >= self.most_a_peer:
                victim = self._least(theirs)
            elif len(self._places) >= self.most:
                victim = self._least(self._strangers() or list(self._places))
            else:
                self._take(connection, peer)
                return True, None
            if victim is None:
                return False, None
            del self._places[victim]
            self._take(connection, peer)
            return True, victim

    def _take(self, connection: Hashable, peer: str) -> None:
        self._count += 1
        self._places[connection] = _Place(peer, self._count)

    def _strangers(self) -> list[Hashable]:
        """Connections that have proven nothing, of the peer that holds most of them."""
        held = Counter(p.peer for p in self._places.values() if not p.proven)
        if not held:
            return []
        most = held.most_common(1)[0][0]
        return [c for c, p in self._places.items() if p.peer == most and not p.proven]

    def _least(self, among: list[Hashable]) -> Hashable | None:
        """The one that is missed least: the oldest unproven, else the one idle for longest."""
        idle = [c for c in among if not self._places[c].serving]
        return min(
            idle, key=lambda c: (self._places[c].proven, self._places[c].since), default=None
        )

    def serve(self, connection: Hashable) -> None:
        """Note that a request with the token came."""
        with self._lock:
            if place := self._places.get(connection):
                place.proven = place.serving = True

    def rest(self, connection: Hashable) -> None:
        """Note that it was answered."""
        with self._lock:
            if place := self._places.get(connection):
                self._count += 1
                place.serving, place.since = False, self._count

    def leave(self, connection: Hashable) -> None:
        """Give a place back."""
        with self._lock:
            self._places.pop(connection, None)

    def all(self) -> list[Hashable]:
        """Connections that have a place."""
        with self._lock:
            return list(self._places)
