"""Columns of batches as engines hand them over: Arrow, polars, pandas, dictionaries of arrays.

In: a batch and the name of a column. Out: a float32 matrix of embeddings, without a copy where the
batch has one, or a list of texts; and the same batch with more columns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error
from cr2fast._util.checks import shown
from cr2fast._util.optional import require

F32 = npt.NDArray[np.float32]


class WidthError(Cr2Error):
    """Embeddings of other widths than the router's."""

    widths: frozenset[Any] = frozenset()


def kind_of(batch: Any) -> str:
    """Which of "table", "record batch", "polars", "pandas" and "mapping" a batch is."""
    for module, names in (
        ("pyarrow", {"Table": "table", "RecordBatch": "record batch"}),
        ("polars", {"DataFrame": "polars"}),
        ("pandas", {"DataFrame": "pandas"}),
    ):
        library = sys.modules.get(module)  # A batch of a library that is not loaded is none.
        for name, kind in names.items():
            if library is not None and isinstance(batch, getattr(library, name)):
                return kind
    if isinstance(batch, Mapping):
        return "mapping"
    raise TypeError(
        f"batch: expected a pyarrow.Table or RecordBatch, a polars or pandas DataFrame, or a "
        f"dictionary of arrays, got {type(batch).__name__}"
    )


def names_of(batch: Any, kind: str) -> list[str]:
    """Names of its columns."""
    if kind == "mapping":
        return list(batch)
    return list(batch.schema.names if kind in ("table", "record batch") else batch.columns)


def rows_of(batch: Any, kind: str) -> int:
    """How many rows it has."""
    if kind == "mapping":
        return len(next(iter(batch.values()))) if batch else 0
    return batch.num_rows if kind in ("table", "record batch") else len(batch)


def _column(batch: Any, kind: str, name: str) -> Any:
    known = names_of(batch, kind)
    if name not in known:
        raise Cr2Error(f"batch: expected a column {name!r}, got {shown(known)}")
    return batch[name]


def texts(batch: Any, kind: str, name: str) -> list[Any]:
    """The values of a column of texts, or of chat messages."""
    column = _column(batch, kind, name)
    if kind == "polars":
        values = column.to_list()
    elif kind in ("table", "record batch"):
        values = column.to_pylist()
    else:
        values = list(column)
    return [str(v) if isinstance(v, np.str_) else v for v in values]


def counts(batch: Any, kind: str, name: str) -> npt.NDArray[np.float64]:
    """The values of a column of token counts, (N,)."""
    column = _column(batch, kind, name)
    values = column.to_pylist() if kind in ("table", "record batch") else column
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise Cr2Error(f"{name}: expected numbers of tokens, got {shown(values)}") from None


def matrices(batch: Any, kind: str, name: str, dim: int) -> Iterator[tuple[F32, Any]]:
    """Embeddings, chunk by chunk: a matrix (n, dim) and which of its rows are there (None: all)."""
    column = _column(batch, kind, name)
    if kind == "table":
        for chunk in column.chunks:
            if len(chunk):
                yield _of_arrow(chunk, name, dim)
    elif kind == "record batch":
        yield _of_arrow(column, name, dim)
    elif kind == "polars":
        yield _of_polars(column, name, dim)
    else:
        yield _of_arrays(column, name, dim)


def _of_arrow(array: Any, name: str, dim: int) -> tuple[F32, Any]:
    pa = require("pyarrow", "scale")
    if isinstance(array.type, pa.BaseExtensionType):  # Ray's tensors, among others.
        array = array.storage
    if pa.types.is_null(array.type):  # Of no row, or of none with an embedding.
        return _nothing(len(array), dim)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    listed = any(is_kind(array.type) for is_kind in kinds)
    if not listed or not pa.types.is_floating(array.type.value_type):
        raise Cr2Error(f"{name}: expected lists of float32, got {array.type}")
    there = None
    if array.null_count:
        there = array.is_valid().to_numpy(zero_copy_only=False)
        array = array.drop_null()
    if len(array):
        if pa.types.is_fixed_size_list(array.type):
            widths = {array.type.list_size}
        else:
            offsets = array.offsets.to_numpy()
            widths = set(np.unique(np.diff(offsets)).tolist())
        if widths != {dim}:
            raise _width(name, dim, widths)
    values = array.flatten()
    if values.null_count:
        raise Cr2Error(f"{name}: expected no nulls inside embeddings, got {values.null_count}")
    flat = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return _spread(flat.reshape(-1, dim), there)


