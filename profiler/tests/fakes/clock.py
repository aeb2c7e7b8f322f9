"""A clock that tests drive: no test waits for time to pass."""

from __future__ import annotations

from collections.abc import Callable


class FakeClock:
    """Monotonic ns that advance by ``sleep`` alone; listeners hear each new time."""

    def __init__(self, start_ns: int = 5_000_000_000) -> None:
        self.now_ns = start_ns
        self.listeners: list[Callable[[int], None]] = []

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        for listener in self.listeners:
            listener(self.now_ns)
