"""Texts to embeddings, each text once ever: what was embedded before comes from a file.

In: an encoder and texts. Out: (N, d) float32, in order. The cache is an SQLite database per encoder
fingerprint, keyed by a hash of the text, which many processes may read and write at once. Each
entry has a checksum over key and vector, so a damaged one is embedded anew; where the cache cannot
be used (a full disk, no permission, a file that is none), embedding goes on without it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cr2fast._core import Cr2Error, StaticEncoder
from cr2fast._util.checks import explained
from cr2fast._util.progress import Shows, item_bar

if TYPE_CHECKING:
    import sqlite3

F32 = npt.NDArray[np.float32]
Cache = bool | str | Path
# Texts that are embedded between two writes: an interrupted run keeps all but the last of these.
CHUNK = 256
# Keys of one question to the database, which has a limit on them.
_KEYS = 500
# Seconds to wait for another process that writes.
_PATIENCE_S = 30.0
_CHECK = 8
_TABLE = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID"


def cache_folder() -> Path:
    """Where embeddings are kept: CR2FAST_CACHE, else the system's cache folder."""
    if given := os.environ.get("CR2FAST_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cr2fast"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "cr2fast"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cr2fast"


def embed(
    encoder: Any,
    texts: Sequence[str],
    *,
    cache: Cache = True,
    threads: int = 0,
    progress: Shows = True,
) -> F32:
    """Embed texts, each different one once, those known from the cache not at all.

    Parameters
    ----------
    encoder : Encoder or StaticEncoder
    texts : sequence of str, (N,)
    cache : bool or path
        Whether to keep embeddings on disk, or the folder to keep them in; by default the one of
        :func:`cache_folder`. An encoder without a fingerprint, or one that is quicker than a disk
        (static), has no cache.
    threads : int
        How many texts to embed at once; 0: one per core.
    progress : bool or "lines"

    Returns
    -------
    ndarray of float32, (N, d)
    """
    distinct = list(dict.fromkeys(texts))
    keys = [blake2b(t.encode("utf-8", "surrogatepass"), digest_size=32).digest() for t in distinct]
    kept = _Kept(encoder, cache) if cache is not False and _is_kept(encoder) else None
    known = {} if kept is None else kept.get(keys)
    missing = [i for i, key in enumerate(keys) if key not in known]
    with item_bar(progress if missing else False, "embedding", len(missing)) as update:
        for start in range(0, len(missing), CHUNK):
            rows = missing[start : start + CHUNK]
            made = encoder.encode([distinct[i] for i in rows], threads)
            if made.shape[0] != len(rows) or made.dtype != np.float32:
                raise Cr2Error(
                    f"encoder: expected ({len(rows)}, d) float32, got {made.dtype} {made.shape}"
                )
            chunk = {keys[i]: row for i, row in zip(rows, made, strict=True)}
            known.update(chunk)
            if kept is not None:
                kept.put(chunk)
            update(len(rows))
    place = {text: known[key] for text, key in zip(distinct, keys, strict=True)}
    return np.stack([place[t] for t in texts])


def _name(encoder: Any) -> str:
    """What a cache knows an encoder by: an endpoint's is its own, since no file has a hash."""
    return str(getattr(encoder, "cache_id", encoder.info.sha256))


def _is_kept(encoder: Any) -> bool:
    """Whether its embeddings are worth a file, and its fingerprint, a SHA-256 in hex, is a name."""
    name = _name(encoder)
    return len(name) == 64 and name.isalnum() and not isinstance(encoder, StaticEncoder)


class _Kept:
    """The cache of one encoder; every trouble with it is said once, and then it holds nothing."""

    def __init__(self, encoder: Any, cache: Cache) -> None:
        folder = cache_folder() if cache is True else Path(str(cache))
        self._fingerprint = _name(encoder).encode()
        self._dim = int(encoder.dim)
        self._path = folder / "embeddings" / f"{_name(encoder)}.sqlite"
        self._works = self._tried(lambda _: True) is True

    def _tried(self, do: Callable[[sqlite3.Connection], Any], again: bool = True) -> Any:
        """What `do` makes of the database, or None where there is none to be had."""
        try:
            import sqlite3
        except ImportError:  # Some builds of Python lack it.
            return None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_PATIENCE_S)) as database, database:
                database.execute(_TABLE)
                return do(database)
        except (sqlite3.Error, OSError) as error:
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, sqlite3.OperationalError
            )
            if damaged and again:
                # Not a database, or a broken one: a cache can be begun anew.
                try:
                    self._path.unlink(missing_ok=True)
                except OSError:
                    again = False
                else:
                    return self._tried(do, again=False)
            self._works = False
            warnings.warn(
                f"embeddings are not kept: the cache {self._path} cannot be used "
                f"({explained(error)}); set CR2FAST_CACHE to another folder",
                stacklevel=4,
            )
            return None

    def _check(self, key: bytes, vector: bytes) -> bytes:
        return blake2b(key + vector, digest_size=_CHECK, key=self._fingerprint[:64]).digest()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, F32]:
        """Whole vectors of these keys."""
        if not self._works:
            return {}
        found = self._tried(lambda database: list(self._rows(database, keys))) or []
        size = 4 * self._dim + _CHECK
        known = {}
        for key, entry in found:
            if isinstance(entry, bytes) and len(entry) == size:
                vector, check = entry[:-_CHECK], entry[-_CHECK:]
                if check == self._check(bytes(key), vector):
                    row = np.frombuffer(vector, dtype="<f4").astype(np.float32)
                    if np.isfinite(row).all():
                        known[bytes(key)] = row
        return known

    @staticmethod
    def _rows(database: sqlite3.Connection, keys: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
        for start in range(0, len(keys), _KEYS):
            some = keys[start : start + _KEYS]
            marks = ",".join("?" * len(some))
            yield from database.execute(
                f"SELECT key, vector FROM embeddings WHERE key IN ({marks})", some
            )

    def put(self, vectors: dict[bytes, F32]) -> None:
        """Keep these; all of them or none."""
        if not self._works:
            return
        entries = []
        for key, row in vectors.items():
            vector = row.astype("<f4").tobytes()
            entries.append((key, vector + self._check(key, vector)))
        self._tried(
            lambda database: database.executemany(
                "INSERT OR REPLACE INTO embeddings VALUES (?, ?)", entries
            )
        )
