"""Clocks that tests drive: no test waits for time to pass."""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable
from itertools import count
from typing import Any


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


class _Wait:
    """One wait of one thread; or a call that is due."""

    def __init__(self, call: Callable[[], None] | None = None, blocked: bool = False) -> None:
        self.call = call
        self.woken = False
        self.blocked = blocked  # its thread waits for the baton; else it waits within a call
        self.baton = threading.Semaphore(0)


class VirtualClock:
    """A :class:`cr2fast_profiler.clock.Clock` of a simulated world.

    Time passes only in ``sleep`` and in a crew's ``collect``, and then at once: from one due thing
    to the next, in order. Calls at a pace run inside, in the thread that waits. Work side by side
    runs on threads of which one at a time has the baton, so that every run is the same.
    """

    def __init__(self, start_ns: int = 5_000_000_000) -> None:
        self.now_ns = start_ns
        self._due: list[tuple[int, int, _Wait]] = []
        self._numbers = count()

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        mine = _Wait()
        self._push(self.now_ns + max(round(seconds * 1e9), 0), mine)
        self.until(mine)

    def at(self, ns: int, call: Callable[[], None]) -> None:
        """Call once, at a time."""
        self._push(ns, _Wait(call))

    def every(self, period_s: float, call: Callable[[], None]) -> _Ticker:
        return _Ticker(self, period_s, call)

    def crew(self, width: int) -> _Crew:
        return _Crew(self, width)

    def _push(self, ns: int, wait: _Wait) -> None:
        heapq.heappush(self._due, (ns, next(self._numbers), wait))

    def wake(self, wait: _Wait, ns: int | None = None) -> None:
        self._push(self.now_ns if ns is None else ns, wait)

    def until(self, mine: _Wait | None) -> None:
        """Let time pass until a wait is over; None hands the baton on for good."""
        while True:
            if mine is not None and mine.woken:
                return
            if not self._due:
                raise RuntimeError("everything waits and nothing is due")
            ns, _, wait = heapq.heappop(self._due)
            if wait.woken:
                continue
            self.now_ns = max(self.now_ns, ns)
            wait.woken = wait.call is None
            if wait.call is not None:
                wait.call()
            elif wait.blocked:
                if mine is not None:
                    mine.blocked = True
                wait.baton.release()
                if mine is not None:
                    mine.baton.acquire()
                return


class _Ticker:
    def __init__(self, clock: VirtualClock, period_s: float, call: Callable[[], None]) -> None:
        self._clock, self._period_ns, self._call = clock, round(period_s * 1e9), call
        self._going = True
        self._next()

    def _next(self) -> None:
        self._clock.at(self._clock.now_ns + self._period_ns, self._tick)

    def _tick(self) -> None:
        if self._going:
            self._call()
            self._next()

    def stop(self) -> None:
        self._going = False


class _Crew:
    def __init__(self, clock: VirtualClock, width: int) -> None:
        self._clock, self._width = clock, width
        self._waiting: list[Callable[[], Any]] = []
        self._running = 0
        self._results: list[Any] = []
        self._collector: _Wait | None = None

    @property
    def pending(self) -> bool:
        return bool(self._waiting or self._running or self._results)

    def submit(self, work: Callable[[], Any]) -> None:
        self._waiting.append(work)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and self._running < self._width:
            self._running += 1
            work, begins = self._waiting.pop(0), _Wait(blocked=True)
            threading.Thread(target=self._run, args=(work, begins), daemon=True).start()
            self._clock.wake(begins)

    def _run(self, work: Callable[[], Any], begins: _Wait) -> None:
        begins.baton.acquire()
        try:
            result = work()
        except BaseException as error:
            result = error
        self._results.append(result)
        self._running -= 1
        self._fill()
        if self._collector is not None:
            self._clock.wake(self._collector)
            self._collector = None
        self._clock.until(None)

    def collect(self, timeout_s: float | None = None) -> list[Any]:
        if not self._results:
            self._collector = mine = _Wait()
            if timeout_s is not None:
                self._clock.wake(mine, self._clock.now_ns + math.ceil(timeout_s * 1e9))
            self._clock.until(mine)
            self._collector = None
        results, self._results = self._results, []
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def close(self) -> None:
        self._waiting.clear()
        while self._running:
            self.collect()
