"""Embeddings beside texts: of the encoder that is named, and of their own rows, or an error."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast import Cr2Error, QueryTable
from cr2fast.data.belonging import check_texts
from testing.letters import LETTERS, letters

D, N = 12, 300
ENCODER = letters(D)
TEXTS = [" ".join(np.random.default_rng(i).choice(list(LETTERS), 1 + i % 9)) for i in range(N)]


class Slow:
    """The same encoder, as one that is no table: only a sample is asked."""

    info, asked = ENCODER.info, 0

    def encode(self, texts, threads=1):
        Slow.asked += len(texts)
        return ENCODER.encode(texts)

    def count_tokens(self, text):
        return ENCODER.count_tokens(text)


class Told(Slow):
    """One that says what it reads at most."""

    max_tokens = ENCODER.max_tokens


class Blank:
    """Knows no token of any text."""

    info = ENCODER.info

    def encode(self, texts, threads=1):
        return np.zeros((len(texts), D), np.float32)


def frame(texts, **columns):
    named = {"query_id": [f"q{i}" for i in range(N)], "text": texts}
    return pl.DataFrame(named | {"embedding": ENCODER.encode(TEXTS), "n_input_tokens": 3} | columns)


def test_a_text_of_another_row_is_named():
    read = QueryTable.read(frame(TEXTS), encoder=ENCODER, progress=False)
    assert read.embeddings.tolist() == ENCODER.encode(TEXTS).tolist()
    swapped = list(TEXTS)
    swapped[7], swapped[11] = swapped[11], swapped[7]
    with pytest.raises(Cr2Error, match=r"encoder: .* 'q7' \(2 such rows of 300 .*embed=True"):
        QueryTable.read(frame(swapped), encoder=ENCODER, progress=False)
    # Rows without a text say nothing, and a name is taken at its word.
    swapped[7] = swapped[11] = None
    assert len(QueryTable.read(frame(swapped), encoder=ENCODER, progress=False)) == N
    shifted = [*TEXTS[1:], TEXTS[0]]
    assert len(QueryTable.read(frame(shifted), encoder=ENCODER.info, progress=False)) == N
    # Embedded anew, they belong together.
    anew = QueryTable.read(frame(shifted), encoder=ENCODER, embed=True, progress=False)
    assert anew.embeddings.tolist() == ENCODER.encode(shifted).tolist()


def test_of_an_encoder_that_takes_its_time_a_sample_is_asked():
    shifted = [*TEXTS[1:], TEXTS[0]]
    Slow.asked = 0
    QueryTable.read(frame(TEXTS), encoder=Slow(), progress=False)
    assert Slow.asked == 32
    with pytest.raises(Cr2Error, match=r"'q0' \(\d+ such rows of 32 compared\)"):
        QueryTable.read(frame(shifted), encoder=Slow(), progress=False)


def test_a_routing_table_is_checked_too(tmp_path):
    made = cr2fast.datasets.make_routing_problem(n=N, d=D, models=2, seed=0)
    outcomes = pl.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(N) for _ in range(2)],
            "model": ["device-s", "edge-1"] * N,
            "correct": made.table.correct.ravel(),
            "n_output_tokens": made.table.n_output_tokens.ravel(),
        }
    )
    models = {"local": "device-s", "edge": ["edge-1"], "progress": False}
    good = cr2fast.RoutingTable.read(frame(TEXTS), outcomes, encoder=ENCODER, **models)
    assert len(good) == N
    with pytest.raises(Cr2Error, match="belongs to another text, or is of another encoder"):
        cr2fast.RoutingTable.read(frame(TEXTS[::-1]), outcomes, encoder=ENCODER, **models)
    other = letters(D + 1)
    with pytest.raises(Cr2Error, match=f"which have {D} numbers, got letters, .* have {D + 1}"):
        cr2fast.RoutingTable.read(frame(TEXTS), outcomes, encoder=other, **models)


def test_lengths_do_not_matter_and_a_text_without_a_direction_says_nothing():
    x = ENCODER.encode(TEXTS)
    ids = [str(i) for i in range(N)]
    check_texts(TEXTS, 3 * x, ids, ENCODER, "x", "y")
    check_texts(TEXTS, x, ids, Blank(), "x", "y")
    check_texts([None] * N, x, ids, ENCODER, "x", "y")
    with pytest.raises(Cr2Error, match="cosine -1.000 with its text's for '0'"):
        check_texts(TEXTS, -x, ids, ENCODER, "x", "y")
    with pytest.raises(Cr2Error, match="cosine 0.000"):
        check_texts(TEXTS, 0 * x, ids, ENCODER, "x", "y")


def test_a_text_longer_than_the_encoder_reads_says_nothing():
    # Embeddings may have been made with another cut of long texts, as MMLU-Pro's were.
    x, ids = ENCODER.encode(TEXTS), [str(i) for i in range(N)]
    most = ENCODER.max_tokens - 2
    for texts in ([*TEXTS[:-1], "b " * (most + 1)], ["a " * (most + 1), *TEXTS[1:]]):
        check_texts(texts, x, ids, ENCODER, "x", "y")
        check_texts(texts, x, ids, Told(), "x", "y")
    with pytest.raises(Cr2Error, match=r"'299' \(1 such rows of 300 compared\)"):
        check_texts([*TEXTS[:-1], "b " * most], x, ids, ENCODER, "x", "y")
    with pytest.raises(Cr2Error, match=r"'0' \(1 such rows of 299 compared\)"):
        check_texts(["b", "b " * 65, *TEXTS[2:]], x, ids, ENCODER, "x", "y")
    # A sample is of the rows that tell, however few.
    swapped = ["a " * (most + 1)] * (N - 2) + [TEXTS[-1], TEXTS[-2]]
    with pytest.raises(Cr2Error, match=r"'298' \(2 such rows of 2 compared\)"):
        check_texts(swapped, x, ids, Told(), "x", "y")


def test_mmlu_pro_is_read_with_its_own_encoder(data_dir):
    encoder = cr2fast.Encoder.load("minilm", cache=0)
    read = cr2fast.datasets.load_folder(data_dir, None, encoder, progress=False)
    table = read.table
    assert len(table) == 12_032
    assert table.encoder.sha256 == encoder.info.sha256
    x, ids, texts = table.embeddings, table.query_ids, table.extra["text"]
    with pytest.raises(Cr2Error, match=r"3[12] such rows of 32 compared"):
        check_texts([*texts[1:], texts[0]], x, ids, encoder, "encoder", "y")
