"""A run's folder: what was planned, and what was measured, row by row.

``run.json`` (schema ``cr2fast.run/1``) says what was asked of what; ``rows/*.parquet`` hold one
request each, written, synced and renamed before the next is sent; ``meter/*.parquet`` hold the
energy readings between them. A killed run loses at most the request in flight.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cr2fast_profiler.errors import RunError
from cr2fast_profiler.files import parquet_bytes, write_atomically, write_json
from cr2fast_profiler.meters.base import Domain, Fault, Reason, Trace

SCHEMA = "cr2fast.run/1"

ROW: dict[str, type[pl.DataType]] = {
    "session": pl.Int32,
    "phase": pl.String,
    "round": pl.Int32,
    "position": pl.Int32,
    "l_in": pl.Int32,
    "l_out": pl.Int32,
    "load": pl.String,
    "start_ns": pl.Int64,
    "first_ns": pl.Int64,
    "last_ns": pl.Int64,
    "end_ns": pl.Int64,
    "aside_ns": pl.Int64,
    "n_input_tokens": pl.Int64,
    "n_output_tokens": pl.Int64,
    "n_chunks": pl.Int64,
    "n_arrivals": pl.Int64,
    "first_share": pl.Float64,
    "cached_tokens": pl.Int64,
    "reasoning_tokens": pl.Int64,
    "server_prefill_s": pl.Float64,
    "server_decode_s": pl.Float64,
    "finish_reason": pl.String,
    "in_flight": pl.Int32,
    "rejected": pl.String,
    "detail": pl.String,
}

LATER = ("end_ns", "n_arrivals", "reasoning_tokens")
"""Columns that runs of an earlier version lack."""


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove it to go on") from error


def _wrong_fields(manifest: dict[str, Any]) -> str:
    """The first field of a manifest that is not what it should be; empty when all are."""
    if not isinstance(manifest.get("plan"), dict):
        return "plan"
    target = manifest.get("target")
    if not (isinstance(target, dict) and isinstance(target.get("model"), str)):
        return "target.model"
    sessions = manifest.get("sessions")
    if not (isinstance(sessions, list) and sessions):
        return "sessions"
    expected: dict[str, type | tuple[type, ...]] = {
        "started": str,
        "profiler": str,
        "host": dict,
        "rtt_s": (int, float),
    }
    for at, session in enumerate(sessions):
        for name, kind in expected.items():
            if not (isinstance(session, dict) and isinstance(session.get(name), kind)):
                return f"sessions[{at}].{name}"
        if not isinstance(session.get("meter"), (dict, type(None))):
            return f"sessions[{at}].meter"
    return ""


class RunStore:
    """A run's folder, open for one process at a time.

    Parameters
    ----------
    folder : path
        Created when missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @contextlib.contextmanager
    def open(self, plan: dict[str, Any]) -> Iterator[bool]:
        """Take the folder for this plan; yields whether an earlier session's rows are there.

        Parameters
        ----------
        plan : dict
            What a later session must have alike: target, grid, seed, meter.

        Raises
        ------
        RunError
            Another process writes there, or the folder holds another plan's run.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "w", encoding="ascii")  # noqa: SIM115
        except OSError as error:
            raise RunError(f"cannot use {self.folder}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"another process is writing {self.folder}") from error
            except OSError as error:
                # ENOLCK, as network file systems answer that lock nothing.
                raise RunError(
                    f"cannot lock {self.folder}: {error.strerror}; give an --out on a local disk"
                ) from error
            known = (self.folder / "run.json").exists()
            if known:
                self._check(plan)
            if not known and any(self._files("rows")):
                raise RunError(
                    f"{self.folder} holds rows and no run.json that says whose: give another --out"
                )
            for kind in ("rows", "meter"):
                for stale in (self.folder / kind).glob(".[0-9]*.parquet.*.tmp"):
                    stale.unlink(missing_ok=True)
            yield known

    def _check(self, plan: dict[str, Any]) -> None:
        before = self.manifest()["plan"]
        differing = [k for k in sorted({*before, *plan}) if before.get(k) != plan.get(k)]
        if differing:
            said = "; ".join(f"{k} was {before.get(k)!r} and is {plan.get(k)!r}" for k in differing)
            raise RunError(
                f"{self.folder} holds a run of another plan ({said}): give another --out, or the "
                "same options to go on"
            )

    def manifest(self) -> dict[str, Any]:
        """``run.json``."""
        path = self.folder / "run.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.folder} holds no run: there is no run.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest)
            raise RunError(f'{path}: expected schema "{SCHEMA}", got {found!r}')
        if wrong := _wrong_fields(manifest):
            raise RunError(f"{path}: {wrong} is missing or not what it should be")
        return manifest

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        write_json(self.folder / "run.json", {"schema": SCHEMA, **manifest})

    def _files(self, kind: str) -> list[Path]:
        found = (self.folder / kind).glob("*.parquet")
        return sorted(p for p in found if p.stem.isascii() and p.stem.isdigit())

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / "run.json").exists()

    def n_rows(self) -> int:
        """Rows so far."""
        return len(self._files("rows"))

    def _next(self, kind: str) -> Path:
        last = max((int(p.stem) for p in self._files(kind)), default=0)
        return self.folder / kind / f"{last + 1:06d}.parquet"

    def append(self, row: dict[str, Any]) -> None:
        """Write one request; missing columns are null."""
        frame = pl.DataFrame([{k: row.get(k) for k in ROW}], schema=ROW)
        write_atomically(self._next("rows"), parquet_bytes(frame))

    def append_trace(self, session: int, trace: Trace) -> None:
        """Write the energy readings since the last ones."""
        if not len(trace.t_ns):
            return
        columns = {
            "session": np.full(len(trace.t_ns), session, np.int32),
            "t_ns": trace.t_ns,
        } | {d.name: trace.joules[:, i] for i, d in enumerate(trace.domains)}
        write_atomically(self._next("meter"), parquet_bytes(pl.DataFrame(columns)))

    def rows(self) -> pl.DataFrame:
        """Every request so far, in the order they were sent."""
        frames = self._read("rows")
        if not frames:
            return pl.DataFrame(schema=ROW)
        frames = [
            f.with_columns(pl.lit(None, dtype=ROW[k]).alias(k) for k in LATER if k not in f.columns)
            for f in frames
        ]
        frames = [f.select(*ROW) if {*f.columns} == {*ROW} else f for f in frames]
        for frame in frames:
            if wrong := sorted({*ROW.items()} ^ {*frame.schema.items()}, key=str):
                raise RunError(f"{self.folder}/rows: wrong or missing columns: {wrong}")
        return pl.concat(frames).sort("session", "start_ns", maintain_order=True)

    def trace(self, session: int) -> Trace | None:
        """The energy readings of one session; None when it had no meter."""
        frames = self._read("meter")
        if not frames:
            return None
        ours = [f for f in frames if f["session"][0] == session]
        if not ours:
            return None
        frame = pl.concat(ours).sort("t_ns")
        said = self.manifest()["sessions"][session]["meter"]
        domains = tuple(Domain(**d) for d in said["domains"])
        return Trace(
            frame["t_ns"].to_numpy(),
            frame.select(d.name for d in domains).to_numpy(),
            domains,
            tuple(Fault(**(f | {"reason": Reason(f["reason"])})) for f in said.get("faults", ())),
        )

    def _read(self, kind: str) -> list[pl.DataFrame]:
        return [_read(p) for p in self._files(kind)]