def _of_polars(column: Any, name: str, dim: int) -> tuple[F32, Any]:
    pl = require("polars", "lab")
    if column.dtype == pl.Null:
        return _nothing(len(column), dim)
    if not isinstance(column.dtype, (pl.List, pl.Array)) or not column.dtype.inner.is_float():
        raise Cr2Error(f"{name}: expected lists of float32, got {column.dtype}")
    there = None
    if column.null_count():
        there = column.is_not_null().to_numpy()
        column = column.drop_nulls()
    if isinstance(column.dtype, pl.List):
        widths = set(column.list.len().unique().to_list())
    else:
        widths = {column.dtype.size} if len(column) else set()
    if widths - {dim}:
        raise _width(name, dim, widths)
    values = column.explode()
    if values.null_count():
        raise Cr2Error(f"{name}: expected no nulls inside embeddings, got {values.null_count()}")
    flat = values.to_numpy().astype(np.float32, copy=False)
    return _spread(flat.reshape(-1, dim), there)


def _of_arrays(column: Any, name: str, dim: int) -> tuple[F32, Any]:
    array = column if isinstance(column, np.ndarray) else None
    if array is None or array.dtype == object:
        values = list(column)
        if all(v is None for v in values):
            return _nothing(len(values), dim)
        there = np.array([v is not None for v in values])
        kept = [np.asarray(v) for v in values if v is not None]
        widths = {v.shape[0] if v.ndim == 1 else -1 for v in kept}
        if widths != {dim}:
            raise _width(name, dim, widths)
        array = np.stack(kept)
        if array.dtype.kind != "f":
            raise Cr2Error(f"{name}: expected float32 embeddings, got {array.dtype}")
        return _spread(array.astype(np.float32, copy=False), None if there.all() else there)
    if array.shape == (0,):
        return _nothing(0, dim)
    if array.dtype.kind != "f":
        raise Cr2Error(f"{name}: expected float32 embeddings, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != dim:
        raise _width(name, dim, {array.shape[1:] if array.ndim != 2 else array.shape[1]})
    return np.ascontiguousarray(array, dtype=np.float32), None


def _nothing(n: int, dim: int) -> tuple[F32, Any]:
    """Rows none of which has an embedding."""
    return np.zeros((n, dim), np.float32), np.zeros(n, bool) if n else None


def _spread(x: F32, there: Any) -> tuple[F32, Any]:
    """Rows that are there at their places among all; zeros elsewhere."""
    if there is None:
        return np.ascontiguousarray(x), None
    out = np.zeros((len(there), x.shape[1]), np.float32)
    out[there] = x
    return out, there


def _width(name: str, dim: int, got: set[Any]) -> WidthError:
    error = WidthError(
        f"{name}: expected embeddings of width {dim}, the router's, got "
        f"{shown(sorted(map(str, got)))}"
    )
    error.widths = frozenset(got)
    return error


def extended(batch: Any, kind: str, columns: Mapping[str, Any]) -> Any:
    """The batch with more columns: NumPy arrays, masked where a value is unknown; lists of text."""
    if clash := [name for name in columns if name in names_of(batch, kind)]:
        raise Cr2Error(
            f"batch: expected no column {clash[0]!r} yet, got one; rename it, or pass prefix="
        )
    if kind in ("table", "record batch"):
        pa = require("pyarrow", "scale")
        arrays = [
            pa.array(v.filled(0), mask=np.ma.getmaskarray(v))
            if isinstance(v, np.ma.MaskedArray)
            # Names are text also where there is none, in a batch without rows or without decisions.
            else pa.array(v, pa.string() if isinstance(v, list) else None)
            for v in columns.values()
        ]
        if kind == "table":
            for name, array in zip(columns, arrays, strict=True):
                batch = batch.append_column(name, array)
            return batch
        fields = [
            *batch.schema,
            *(pa.field(n, a.type) for n, a in zip(columns, arrays, strict=True)),
        ]
        return pa.RecordBatch.from_arrays(
            [*batch.columns, *arrays], schema=pa.schema(fields, batch.schema.metadata)
        )
    if kind == "polars":
        pl = require("polars", "lab")
        series = []
        for name, v in columns.items():
            data = np.ma.getdata(v) if isinstance(v, np.ndarray) else v
            one = pl.Series(name, data, dtype=pl.String if isinstance(v, list) else None)
            if isinstance(v, np.ma.MaskedArray):
                one = one.to_frame().select(
                    pl.when(pl.Series(~np.ma.getmaskarray(v))).then(pl.col(name)).alias(name)
                )[name]
            series.append(one)
        return batch.with_columns(series)
    plain = {name: _plain(v, kind) for name, v in columns.items()}
    return batch.assign(**plain) if kind == "pandas" else {**batch, **plain}


def _plain(values: Any, kind: str) -> Any:
    """A column without Arrow's nulls: NaN for a number that is unknown, text of a type of text."""
    if isinstance(values, np.ma.MaskedArray):
        return values.filled(np.nan)
    if not isinstance(values, list):
        return values
    if kind == "pandas":
        return sys.modules["pandas"].array(values, dtype="string")
    # NumPy's text has no null, and its objects no type: only where a name lacks they are taken.
    return np.asarray(values, dtype=object if None in values else np.str_)
