"""What several commands share: how their arguments name data, encoders and files.

In: parsed arguments. Out: tables, encoders, checked paths; or an error in the words of the flags.
Heavy imports are inside: ``cr2fast route`` on a device must need only numpy.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cr2fast._core import Cr2Error
from cr2fast._util.checks import explained

UNKNOWN_HASH = "its files are not known, so encoders are compared by name only"


def problem(args: argparse.Namespace) -> Any:
    """Table and costs of ``--data``, with the encoder that ``--encoder`` names."""
    from cr2fast.data.datasets import load_folder
    from cr2fast.encoders.info import EncoderInfo

    if args.embed and not args.encoder:
        raise Cr2Error("--embed needs --encoder SOURCE, the encoder to embed the texts with")
    if not args.encoder:
        return load_folder(args.data, args.costs, EncoderInfo(args.encoder_id or "unknown"))
    source = encoder(args.encoder)
    found = load_folder(args.data, args.costs, source.info)
    if args.embed:
        return replace(found, table=found.table.embed(source))
    _check_embeddings(found.table, source)
    return found


def encoder(source: str) -> Any:
    """A static encoder of a file, or an encoder of a folder or of a name."""
    from cr2fast._core import StaticEncoder

    if Path(source).is_file():
        return StaticEncoder.load(source)
    from cr2fast.encoders.onnx import Encoder

    return Encoder.load(source)


def _check_embeddings(table: Any, source: Any) -> None:
    """Refuse to record an encoder that did not make the embeddings, as far as texts can tell."""
    if "text" not in table.extra:
        return
    for i in np.linspace(0, len(table) - 1, 16).astype(int).tolist():
        x = table.embeddings[i]
        made = source.encode(table.extra["text"][i])
        cosine = float(x @ made / np.linalg.norm(x)) if x.shape == made.shape else np.nan
        if not cosine > 0.99:
            raise Cr2Error(
                f"--encoder: expected the one behind the embeddings, got {source.info.id}, whose "
                f"vector of {table.query_ids[i]} has cosine {cosine:.3f} with the table's; pass "
                f"--embed to embed the texts anew"
            )


def part(args: argparse.Namespace, table: Any, index: int) -> Any:
    """The part of the data that a command may see: training, calibration or test."""
    if len(args.split) != 3:
        raise Cr2Error(f"--split: expected three fractions, got {len(args.split)}")
    return table.split(args.split, args.split_seed)[index]


def hyperparameters(args: argparse.Namespace) -> dict[str, Any]:
    """Options of a fit that were given."""
    names = ("teacher_epochs", "gate_epochs")
    return {n: getattr(args, n) for n in names if getattr(args, n) is not None}


def writable(path: Path) -> None:
    """Refuse, before long work, an output that cannot be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"--out: expected a file in an existing folder, got {path}")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise PermissionError(f"--out: expected a file that can be written, got {path}")
    if path.exists() and not path.is_file():
        raise Cr2Error(f"--out: expected a regular file, got {path}, a pipe, socket or device")


def writable_folder(flag: str, path: Path) -> None:
    """Refuse, before long work, a folder that cannot be made or written to."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(f"{flag}: expected a folder that can be written, got {path}")


def progress(args: argparse.Namespace) -> Any:
    """How to show progress: bars on a terminal, a line now and then elsewhere; none with --json."""
    if args.json:
        return False
    return True if sys.stderr.isatty() else "lines"


def embeddings(path: Path) -> np.ndarray[Any, Any]:
    """(N, d) of a .npy file; anything else in it is refused."""
    try:
        with path.open("rb") as file:
            x = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise Cr2Error(
            f"--embeddings: expected a .npy file, got {path}: {explained(error)}"
        ) from error
    if x.ndim not in (1, 2):
        raise Cr2Error(f"--embeddings: expected shape (N, d) or (d,), got {x.shape}")
    return np.atleast_2d(x)


def say(args: argparse.Namespace, text: str) -> None:
    """Text for people, on stdout; none where stdout carries the same as JSON."""
    if not args.json:
        print(text, flush=True)


def note(args: argparse.Namespace, text: str) -> None:
    """What no document says and people must know: beside the JSON, on stderr."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)
