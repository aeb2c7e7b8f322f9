"""A run's folder: what was planned, and what was measured, row by row.

``run.json`` (schema ``cr2fast.run/1``) says what was asked of what; ``rows/*.parquet`` hold one
request each, written, synced and renamed before the next is sent; ``meter/*.parquet`` hold the
energy readings between them. A killed run loses at most the request in flight.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import polars as pl

from cr2fast_profiler.errors import RunError
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
    "aside_ns": pl.Int64,
    "n_input_tokens": pl.Int64,
    "n_output_tokens": pl.Int64,
    "n_chunks": pl.Int64,
    "first_share": pl.Float64,
    "cached_tokens": pl.Int64,
    "server_prefill_s": pl.Float64,
    "server_decode_s": pl.Float64,
    "finish_reason": pl.String,
    "in_flight": pl.Int32,
    "rejected": pl.String,
    "detail": pl.String,
}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, sync, rename: the file is whole or not there.

    Raises
    ------
    RunError
        The disk is full or refuses; what was written before stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RunError(
            f"cannot write {path}: {'the disk is full' if full else error.strerror or error}; what "
            "was measured before is kept: make room, and give the same command to go on"
        ) from error


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove it to go on") from error


class RunStore:
    """A run's folder, open for one process at a time.

    Parameters
    ----------
    folder : path
        Created when missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock: TextIO | None = None

    @contextlib.contextmanager
    def open(self, plan: dict[str, Any]) -> Iterator[bool]:
        """Take the folder for this plan; yields whether an earlier session's rows are there.

        Parameters
        ----------
        plan : dict
            What a later session must ask alike: target, grid, seed.

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
            except OSError as error:
                raise RunError(f"another process is writing {self.folder}") from error
            known = (self.folder / "run.json").exists()
            if known:
                self._check(plan)
            for stale in self.folder.glob("*/.*.tmp"):
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
        return manifest

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        write_json(self.folder / "run.json", {"schema": SCHEMA, **manifest})

    def _next(self, kind: str) -> Path:
        folder = self.folder / kind
        last = max((int(p.stem) for p in folder.glob("[0-9]*.parquet")), default=0)
        return folder / f"{last + 1:06d}.parquet"

    def append(self, row: dict[str, Any]) -> None:
        """Write one request; missing columns are null."""
        frame = pl.DataFrame([{k: row.get(k) for k in ROW}], schema=ROW)
        write_atomically(self._next("rows"), frame.write_parquet)

    def append_trace(self, session: int, trace: Trace) -> None:
        """Write the energy readings since the last ones."""
        if not len(trace.t_ns):
            return
        columns = {
            "session": np.full(len(trace.t_ns), session, np.int32),
            "t_ns": trace.t_ns,
        } | {d.name: trace.joules[:, i] for i, d in enumerate(trace.domains)}
        frame = pl.DataFrame(columns)
        write_atomically(self._next("meter"), frame.write_parquet)

    def rows(self) -> pl.DataFrame:
        """Every request so far, in the order they were sent."""
        frames = self._read("rows")
        if not frames:
            return pl.DataFrame(schema=ROW)
        missing = sorted(set(ROW) - set(frames[0].columns))
        if missing:
            raise RunError(f"{self.folder}/rows: the columns {missing} are missing")
        return pl.concat(frames).sort("session", "start_ns", maintain_order=True)

    def trace(self, session: int) -> Trace | None:
        """The energy readings of one session; None when it had no meter."""
        frames = self._read("meter")
        if not frames:
            return None
        frame = pl.concat(frames).filter(pl.col("session") == session).sort("t_ns")
        if frame.is_empty():
            return None
        said = self.manifest()["sessions"][session]["meter"]
        domains = tuple(Domain(**d) for d in said["domains"])
        return Trace(
            frame["t_ns"].to_numpy(),
            frame.select(d.name for d in domains).to_numpy(),
            domains,
            tuple(Fault(**(f | {"reason": Reason(f["reason"])})) for f in said.get("faults", ())),
        )

    def _read(self, kind: str) -> list[pl.DataFrame]:
        return [_read(p) for p in sorted((self.folder / kind).glob("[0-9]*.parquet"))]
