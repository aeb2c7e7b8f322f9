"""A recorded trace as a file, and that file as a meter.

File (UTF-8): a line ``# cr2fast-trace`` with the domains as JSON; a CSV header ``t_ns`` and the
domains' names; a line a reading, an untrusted one as an empty cell; then ``# fault`` lines with
JSON. Numbers are written in full, so that writing and reading give the same trace, bit for bit.

A file is refused with its line where it is no trace: times that do not increase, joules that
fall, NaN or infinity where a number belongs, a missing column, an empty file, a last line cut
off, an untrusted reading that no fault explains.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from cr2fast_profiler.meters.base import Domain, Fault, MeterError, Reason, Trace, Unavailable

MAGIC = "# cr2fast-trace "
FAULT = "# fault "
POLL_RANGE_S = (0.002, 0.1)


def record(trace: Trace, path: str | Path) -> None:
    """Write a trace.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    lines = [MAGIC + json.dumps([asdict(d) for d in trace.domains])]
    lines.append(",".join(["t_ns", *(d.name for d in trace.domains)]))
    for t_ns, row in zip(trace.t_ns.tolist(), trace.joules.tolist(), strict=True):
        lines.append(",".join([str(t_ns), *("" if math.isnan(j) else repr(j) for j in row)]))
    lines += [FAULT + json.dumps({**asdict(f), "reason": f.reason.value}) for f in trace.faults]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_trace(path: str | Path) -> Trace:
    """Read a trace that :func:`record` wrote.

    Raises
    ------
    MeterError
        When the file is missing or is no trace; with its line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MeterError(
            Unavailable("replay", Reason.NOT_PRESENT, f"{path} cannot be read: {error}")
        ) from None
    if not text:
        _refuse(path, 1, "the file is empty", "record it anew")
    if not text.endswith("\n"):
        _refuse(path, text.count("\n") + 1, "the last line is cut off", "drop that line")
    lines = text[:-1].split("\n")
    domains = _domains(path, lines)
    times: list[int] = []
    rows: list[list[float]] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines[2:], start=3):
        if line.startswith(FAULT):
            faults.append(_fault(path, number, line))
            continue
        t_ns, row = _reading(path, number, line, domains)
        if times and t_ns <= times[-1]:
            _refuse(path, number, f"t_ns {t_ns} does not come after {times[-1]}")
        times.append(t_ns)
        rows.append(row)
    if not rows:
        _refuse(path, len(lines), "there is no reading")
    joules = np.array(rows, dtype=np.float64)
    _check(path, np.array(times), joules, domains, faults)
    return Trace(np.array(times, dtype=np.int64), joules, domains, tuple(faults))


def _refuse(path: Path, line: int, what: str, remedy: str = "") -> NoReturn:
    detail = f"{path}, line {line}: {what}"
    raise MeterError(Unavailable("replay", Reason.IMPLAUSIBLE, detail, remedy))


def _domains(path: Path, lines: list[str]) -> tuple[Domain, ...]:
    if not lines[0].startswith(MAGIC):
        _refuse(path, 1, f"expected {MAGIC!r} and the domains; got {lines[0][:40]!r}")
    try:
        domains = tuple(Domain(**d) for d in json.loads(lines[0][len(MAGIC) :]))
    except (ValueError, TypeError) as error:
        _refuse(path, 1, f"the domains are malformed: {error}")
    expected = ["t_ns", *(d.name for d in domains)]
    header = lines[1].split(",") if len(lines) > 1 else []
    if not domains or header != expected:
        _refuse(path, 2, f"expected the columns {','.join(expected)}; got {','.join(header)!r}")
    return domains


def _reading(
    path: Path, number: int, line: str, domains: tuple[Domain, ...]
) -> tuple[int, list[float]]:
    cells = line.split(",")
    if len(cells) != len(domains) + 1:
        _refuse(path, number, f"expected {len(domains) + 1} cells; got {len(cells)}: {line!r}")
    try:
        t_ns = int(cells[0])
        row = [float(c) if c else math.nan for c in cells[1:]]
    except ValueError as error:
        _refuse(path, number, str(error))
    if any(c and not math.isfinite(j) for c, j in zip(cells[1:], row, strict=True)):
        _refuse(path, number, f"joules must be finite, or empty where untrusted; got {line!r}")
    return t_ns, row


def _fault(path: Path, number: int, line: str) -> Fault:
    try:
        entry = json.loads(line[len(FAULT) :])
        reason = Reason(entry.pop("reason"))
        fault = Fault(reason=reason, **entry)
        if isinstance(fault.t_ns, bool) or not isinstance(fault.t_ns, int):
            raise TypeError("t_ns must be a whole number")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _refuse(path, number, f"malformed fault: {error}")
    return fault


def _check(
    path: Path,
    t_ns: npt.NDArray[np.int64],
    joules: npt.NDArray[np.float64],
    domains: tuple[Domain, ...],
    faults: list[Fault],
) -> None:
    """Cumulative joules do not fall, and each untrusted one has its fault."""
    for column, domain in enumerate(domains):
        values = joules[:, column]
        trusted = values[np.isfinite(values)]
        falls = np.flatnonzero(np.diff(trusted) < 0)
        if len(falls):
            low, high = trusted[falls[0] + 1], trusted[falls[0]]
            line = 3 + int(np.flatnonzero(values == low)[0])
            _refuse(path, line, f"{domain.name} falls from {high} J to {low} J; joules accumulate")
        bad = np.flatnonzero(np.isnan(values))
        first = min((f.t_ns for f in faults if f.domain == domain.name), default=None)
        if len(bad) and (first is None or first > t_ns[bad[0]]):
            _refuse(path, 3 + int(bad[0]), f"{domain.name} is empty and no fault says why")


class ReplayMeter:
    """A recorded trace, played from when it is opened.

    Between readings joules are interpolated as the recorded trace's own windows are; past its
    end they are NaN.

    Parameters
    ----------
    path : str or Path
        A file of :func:`record`.
    clock : callable
        Monotonic ns; its time now is the trace's first.

    Raises
    ------
    MeterError
        When the file is missing or is no trace.
    """

    def __init__(self, path: str | Path, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._trace = trace = read_trace(path)
        self._clock = clock
        self.domains = trace.domains
        gaps = np.diff(trace.t_ns) * 1e-9
        self.poll_s = float(np.clip(np.median(gaps) if len(gaps) else 0, *POLL_RANGE_S))
        self.faults: list[Fault] = []
        self._pending = sorted(trace.faults, key=lambda f: f.t_ns)
        self._ended = False
        self._row = 0
        start = trace.joules[0]
        self._start_j = np.where(np.isfinite(start), start, 0.0)
        self._shift_ns = clock() - int(trace.t_ns[0])

    def read(self) -> tuple[int, npt.NDArray[np.float64]]:
        """See :meth:`cr2fast_profiler.meters.base.Meter.read`."""
        now_ns = self._clock()
        trace, at_ns = self._trace, now_ns - self._shift_ns
        while self._pending and self._pending[0].t_ns <= at_ns:
            fault = self._pending.pop(0)
            self.faults.append(
                Fault(fault.t_ns + self._shift_ns, fault.domain, fault.reason, fault.detail)
            )
        if at_ns > trace.t_ns[-1]:
            if not self._ended:
                self._ended = True
                detail = f"the recording ends after {(trace.t_ns[-1] - trace.t_ns[0]) * 1e-9:.3f} s"
                self.faults += [
                    Fault(now_ns, d.name, Reason.NOT_COVERED, detail) for d in self.domains
                ]
            return now_ns, np.full(len(self.domains), np.nan)
        i = max(int(np.searchsorted(trace.t_ns, at_ns, side="right")) - 1, 0)
        # A reading here covers what passed since the last: one untrusted in between spoils it.
        passed = trace.joules[self._row + 1 : i + 1]
        self._row = i
        low, low_ns = trace.joules[i], int(trace.t_ns[i])
        if at_ns > low_ns:
            part = (at_ns - low_ns) / (int(trace.t_ns[i + 1]) - low_ns)
            low = low + part * (trace.joules[i + 1] - low)
        return now_ns, np.where(np.isnan(passed).any(axis=0), np.nan, low - self._start_j)

    def close(self) -> None:
        """Nothing is held."""
