"""fetch_mmlu_pro against a local server: what it makes, what it keeps, what it refuses."""

from __future__ import annotations

import functools
import http.server
import json
import sqlite3
import threading
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import cr2fast
from cr2fast.data import embedding
from cr2fast.datasets import fetch_mmlu_pro, load_folder


class Counting:
    """An encoder that counts its calls, with MiniLM's tokenizer."""

    dim = 3

    def __init__(self, real):
        self.info, self.count_tokens, self.calls = real.info, real.count_tokens, 0

    def encode(self, texts, threads=1):
        self.calls += 1
        return np.array([[len(t), t.count("a"), 1] for t in texts], dtype=np.float32)


@pytest.fixture(scope="module")
def minilm():
    return cr2fast.Encoder.load("minilm", truncation="head")


@pytest.fixture
def serve():
    """Start a server on a folder; returns its address and the list of requests."""
    servers = []

    def start(folder):
        requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                requests.append(self.path)

        handler = functools.partial(Handler, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def made_up(folder, name, rows):
    """A small answer file; returns its SHA-256."""
    path = folder / f"model_outputs_{name}_5shots.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.json", json.dumps(rows))
    return sha256(path.read_bytes()).hexdigest()


def row(number, **changes):
    plain = {"question_id": number, "question": f"Question {number}?", "options": ["yes", "no"]}
    answer = {"answer": "A", "pred": "A", "category": "math", "generated_text": "It is A."}
    return plain | answer | changes


def test_the_real_files_give_the_published_table(data_dir, serve, minilm, tmp_path):
    """All 12,032 questions; embeddings of sixty of them, the rest would take minutes."""
    address, _ = serve(Path(data_dir) / "mmlu_pro_raw")
    fake = Counting(minilm)
    table = fetch_mmlu_pro(fake, cache=tmp_path, base_url=address, progress=False)
    expected = load_folder(data_dir).table
    assert table.models == expected.models
    where = {q: i for i, q in enumerate(expected.query_ids)}
    expected = expected.take([where[q] for q in table.query_ids])
    assert len(table) == len(where) == 12_032
    assert table.extra["text"] == expected.extra["text"]
    assert table.categories == expected.categories
    np.testing.assert_array_equal(table.correct, expected.correct)
    # As published, where a word that the vocabulary lacks is one token; here it counts by its bytes.
    for counted, published, changed in [
        (table.n_input_tokens, expected.n_input_tokens, 43),
        (table.n_output_tokens, expected.n_output_tokens, 128),
    ]:
        assert (counted >= published).all()
        assert (counted > published).sum() == changed
    some = np.random.default_rng(0).choice(len(table), 60, replace=False)
    vectors = minilm.encode([table.extra["text"][i] for i in some])
    # int8 kernels differ between processors.
    assert (vectors * expected.embeddings[some]).sum(axis=1).min() > 0.99


def test_nothing_is_done_twice_and_an_interrupted_run_goes_on(serve, minilm, tmp_path):
    site, cache = tmp_path / "site", tmp_path / "cache"
    site.mkdir()
    rows = [row(i) for i in range(embedding.CHUNK + 10)]
    hashes = {m: made_up(site, m, rows) for m in ("a", "b")}
    address, requests = serve(site)
    options = {"cache": cache, "hashes": hashes, "base_url": address, "progress": False}
    fake = Counting(minilm)
    first = fetch_mmlu_pro(fake, ["a", "b"], **options)
    assert (len(requests), fake.calls) == (2, 2)
    again = fetch_mmlu_pro(fake, ["a", "b"], **options)
    assert (len(requests), fake.calls) == (2, 2)
    np.testing.assert_array_equal(first.embeddings, again.embeddings)

    (kept,) = cache.rglob("*.sqlite")
    with sqlite3.connect(kept) as database:
        database.execute("DELETE FROM embeddings WHERE key IN (SELECT min(key) FROM embeddings)")
    database.close()
    (cache / "model_outputs_b_5shots.zip").unlink()
    third = fetch_mmlu_pro(fake, ["a", "b"], **options)
    assert (len(requests), fake.calls) == (3, 3)
    np.testing.assert_array_equal(first.embeddings, third.embeddings)


