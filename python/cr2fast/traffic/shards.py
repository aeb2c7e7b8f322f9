"""Route the files of a folder, a shard at a time, so that a kill loses one shard at most.

In: Parquet files, larger than memory or many. Out: a file of the same name for each in another
folder, written beside it first and renamed when whole; a run that was broken off goes on where it
stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown, whole
from cr2fast._util.files import write_whole
from cr2fast._util.optional import require
from cr2fast.traffic.batches import RouteBatches

_MARK = "_cr2fast.json"


@dataclass(frozen=True)
class Shards:
    """What a run did: files `written` and files that were there already, and `rows` written."""

    written: int
    there: int
    rows: int


def route_shards(
    inputs: Iterable[str | Path],
    out: str | Path,
    route: RouteBatches,
    *,
    batch_rows: int = 16_384,
    done: Callable[[Path, int], None] | None = None,
) -> Shards:
    """Route Parquet files into a folder.

    Parameters
    ----------
    inputs : paths
        Files of distinct names.
    out : path
        A folder, made where there is none. What it has of an earlier run of the same router and
        point is kept.
    route : RouteBatches
    batch_rows : int
        Rows in memory at once.
    done : callable, optional
        Called with each file written, and its rows.

    Returns
    -------
    Shards

    Raises
    ------
    Cr2Error
        The folder holds another router's or another point's decisions; two inputs of one name.
    OSError
        A file cannot be read or written.
    """
    parquet = require("pyarrow.parquet", "scale")
    paths = [Path(p) for p in inputs]
    names = [p.name for p in paths]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise Cr2Error(f"inputs: expected distinct names, got {shown(twice)} twice")
    batch_rows = max(1, whole(batch_rows, "batch_rows"))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _mark(folder, route)
    written = there = rows = 0
    for path in paths:
        target = folder / path.name
        if target.exists():
            there += 1
            continue
        part = folder / f".{path.name}.part"  # Of a run that was killed: begun anew.
        count = 0
        with parquet.ParquetFile(path) as source:
            writer = None
            try:
                for batch in source.iter_batches(batch_rows):
                    routed = route(batch)
                    if writer is None:
                        writer = parquet.ParquetWriter(part, routed.schema)
                    writer.write_batch(routed)
                    count += routed.num_rows
                if writer is None:
                    empty = route(source.schema_arrow.empty_table())
                    writer = parquet.ParquetWriter(part, empty.schema)
            finally:
                if writer is not None:
                    writer.close()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
        written += 1
        rows += count
        if done is not None:
            done(target, count)
    return Shards(written, there, rows)


def _mark(folder: Path, route: RouteBatches) -> None:
    """Say in the folder whose decisions it holds, or refuse it if they are another's."""
    ours = {"router_sha256": route.sha256, "lam": route.lam, "alpha": route.alpha}
    path = folder / _MARK
    try:
        theirs = json.loads(path.read_text())
    except FileNotFoundError:
        write_whole(path, json.dumps(ours).encode())
        return
    except ValueError:
        theirs = None
    if theirs != ours:
        raise Cr2Error(
            f"out: expected a folder of the decisions of {_said(ours)}, got "
            f"{_said(theirs) if isinstance(theirs, dict) else 'something else'} in {path}; name "
            f"another folder"
        )


def _said(mark: dict[str, object]) -> str:
    """Whose decisions a folder holds, to the digit that tells them from others."""
    router, lam, alpha = (shown(mark.get(name)) for name in ("router_sha256", "lam", "alpha"))
    return f"the router {router} at lam={lam}, alpha={alpha}"
