"""The files of a decision log, and their lines.

In: a path, several, or a pattern. Out: files in the order in which they were written, the rotated
ones of a log before the live one; then their lines, of bounded length.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from glob import glob, has_magic
from pathlib import Path
from typing import IO, NamedTuple

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# The longest line that is read: an embedding of 100,000 numbers is a tenth of it.
MAX_LINE = 1 << 24
# What the gateway puts between a full file's stem and its ending: the second at which it was set
# aside, with a number where that name was taken.
_STAMP = re.compile(r"\.(\d{8}T\d{6}Z)(?:\.(\d+))?$")


class Source(NamedTuple):
    """One file of a log.

    Attributes
    ----------
    log : str
        The log's name: the path of its live file. Rotated files share it.
    path : Path
    """

    log: str
    path: Path


class Line(NamedTuple):
    """One line: its number, from 1, and its bytes; None where it is longer than is read."""

    number: int
    data: bytes | None
    last: bool


def sources(paths: Paths, since: datetime | None = None) -> list[Source]:
    """Files to read, log by log, oldest first, without those set aside before `since`.

    A path that is no pattern stands for its log: the rotated files beside it are read too. A
    rotated file, or a pattern, stands for itself.

    Raises
    ------
    FileNotFoundError
        Nothing there.
    TypeError, Cr2Error
        Something else than paths; a folder.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise Cr2Error("log: expected at least one path, got none")
    found: dict[Path, Source] = {}
    for item in given:
        if not isinstance(item, (str, os.PathLike)):
            raise TypeError(f"log: expected paths, got {type(item).__name__}")
        for path in _matches(os.fspath(item)):
            log, stamp, _ = _parts(path)
            if since is not None and stamp and _instant(stamp) < since:
                continue
            found.setdefault(path.resolve(), Source(str(log), path))
    logs = list(dict.fromkeys(s.log for s in found.values()))

    def order(source: Source) -> tuple[int, bool, str, int]:
        _, stamp, number = _parts(source.path)
        return logs.index(source.log), not stamp, stamp, number

    return sorted(found.values(), key=order)


def _instant(stamp: str) -> datetime:
    try:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        # No time, so nothing is known of when it was set aside.
        return datetime.max.replace(tzinfo=timezone.utc)


def _matches(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        raise Cr2Error(f"log: expected files, got the folder {shown(text)}; name the log in it")
    if has_magic(text) and not path.exists():
        matches = sorted(Path(p) for p in glob(text, recursive=True) if Path(p).is_file())
        if not matches:
            raise FileNotFoundError(f"log: expected files, got none that match {shown(text)}")
        return matches
    matches = [path] if path.is_file() else []
    log, stamp, _ = _parts(path)
    if not stamp and path.absolute().parent.is_dir():
        beside = path.absolute().parent.iterdir()
        matches += [
            path.with_name(p.name)
            for p in beside
            if p.is_file() and p.name != path.name and _parts(path.with_name(p.name))[0] == log
        ]
    if not matches and path.exists():
        raise Cr2Error(
            f"log: expected regular files, got {shown(text)}, a pipe, socket or device; write it "
            f"to a file first"
        )
    if not matches:
        raise FileNotFoundError(f"log: expected a decision log, got no file at {shown(text)}")
    return matches


def _parts(path: Path) -> tuple[Path, str, int]:
    """A file's log, its time stamp ("" for the live file) and the number behind it."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if found := _STAMP.search(plain.name):
        return plain.with_name(plain.name[: found.start()]), found[1], int(found[2] or 0)
    if found := _STAMP.search(plain.stem):
        name = plain.stem[: found.start()] + plain.suffix
        return plain.with_name(name), found[1], int(found[2] or 0)
    return plain, "", 0


def lines(path: Path) -> Iterator[Line]:
    """The lines of a file, gzipped or not; empty ones are left out.

    A gzipped file that breaks off ends with what it had.
    """
    opened: IO[bytes] = path.open("rb")
    # What is compressed says so, whatever its name.
    if opened.peek(2)[:2] == b"\x1f\x8b":  # type: ignore[attr-defined]
        opened.close()
        opened = gzip.open(path)  # type: ignore[assignment] # noqa: SIM115
    with opened as file:
        number = 0
        while True:
            try:
                data = file.readline(MAX_LINE + 1)
                whole = len(data) <= MAX_LINE
                while data and not whole and not data.endswith(b"\n"):
                    data = file.readline(MAX_LINE)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                yield Line(number + 1, b"", True)
                return
            if not data:
                return
            number += 1
            if number == 1:
                data = data.removeprefix(codecs.BOM_UTF8)
            if data.strip():
                yield Line(number, data if whole else None, not data.endswith(b"\n"))