def test_a_damaged_cache_is_made_anew(serve, minilm, tmp_path):
    site, cache = tmp_path / "site", tmp_path / "cache"
    site.mkdir()
    hashes = {m: made_up(site, m, [row(1), row(2)]) for m in ("a", "b")}
    address, _ = serve(site)
    options = {"cache": cache, "hashes": hashes, "base_url": address, "progress": False}
    first = fetch_mmlu_pro(Counting(minilm), ["a", "b"], **options)
    (kept,) = cache.rglob("*.sqlite")
    for bad in (b"", b"SQLite format 3\0 damaged", kept.read_bytes()[:-900]):
        kept.write_bytes(bad)
        fake = Counting(minilm)
        again = fetch_mmlu_pro(fake, ["a", "b"], **options)
        assert fake.calls == 1
        np.testing.assert_array_equal(first.embeddings, again.embeddings)


def test_answers_are_counted_as_published(serve, minilm, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    hashes = {
        "a": made_up(site, "a", [row(2), row(10, pred=None), row(1, pred="B")]),
        "b": made_up(site, "b", [row(1), row(2, generated_text=""), row(10)]),
    }
    options = {"cache": tmp_path, "hashes": hashes, "base_url": serve(site)[0], "progress": False}
    table = fetch_mmlu_pro(Counting(minilm), ["a", "b"], **options)
    assert table.query_ids == ("mmlu_pro/1", "mmlu_pro/2", "mmlu_pro/10")
    np.testing.assert_array_equal(table.correct, [[False, True], [True, True], [False, True]])
    assert table.extra["text"][0] == "Question 1?\nA. yes\nB. no"
    assert table.n_output_tokens[1].tolist() == [4, 0]
    assert table.encoder == minilm.info


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(1), row(3)], "b: expected answers to the same 2 questions as a"),
        ([{"question_id": 1}], "expected a published answer file, got KeyError"),
        ("text", "expected a published answer file"),
        ([row(1), row(1)], "a question that is there twice"),
        ([row("one"), row(2)], "expected a published answer file, got ValueError"),
        ([row(1, generated_text=None), row(2)], "an answer that is no text"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(serve, minilm, tmp_path, rows, words):
    site = tmp_path / "site"
    site.mkdir()
    hashes = {"a": made_up(site, "a", [row(1), row(2)]), "b": made_up(site, "b", rows)}
    options = {"cache": tmp_path, "hashes": hashes, "base_url": serve(site)[0], "progress": False}
    with pytest.raises(cr2fast.Cr2Error, match=words):
        fetch_mmlu_pro(Counting(minilm), ["a", "b"], **options)


def test_a_wrong_hash_a_missing_file_and_a_dead_network_are_said(serve, minilm, tmp_path):
    site, cache = tmp_path / "site", tmp_path / "cache"
    site.mkdir()
    made_up(site, "a", [row(1)])
    address, _ = serve(site)
    fake = Counting(minilm)
    options = {"cache": cache, "hashes": {"a": "0" * 64, "b": "1" * 64}, "progress": False}
    with pytest.raises(cr2fast.Cr2Error, match="expected the file with sha256 0000"):
        fetch_mmlu_pro(fake, ["a", "b"], base_url=address, **options)
    assert not list(cache.glob("*.zip"))
    with pytest.raises(cr2fast.Cr2Error, match="404"):
        fetch_mmlu_pro(fake, ["b", "a"], base_url=address, **options)
    with pytest.raises(cr2fast.Cr2Error, match="from http://127.0.0.1:9/model_outputs_a"):
        fetch_mmlu_pro(fake, ["a", "b"], base_url="http://127.0.0.1:9", **options)
    assert fake.calls == 0


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["Phi-3-mini-4k-instruct"], "two or more"),
        (["mathstral-7B"] * 2, "two or more"),
        ("mathstral-7B", "two or more"),
        (["mathstral-7B", "gpt-9"], r"known SHA-256 .* got \['gpt-9'\]"),
    ],
)
def test_models_without_a_known_hash_are_refused(minilm, models, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        fetch_mmlu_pro(minilm, models)
