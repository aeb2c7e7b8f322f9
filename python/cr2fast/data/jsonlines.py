"""JSON Lines, as logs are written: an object per line, with values of different kinds.

In: a file, perhaps compressed. Out: a polars frame. Lists of numbers stay lists; other lists (chat
messages) become their JSON text, fields of objects columns with a dot (`usage.prompt_tokens`). A
damaged line is named by its number.
"""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util.checks import check_text, shown
from cr2fast._util.optional import require

if TYPE_CHECKING:
    import polars as pl

# Lines longer than this are no rows of a table.
MAX_LINE = 64 << 20
# A list is parsed as a whole, and takes many times its bytes.
MAX_FILE = 2 << 30
# Objects within objects that become columns.
DEPTH = 4
# What an API's answer calls its rows.
WRAPPERS = (
    "data", "rows", "records", "results", "items", "observations", "generations", "logs", "calls",
)  # fmt: skip
# Whole numbers beyond these ends are none of a table's.
_INT = 2**63


def read(path: Path) -> pl.DataFrame:
    """Read a file of JSON objects, one per line, or a list of them; empty lines are passed over."""
    if _start(path).startswith(b"["):
        return _read_list(path)
    with _opened(path) as file:
        return _frame(_objects(file))


def read_json(path: Path) -> pl.DataFrame:
    """Read one JSON list of objects, also in an object of an API's answer; else as :func:`read`."""
    if _start(path).startswith(b"{") and (rows := _wrapped(path)) is not None:
        return _frame(iter(rows))
    return read(path)


def _start(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()


def _read_list(path: Path) -> pl.DataFrame:
    with _opened(path) as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise Cr2Error(f"a list of more than {MAX_FILE} bytes; write an object per line instead")
    found = _parsed(data, "the list")
    for k, row in enumerate(found):
        if not isinstance(row, dict):
            raise Cr2Error(f"{shown(row)} at place {k} of the list, where an object belongs")
    return _frame(iter(found))


def _wrapped(path: Path) -> list[dict[str, Any]] | None:
    """The list of objects in `{"data": [...]}` and the like; None where the file is no such."""
    with _opened(path) as file:
        first, second = file.readline(MAX_LINE + 1), file.readline(MAX_LINE + 1)
        if first.rstrip().endswith(b"}") and second.lstrip().startswith(b"{"):
            return None  # An object per line.
        data = first + second + file.read(MAX_FILE + 1)
    try:
        found = _parsed(data, "the object") if len(data) <= MAX_FILE else None
    except Cr2Error:
        return None
    if not isinstance(found, dict):
        return None
    lists = [found[name] for name in WRAPPERS if isinstance(found.get(name), list)]
    good = len(lists) == 1 and lists[0] and all(isinstance(row, dict) for row in lists[0])
    return lists[0] if good else None


def _opened(path: Path) -> IO[bytes]:
    file = path.open("rb")
    # What is compressed says so, whatever its name.
    if file.peek(2)[:2] == b"\x1f\x8b":
        file.close()
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return file


def _objects(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise Cr2Error(f"line {number} of more than {MAX_LINE} bytes")
        if line.strip():
            yield _object(line, number)


def _frame(rows: Iterator[dict[str, Any]]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {}
    for n, row in enumerate(rows):
        for name, value in flat(row).items():
            if name not in columns:
                columns[name] = [None] * n
            columns[name].append(_plain(value))
        for values in columns.values():
            if len(values) <= n:
                values.append(None)
    polars = require("polars", "lab")
    found: pl.DataFrame = polars.DataFrame({k: column(k, v) for k, v in columns.items()})
    return found


def _object(line: bytes, number: int) -> dict[str, Any]:
    found = _parsed(line, f"line {number}, {shown(text_of(line))}")
    if not isinstance(found, dict):
        raise Cr2Error(f"line {number}, {shown(text_of(line))}, where an object belongs")
    return found


def _parsed(data: bytes, where: str) -> Any:
    try:
        # A byte order mark stands at most before the first line.
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_pairs)
    except RecursionError:
        raise Cr2Error(f"{where}: JSON nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Cr2Error(f"{where}: no UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except ValueError as error:
        # Python's own limit comes with advice for who writes Python.
        words = str(error).partition("; use sys.")[0]
        raise Cr2Error(f"{where}: {words}") from None


def text_of(line: bytes) -> str:
    """The beginning of a line, for a message."""
    return line[:80].decode("utf-8", "replace").strip()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [k for k, _ in pairs]
        twice = next(k for k in names if names.count(k) > 1)
        raise ValueError(f"the key {shown(twice)} stands twice")
    return found


def flat(found: dict[str, Any], depth: int = DEPTH, prefix: str = "") -> dict[str, Any]:
    """The fields of objects within, by names with a dot."""
    out: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, dict) and value and depth > 1:
            out |= flat(value, depth - 1, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def _plain(value: Any) -> Any:
    """Numbers and text as they are, lists of numbers as arrays, all else as JSON text."""
    if isinstance(value, list) and value and all(type(v) in (int, float) for v in value):
        return np.array(value, dtype=np.float64)
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, int) and not isinstance(value, bool) and not -_INT <= value < _INT:
        return float("inf") if value > 0 else -float("inf")
    return value


def column(name: str, values: list[Any]) -> pl.Series:
    """One type for a column: the one that its values have, or the nearest that holds them all."""
    polars = require("polars", "lab")
    values = [_plain(v) for v in values]
    kinds = {type(v) for v in values} - {type(None)}
    if np.ndarray in kinds and kinds != {np.ndarray}:
        values = [json.dumps(v.tolist()) if isinstance(v, np.ndarray) else v for v in values]
        kinds = kinds - {np.ndarray} | {str}
    kind = None
    if str in kinds:
        values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        check_text((v for v in values if v is not None), name)
        kind = polars.String
    elif float in kinds or kinds == {bool, int}:
        values, kind = [None if v is None else float(v) for v in values], polars.Float64
    elif np.ndarray in kinds:
        values = [None if v is None else polars.Series(v) for v in values]
        kind = polars.List(polars.Float64)
    found: pl.Series = polars.Series(values, dtype=kind)
    return found
