"""Raw rows on disk, a Parquet part a round, so that a killed run goes on where it stopped.

In: rows of a round. Out: ``rows/round-00007.parquet`` in the run's folder, written beside and
renamed; and ``run.json``, what the run was asked for: other options do not mix with its rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from cr2fast_profiler.errors import LinkError
from cr2fast_profiler.files import parquet_bytes, write_atomically
from cr2fast_profiler.link.probe import Row

SCHEMA = {
    "round": pl.Int64,
    "order": pl.Int64,
    "kind": pl.String,
    "bytes": pl.Int64,
    "start_ns": pl.Int64,
    "duration_s": pl.Float64,
    "dns_s": pl.Float64,
    "sent_bytes": pl.Int64,
    "received_bytes": pl.Int64,
    "reason": pl.String,
}


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Rows as a table."""
    return pl.DataFrame([asdict(r) for r in rows], schema=SCHEMA)


class Store:
    """The rows of one run; in memory alone where there is no folder.

    Parameters
    ----------
    folder : Path or None
        The run's folder, made if absent.
    asked : dict
        What the run was asked for, JSON; must equal what the folder's run was asked for.
    started : dict
        What to note of the start, kept from the first start.
    """

    def __init__(self, folder: Path | None, asked: dict[str, Any], started: dict[str, Any]) -> None:
        self._folder = None if folder is None else folder / "rows"
        self._parts: dict[int, pl.DataFrame] = {}
        self.started = started
        if folder is None or self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise LinkError(f"cannot make {self._folder}: {e.strerror}; choose --out") from None
        note = folder / "run.json"
        asked = json.loads(json.dumps(asked))
        if note.exists():
            self._resume(note, asked)
        else:
            text = json.dumps({"asked": asked, "started": started}, indent=1)
            write_atomically(note, text.encode())

    def _resume(self, note: Path, asked: dict[str, Any]) -> None:
        assert self._folder is not None
        try:
            run = json.loads(note.read_bytes())
            before, self.started = dict(run["asked"]), dict(run["started"])
        except (OSError, ValueError, KeyError, TypeError):
            raise LinkError(f"{note}: expected a link run; choose another --out") from None
        differ = [k for k in asked if before.get(k) != asked[k]]
        if differ:
            words = ", ".join(f"{k} {before.get(k)!r}, not {asked[k]!r}" for k in differ)
            raise LinkError(
                f"{note}: that run had {words}; choose another --out or the same options"
            )
        for path in sorted(self._folder.glob("round-*.parquet")):
            try:
                part = pl.read_parquet(path)
                number = int(path.stem.removeprefix("round-"))
            except (OSError, ValueError, pl.exceptions.PolarsError) as e:
                raise LinkError(f"{path}: expected rows of a round: {e}; delete it") from None
            if dict(part.schema) != SCHEMA:
                raise LinkError(f"{path}: expected columns {list(SCHEMA)}; delete it")
            self._parts[number] = part

    def done(self) -> set[int]:
        """Rounds that are stored."""
        return set(self._parts)

    def add(self, number: int, rows: Sequence[Row]) -> None:
        """Store one round."""
        part = frame(rows)
        if self._folder is not None:
            path = self._folder / f"round-{number:05d}.parquet"
            write_atomically(path, parquet_bytes(part))
        self._parts[number] = part

    def rows(self) -> pl.DataFrame:
        """All rows, by round."""
        parts = [self._parts[n] for n in sorted(self._parts)]
        return pl.concat(parts) if parts else frame([])
