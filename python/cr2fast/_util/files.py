"""Files that are written whole, or stay what they were.

In: bytes and a path. Out: the file. A reader at any moment, a gateway that reloads among them, sees
the old file or the new one; a full disk or a kill leaves the old one. Routers are written by the
same rule (``rust/core/src/file/disk.rs``).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path

_TURNS = count()


def write_whole(path: str | Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, sync it, and give it the name.

    Parameters
    ----------
    path : path
        A link is followed; permissions of a file that is there stay. What is no regular file (a
        pipe, a device) is written to as it is.
    data : bytes

    Raises
    ------
    OSError
        No such folder, no permission, a full disk; an existing file stays as it was.
    """
    path = Path(path)
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    # Two threads may write one file, each by a temporary one of its own.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_TURNS)}.tmp")
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                temporary.chmod(stat.S_IMODE(mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
