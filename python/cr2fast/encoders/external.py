"""Which files an ONNX graph keeps its weights in, besides its own.

In: the path of a model. Out: the locations that its tensors name, relative to the model's folder.

A tensor of more than 2 GB, or of any size at the exporter's choice, lives outside the model file
and is named there by ``TensorProto.external_data`` (key ``location``). Tensors stand in
initializers, sparse initializers, attributes of nodes (and so in subgraphs), functions and training
graphs. The protobuf is walked field by field with the table below, because the package `onnx` would
be heavy for one string: unknown fields are skipped, tensors' own bytes are not read, and nothing
recurses.
"""

from __future__ import annotations

import mmap
from pathlib import Path, PurePosixPath, PureWindowsPath

from cr2fast._core import Cr2Error

# Messages that lead to a tensor, from onnx.proto3: message -> field number -> message within.
_WITHIN = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "Sparse",
        23: "Sparse",
    },
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
# An encoder of thousands of nodes has a hundred thousand.
MAX_FIELDS = 5_000_000
MAX_FILES = 10_000
_FIXED = {1: 8, 5: 4}


def external_files(model: Path) -> list[str]:
    """Locations of a model's external weights, sorted, each once; none of a model in one file.

    Parameters
    ----------
    model : Path

    Returns
    -------
    list of str
        Paths relative to the model's folder, and inside it.

    Raises
    ------
    Cr2Error
        A file that is no protobuf; a location outside the model's folder.
    """
    with model.open("rb") as file:
        if not file.seek(0, 2):
            return []  # Not a model; and an empty file cannot be mapped.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # Most models name none, and are not walked.
            found = _locations(data, model) if data.find(b"location") >= 0 else set()
    return sorted({_inside(raw, model) for raw in found})


def _locations(data: mmap.mmap, model: Path) -> set[bytes]:
    found: set[bytes] = set()
    todo, fields = [("Model", 0, len(data))], 0
    while todo:
        kind, at, end = todo.pop()
        within = _WITHIN[kind]
        key = value = b""
        while at < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise _damaged(model, f"more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at, end, model)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                _, at = _varint(data, at, end, model)
                continue
            if wire == 2:
                size, at = _varint(data, at, end, model)
            elif wire in _FIXED:
                size = _FIXED[wire]
            else:
                raise _damaged(model, f"a field of wire type {wire} at byte {at}")
            if number == 0 or size > end - at:
                raise _damaged(model, f"field {number} of {size} bytes, {end - at} of them there")
            if wire == 2:
                if number in within:
                    todo.append((within[number], at, at + size))
                elif kind == "Entry" and number == 1:
                    key = data[at : at + min(size, 64)]
                elif kind == "Entry" and number == 2:
                    value = data[at : at + min(size, 4097)]
            at += size
        # Where the tensor's data_location says otherwise the file is not read; it is hashed anyhow.
        if key == b"location":
            found.add(value)
            if len(found) > MAX_FILES:
                raise _damaged(model, f"more than {MAX_FILES} files of weights")
    return found


def _varint(data: mmap.mmap, at: int, end: int, model: Path) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _damaged(model, f"a number without an end at byte {at}")


def _inside(raw: bytes, model: Path) -> str:
    """A location that stays in the model's folder, whatever the system's separators."""
    text = raw.decode(errors="backslashreplace")
    windows = PureWindowsPath(text)
    leaves = windows.drive or windows.root or ".." in windows.parts or "\0" in text
    # No name at all, or one too long for a file.
    if leaves or not PurePosixPath(text).name or len(raw) > 4096:
        raise Cr2Error(
            f"encoder: expected external weights inside the folder of {model}, got the location "
            f"{text[:120]!r}; export the model again with a plain file name"
        )
    return str(PurePosixPath(text))


def _damaged(model: Path, got: str) -> Cr2Error:
    return Cr2Error(f"encoder: expected an ONNX model in {model}, got {got}")
