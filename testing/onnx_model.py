"""ONNX files written by hand: protobuf's wire format is lengths and numbers."""

from __future__ import annotations

import numpy as np


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | str | int) -> bytes:
    """One field: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(key: str, value: str) -> bytes:
    """One `external_data` of a tensor."""
    return field(13, field(1, key) + field(2, value))


def tensor(name: str, array: np.ndarray, location: str | None = None) -> bytes:
    """A TensorProto; its bytes are in the file `location`, where one is given."""
    kind = {"float32": 1, "int64": 7}[array.dtype.name]
    out = b"".join(field(1, n) for n in array.shape) + field(2, kind) + field(8, name)
    if location is None:
        return out + field(9, array.tobytes())
    return out + entry("location", location) + entry("offset", "0") + field(14, 1)


def node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    """A NodeProto; `attributes` are fields of it."""
    names = b"".join(field(1, i) for i in inputs)
    return names + field(2, output) + field(3, output) + field(4, kind) + attributes


def value(name: str, kind: int, shape: list[int | str]) -> bytes:
    """A ValueInfoProto."""
    dims = b"".join(field(1, field(1 if isinstance(n, int) else 2, n)) for n in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


def model(graph: bytes, rest: bytes = b"") -> bytes:
    """A ModelProto of opset 14."""
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 14)) + rest


def sums_of_rows(table: np.ndarray, location: str | None = None) -> bytes:
    """An encoder whose t-th hidden state is the sum of the table's rows of tokens 0 to t.

    With a `location` the table is to be written to that file beside the model, as its bytes.
    """
    d = table.shape[1]
    nodes = [
        node("Gather", ["table", "input_ids"], "rows"),
        node("CumSum", ["rows", "axis"], "out"),
    ]
    return model(
        b"".join(field(1, n) for n in nodes)
        + field(2, "graph")
        + field(5, tensor("table", table, location))
        + field(5, tensor("axis", np.array(1)))
        + field(11, value("input_ids", 7, ["b", "t"]))
        + field(12, value("out", 1, ["b", "t", d]))
    )
