"""Files that are whole or not there.

In: bytes, a table or JSON, and a path. Out: the file, written beside, synced and renamed; or
:class:`WriteError`, which tells a full disk from a folder that refuses.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from pathlib import Path

import polars as pl

from cr2fast_profiler.errors import WriteError


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, sync, rename: the file is whole or not there.

    Raises
    ------
    WriteError
        The disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "the disk is full; rows written before are kept: make room, and give the same "
            raise WriteError(f"cannot write {path}: {why}command to go on") from error
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(path: str | Path) -> Path:
    """Refuse, before anything is measured, a file that could not be written after.

    Raises
    ------
    WriteError
        Its folder is missing or not writable, or it is a folder itself.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise WriteError(f"cannot write {path}: expected a file in a folder that can be written")
    return path


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """A table as a Parquet file's bytes."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())
