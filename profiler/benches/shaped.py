"""A link with known rates and delays: a TCP proxy that shapes both directions.

Every chunk leaves at a deadline, t_k = max(arrival_k, t_(k-1)) + 8·bytes/rate, and arrives a delay
later. Deadlines are absolute, so a late wake-up delays one chunk, not all that follow.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

CHUNK = 4096


@dataclass
class Shape:
    """One direction: bit/s and seconds; `wake_s` is added to what follows `sleep_after_s` of silence."""

    rate_bps: float
    delay_s: float
    wake_s: float = 0.0
    sleep_after_s: float = 0.0


class Pipe:
    """One direction of one connection."""

    def __init__(self, source, sink, shape, proxy, count):
        self.source, self.sink, self.shape, self.proxy = source, sink, shape, proxy
        self.count = count
        self.queue = queue.Queue()
        for target in (self.read, self.write):
            threading.Thread(target=target, daemon=True).start()

    def read(self):
        free = last = 0.0
        passed = 0
        with suppress(OSError):
            while data := self.source.recv(CHUNK):
                now = time.perf_counter()
                ready = now
                if self.shape.wake_s and now - last > self.shape.sleep_after_s:
                    ready += self.shape.wake_s
                last = now
                free = max(free, ready) + 8 * len(data) / self.shape.rate_bps
                self.queue.put((free + self.shape.delay_s, data))
                passed += len(data)
                if self.count and self.proxy.cut_due(passed):
                    for end in (self.source, self.sink):
                        with suppress(OSError):
                            end.shutdown(socket.SHUT_RDWR)
                    break
        self.queue.put((0.0, b""))

    def write(self):
        with suppress(OSError):
            while True:
                due, data = self.queue.get()
                if not data:
                    self.sink.shutdown(socket.SHUT_WR)
                    return
                wait = due - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                self.proxy.late_s.append(time.perf_counter() - due)
                self.sink.sendall(data)


class ShapedProxy:
    """Listens on loopback and passes on to a port, shaped.

    Parameters
    ----------
    port : int
        Where to pass on to.
    up, down : Shape
        From clients, and to them.
    cuts : int
        How many times to cut a connection after `cut_bytes` upward bytes.
    """

    def __init__(self, port, up, down, cuts=0, cut_bytes=0):
        self.target, self.up, self.down = port, up, down
        self.cuts, self.cut_bytes = cuts, cut_bytes
        self.guard = threading.Lock()
        self.sockets = []
        self.late_s = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sockets += [client, server]
                Pipe(client, server, self.up, self, True)
                Pipe(server, client, self.down, self, False)

    def cut_due(self, passed):
        with self.guard:
            if self.cuts and passed > self.cut_bytes:
                self.cuts -= 1
                return True
            return False

    def lateness_s(self):
        """How late one chunk in ten was: above a millisecond or two the shape was not kept."""
        return sorted(self.late_s)[len(self.late_s) * 9 // 10]

    def close(self):
        for end in (self.listener, *self.sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
