"""The one clock that a run measures by and waits on.

In: nothing. Out: nanoseconds, sleeps, calls at a pace, work side by side. Client, meters, loads and
the stopping rule share one clock, so that a test can put all of them, and the server they measure,
on a virtual one: exact, instant, and the same on a busy machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

Now = Callable[[], int]
"""Nanoseconds, monotonic: what a meter or a client that only reads the time needs."""


class Ticker(Protocol):
    """Calls that come at a pace."""

    def stop(self) -> None:
        """No call runs or comes after this returns."""
        ...


class Crew(Protocol):
    """Work side by side, so many at a time."""

    def submit(self, work: Callable[[], Any]) -> None:
        """Begin, or wait for a place."""
        ...

    def collect(self, timeout_s: float | None = None) -> list[Any]:
        """Results since the last call; where there are none yet, of the first to come.

        Parameters
        ----------
        timeout_s : float, optional
            Longest wait, s; without it, until something ends. With nothing submitted it is the
            whole wait.
        """
        ...

    @property
    def pending(self) -> bool:
        """Whether anything submitted has not been collected."""
        ...

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        ...


class Clock(Protocol):
    """Monotonic time, and waiting on it."""

    def __call__(self) -> int:
        """Nanoseconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        ...

    def every(self, period_s: float, call: Callable[[], None]) -> Ticker:
        """Call again and again, first after a period; `call` must not raise."""
        ...

    def crew(self, width: int) -> Crew:
        """Work side by side, `width` at a time."""
        ...


class _Thread:
    def __init__(self, period_s: float, call: Callable[[], None]) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(period_s, call), daemon=True)
        self._thread.start()

    def _run(self, period_s: float, call: Callable[[], None]) -> None:
        while not self._ended.wait(period_s):
            call()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


class _Pool:
    def __init__(self, width: int) -> None:
        self._pool = ThreadPoolExecutor(width)
        self._futures: set[Future[Any]] = set()

    def submit(self, work: Callable[[], Any]) -> None:
        self._futures.add(self._pool.submit(work))

    def collect(self, timeout_s: float | None = None) -> list[Any]:
        if not self._futures:
            time.sleep(timeout_s or 0.0)
            return []
        done, self._futures = wait(self._futures, timeout_s, FIRST_COMPLETED)
        return [f.result() for f in done]

    @property
    def pending(self) -> bool:
        return bool(self._futures)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class SystemClock:
    """The machine's monotonic clock, and its threads."""

    def __call__(self) -> int:
        """``time.perf_counter_ns``."""
        return time.perf_counter_ns()

    def sleep(self, seconds: float) -> None:
        """``time.sleep``."""
        time.sleep(seconds)

    def every(self, period_s: float, call: Callable[[], None]) -> Ticker:
        """See :class:`Clock`; on a daemon thread."""
        return _Thread(period_s, call)

    def crew(self, width: int) -> Crew:
        """See :class:`Clock`; a pool of threads."""
        return _Pool(width)


SYSTEM = SystemClock()
