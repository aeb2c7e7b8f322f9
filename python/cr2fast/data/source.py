"""A table from whatever people have: files, polars, and what speaks Arrow.

In: a path (Parquet, CSV, JSON Lines, Arrow IPC), a polars frame, eager or lazy, or any object with
``__arrow_c_stream__`` (pandas, pyarrow, DuckDB, Hugging Face datasets). Out: a polars frame whose
columns are as they came, or an error that says which source, and what was expected of it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cr2fast._core import Cr2Error
from cr2fast._util.checks import explained, shown
from cr2fast._util.forked import check_polars
from cr2fast._util.optional import require
from cr2fast.data import jsonlines

if TYPE_CHECKING:
    import polars as pl

# Columns that hold words even where every word is a number: "007" stays what it is.
_WORDS = (
    "query_id", "request", "request_id", "trace_id", "id", "model", "category", "text", "prompt",
    "messages", "input", "embedding", "error",
)  # fmt: skip


def frame(source: Any, what: str) -> pl.DataFrame:
    """Read a table.

    Parameters
    ----------
    source : path, polars.DataFrame, polars.LazyFrame, or object with ``__arrow_c_stream__``
        A path's ending says what the file is: ``.parquet``, ``.csv``, ``.tsv``, ``.jsonl``,
        ``.ndjson``, ``.json``, ``.arrow``, ``.ipc``, ``.feather``; of text files also with ``.gz``
        behind it.
    what : str
        What errors call the table.

    Raises
    ------
    FileNotFoundError
        No such file.
    Cr2Error
        Another ending, a damaged file, no rows.
    TypeError
        Something else than a table.
    RuntimeError
        A forked child of a process that had used polars, which would wait for ever.
    """
    check_polars(what)
    polars = require("polars", "lab")
    if isinstance(source, (str, Path)):
        found = _file(Path(source), what)
    elif isinstance(source, polars.DataFrame):
        found = source
    elif isinstance(source, polars.LazyFrame):
        found = _tried(source.collect, what, "a query that polars can run")
    elif hasattr(source, "__arrow_c_stream__"):
        found = _tried(lambda: polars.DataFrame(source), what, "a table in Arrow's stream format")
    elif callable(getattr(source, "to_polars", None)):  # Datasets of Hugging Face, so far.
        found = source.to_polars()
    else:
        raise TypeError(
            f"{what}: expected a path, a polars frame or an object with __arrow_c_stream__ "
            f"(pandas, pyarrow, DuckDB, Hugging Face datasets), got {type(source).__name__}"
        )
    if not found.width or found.is_empty():
        raise Cr2Error(f"{what}: expected at least one row, got none")
    return found


def _ending(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((e for e in _READERS if name.endswith(e)), None)


def reads(path: Path) -> bool:
    """Whether the file's name is that of a table that is read."""
    return _ending(path) is not None


def _file(path: Path, what: str) -> pl.DataFrame:
    ending = _ending(path)
    if ending is None:
        raise Cr2Error(
            f"{what}: expected a file whose name ends in one of {' '.join(_READERS)}, got "
            f"{shown(str(path))}"
        )
    if path.is_dir():
        raise Cr2Error(f"{what}: expected a file, got the folder {shown(str(path))}")
    if not path.is_file():
        raise FileNotFoundError(f"{what}: expected a file, got no file at {path}")
    kind, read = _READERS[ending]
    return _tried(lambda: read(path), what, f"{kind} in {path}")


def _tried(read: Callable[[], pl.DataFrame], what: str, expected: str) -> pl.DataFrame:
    polars = require("polars", "lab")
    try:
        return read()
    except Cr2Error as error:
        raise Cr2Error(f"{what}: expected {expected}, got {error}") from None
    # PanicException derives from BaseException: what another library meets in a damaged file.
    except (Exception, polars.exceptions.PanicException) as error:
        # What polars advises is for who calls polars.
        words = explained(error)
        for advice in (" Consider setting", " The current offset", " You might want"):
            words = words.partition(advice)[0]
        raise Cr2Error(f"{what}: expected {expected}, got {words}") from None


def _parquet(path: Path) -> pl.DataFrame:
    found: pl.DataFrame = require("polars", "lab").read_parquet(path, glob=False)
    return found


def _csv(path: Path, separator: str | None = None) -> pl.DataFrame:
    polars = require("polars", "lab")
    separator = separator or _separator(path)
    options = {"separator": separator, "glob": False, "infer_schema_length": None}
    names = polars.read_csv(path, n_rows=0, separator=separator, glob=False).columns
    _check_once(path, names, separator)
    words = {name: polars.String for name in names if name in _WORDS}
    found: pl.DataFrame = polars.read_csv(path, schema_overrides=words, **options)
    return found


def _check_once(path: Path, names: list[str], separator: str) -> None:
    """Refuse a name that two columns have: polars gives the second another, and one is lost."""
    if not any("_duplicated_" in name for name in names):
        return
    header = require("polars", "lab").read_csv(
        path, n_rows=1, has_header=False, infer_schema=False, separator=separator, glob=False
    )
    known = [str(name) for name in header.row(0)]
    if twice := [name for name in known if known.count(name) > 1]:
        raise Cr2Error(f"two columns called {shown(twice[0])}; give each a name of its own")


def _separator(path: Path) -> str:
    """A comma, or where the first line has none the semicolon of languages with decimal commas."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
        line = file.readline(1 << 20)
    return ";" if b";" in line and b"," not in line else ","


def _tsv(path: Path) -> pl.DataFrame:
    return _csv(path, "\t")


def _arrow(path: Path) -> pl.DataFrame:
    polars = require("polars", "lab")
    # A file of Arrow IPC begins with these six bytes; a stream of it does not.
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    found: pl.DataFrame = polars.read_ipc(path) if is_file else polars.read_ipc_stream(path)
    return found


_READERS: dict[str, tuple[str, Callable[[Path], pl.DataFrame]]] = {
    ".parquet": ("Parquet", _parquet),
    ".csv": ("CSV", _csv),
    ".tsv": ("tab-separated values", _tsv),
    ".jsonl": ("JSON Lines", jsonlines.read),
    ".ndjson": ("JSON Lines", jsonlines.read),
    ".json": ("JSON, a list of objects or an object per line,", jsonlines.read_json),
    ".arrow": ("Arrow IPC", _arrow),
    ".ipc": ("Arrow IPC", _arrow),
    ".feather": ("Arrow IPC", _arrow),
}
