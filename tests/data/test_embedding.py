"""The cache of embeddings: each text once, and nothing damaged is ever believed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast.data import embedding
from cr2fast.data.embedding import embed

TEXTS = [f"text {i}" for i in range(600)]
NAME = "ab" * 32


class Hashing:
    """An encoder that counts what it embeds."""

    dim = 4

    def __init__(self, sha256=NAME):
        self.info = cr2fast.EncoderInfo("hashing", sha256)
        self.seen = []

    def encode(self, texts, threads=1):
        self.seen += texts
        rows = [[sum(t.encode()), len(t), t.count("1"), 1] for t in texts]
        return np.array(rows, dtype=np.float32)


def made(texts):
    return Hashing().encode(list(texts))


def database(folder):
    return folder / "embeddings" / f"{NAME}.sqlite"


def test_each_text_is_embedded_once_ever(tmp_path):
    first = Hashing()
    x = embed(first, [*TEXTS, *TEXTS[:5]], cache=tmp_path)
    np.testing.assert_array_equal(x, made([*TEXTS, *TEXTS[:5]]))
    assert first.seen == TEXTS
    again = Hashing()
    np.testing.assert_array_equal(
        embed(again, [*TEXTS[::-1], "new"], cache=str(tmp_path)), made([*TEXTS[::-1], "new"])
    )
    assert again.seen == ["new"]
    other = Hashing("cd" * 32)
    embed(other, TEXTS[:3], cache=tmp_path)
    assert other.seen == TEXTS[:3]


def test_without_a_cache_or_a_fingerprint_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CR2FAST_CACHE", str(tmp_path))
    for encoder, cache in ((Hashing(), False), (Hashing(""), True), (Hashing("../" * 22), True)):
        embed(encoder, TEXTS[:3], cache=cache)
        embed(encoder, TEXTS[:3], cache=cache)
        assert encoder.seen == TEXTS[:3] * 2
    assert list(tmp_path.iterdir()) == []
    embed(Hashing(), TEXTS[:3])
    assert database(tmp_path).is_file()


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("CR2FAST_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert embedding.cache_folder() == tmp_path / "cr2fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedding.cache_folder() == Path.home() / ".cache" / "cr2fast"


def forge(path, change):
    with sqlite3.connect(path) as db:
        rows = list(db.execute("SELECT key, vector FROM embeddings"))
        for key, vector in rows:
            db.execute("UPDATE embeddings SET vector = ? WHERE key = ?", (change(vector), key))
    db.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[:-1],
        lambda v: v + b"\0",
        lambda v: b"",
        lambda v: bytes([v[0] ^ 1]) + v[1:],
        lambda v: np.float32([np.nan] * 4).tobytes() + v[16:],
        lambda v: "text",
        lambda v: 7,
        lambda v: None,
    ],
)
def test_forged_entries_are_embedded_anew(tmp_path, change):
    embed(Hashing(), TEXTS[:4], cache=tmp_path)
    forge(database(tmp_path), change)
    encoder = Hashing()
    np.testing.assert_array_equal(embed(encoder, TEXTS[:4], cache=tmp_path), made(TEXTS[:4]))
    assert encoder.seen == TEXTS[:4]
    embed(again := Hashing(), TEXTS[:4], cache=tmp_path)
    assert again.seen == []


def test_entries_do_not_change_places(tmp_path):
    embed(Hashing(), TEXTS[:2], cache=tmp_path)
    with sqlite3.connect(database(tmp_path)) as db:
        (a, x), (b, y) = db.execute("SELECT key, vector FROM embeddings").fetchall()
        db.execute("UPDATE embeddings SET vector = ? WHERE key = ?", (y, a))
        db.execute("UPDATE embeddings SET vector = ? WHERE key = ?", (x, b))
    db.close()
    np.testing.assert_array_equal(embed(Hashing(), TEXTS[:2], cache=tmp_path), made(TEXTS[:2]))


@pytest.mark.parametrize(
    "content", [b"", b"no database at all, but long enough for its header" * 20]
)
@pytest.mark.parametrize("truncated", [False, True])
def test_a_file_that_is_no_database_is_begun_anew(tmp_path, content, truncated):
    embed(Hashing(), TEXTS, cache=tmp_path)
    path = database(tmp_path)
    path.write_bytes(path.read_bytes()[: 4096 + 100] if truncated else content)
    np.testing.assert_array_equal(embed(Hashing(), TEXTS, cache=tmp_path), made(TEXTS))
    embed(again := Hashing(), TEXTS, cache=tmp_path)
    assert again.seen == []


def test_another_table_of_that_name_is_no_cache(tmp_path):
    path = database(tmp_path)
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE embeddings (a, b)")
    db.close()
    with pytest.warns(UserWarning, match="embeddings are not kept: the cache .* cannot be used"):
        x = embed(Hashing(), TEXTS[:2], cache=tmp_path)
    np.testing.assert_array_equal(x, made(TEXTS[:2]))


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="set CR2FAST_CACHE to another folder") as caught:
        x = embed(Hashing(), TEXTS, cache=tmp_path / "file")
    np.testing.assert_array_equal(x, made(TEXTS))
    assert len(caught) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_costs_only_the_cache(tmp_path, monkeypatch):
    real = sqlite3.connect

    def small(*args, **options):
        db = real(*args, **options)
        db.execute("PRAGMA max_page_count = 3")  # SQLITE_FULL, as of a full disk.
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.warns(UserWarning, match="embeddings are not kept.*full"):
        x = embed(Hashing(), TEXTS, cache=tmp_path)
    np.testing.assert_array_equal(x, made(TEXTS))


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    class Stops(Hashing):
        def encode(self, texts, threads=1):
            if len(self.seen) >= embedding.CHUNK:
                raise KeyboardInterrupt
            return super().encode(texts, threads)

    with pytest.raises(KeyboardInterrupt):
        embed(Stops(), TEXTS, cache=tmp_path)
    embed(again := Hashing(), TEXTS, cache=tmp_path)
    assert again.seen == TEXTS[embedding.CHUNK :]


WRITER = """
import runpy, sys
here = runpy.run_path(sys.argv[1])
Hashing, TEXTS, embed, made = (here[n] for n in ("Hashing", "TEXTS", "embed", "made"))
turn = int(sys.argv[3])
texts = TEXTS[turn * 50:] + TEXTS[:turn * 50]
assert (embed(Hashing(), texts, cache=sys.argv[2]) == made(texts)).all()
"""


def test_writers_at_once(tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, __file__, str(tmp_path), str(i)],
            env=dict(os.environ),
        )
        for i in range(4)
    ]
    assert [c.wait(timeout=120) for c in children] == [0] * 4
    embed(again := Hashing(), TEXTS, cache=tmp_path)
    assert again.seen == []
