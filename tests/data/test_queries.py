"""QueryTable: prompts or embeddings without answers, from whatever people have."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast import QueryTable
from testing.encoders import Counts

TEXTS = ["Who wrote Hamlet?", "What is 2 + 2?", "Name a prime."]
ASKED = pl.DataFrame(
    {
        "query_id": ["a", "b", "c"],
        "prompt": TEXTS,
        "prompt_tokens": [4, 5, 3],
        "embedding": [[0.25, 0.5], [0.75, 1.0], [1.25, 1.5]],
        "note": [1, 2, 3],
    }
)


def test_usual_names_are_found_and_other_columns_kept():
    t = QueryTable.read(ASKED)
    assert t.query_ids == ("a", "b", "c")
    assert t.n_input_tokens.tolist() == [4, 5, 3]
    np.testing.assert_array_equal(t.embeddings, np.float32([[0.25, 0.5], [0.75, 1], [1.25, 1.5]]))
    assert t.extra == {"note": [1, 2, 3], "text": TEXTS}
    assert repr(t) == "QueryTable(3 queries, d=2)"
    renamed = ASKED.rename({"prompt": "said", "prompt_tokens": "n"})
    with pytest.raises(
        cr2fast.Cr2Error,
        match=r"column for n_input_tokens, tried .*prompt_tokens.*the table has .*'said'",
    ):
        QueryTable.read(renamed)
    again = QueryTable.read(renamed, columns={"text": "said", "n_input_tokens": "n"})
    assert again.extra["text"] == TEXTS
    assert again.n_input_tokens.tolist() == [4, 5, 3]


def test_an_encoder_embeds_and_counts_what_is_not_there():
    for source in (
        TEXTS,
        [[{"role": "user", "content": t}] for t in TEXTS],
        ASKED.select("prompt"),
    ):
        t = QueryTable.read(source, encoder=Counts())
        assert t.embeddings.tolist() == [[17, 3], [14, 5], [13, 3]]
        assert t.n_input_tokens.tolist() == [3, 5, 3]
        assert t.encoder == Counts.info
        assert len(set(t.query_ids)) == 3
    with pytest.raises(cr2fast.Cr2Error, match=r"embedding, tried .*pass encoder="):
        QueryTable.read(TEXTS)
    with pytest.raises(cr2fast.Cr2Error, match="at least one prompt"):
        QueryTable.read([], encoder=Counts())
    # Embeddings that are to be made anew need what they are of.
    held = pl.DataFrame({"embedding": [[1.0, 2.0]], "n_input_tokens": [3]})
    with pytest.raises(cr2fast.Cr2Error, match="'text'"):
        QueryTable.read(held, encoder=Counts(), embed=True)


@pytest.mark.parametrize("name", ["messages", "input", "prompt", "request.messages"])
@pytest.mark.parametrize("as_text", [False, True])
def test_chats_are_read_by_their_last_user_turn(name, as_text):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}]
    chats = [[turns[0], turns[1] | {"content": t}] for t in TEXTS]
    if name == "request.messages":
        frame = pl.DataFrame({"request": [{"messages": c} for c in chats], "n": [1, 2, 3]})
        if as_text:
            cells = [json.dumps({"messages": c}) for c in chats]
            frame = pl.DataFrame({"request": cells, "n": [1, 2, 3]})
    else:
        frame = pl.DataFrame({name: [json.dumps(c) for c in chats] if as_text else chats})
    t = QueryTable.read(frame, encoder=Counts())
    assert t.extra["text"] == TEXTS


def test_without_ids_a_query_is_called_by_what_it_says():
    one = QueryTable.read(TEXTS, encoder=Counts())
    other = QueryTable.read([*TEXTS[::-1], TEXTS[0]], encoder=Counts())
    assert other.query_ids[:3] == one.query_ids[::-1]
    assert other.query_ids[3] == f"{one.query_ids[0]}/2"


def test_rows_of_one_query_are_one_and_of_several_an_error():
    log = pl.concat([ASKED, ASKED.with_columns(prompt_tokens=pl.lit(9, pl.Int64)), ASKED[:1]])
    for table in (log, log.drop("prompt"), log.drop("embedding")):
        named = Counts.info if "embedding" in table.columns else Counts()
        t = QueryTable.read(table, encoder=named)
        assert t.query_ids == ("a", "b", "c")
        assert t.n_input_tokens.tolist() == [4, 5, 3]
        assert t.notes == ("4 further rows of the same queries left out",)
    torn = pl.concat([ASKED, ASKED.with_columns(prompt=pl.lit("another"))])
    with pytest.raises(cr2fast.Cr2Error, match="unique query_id, got duplicates .*: 'a', 'b', 'c'"):
        QueryTable.read(torn)


def test_damaged_rows_are_named_or_left_out_with_a_count():
    bad = ASKED.with_columns(
        embedding=pl.Series([[1.0, 2.0], [float("nan"), 0.0], [1e20, 1.0]]),
        prompt_tokens=pl.Series([4, 5, 3]),
    )
    with pytest.raises(cr2fast.Cr2Error, match="embedding: expected .* 'b'; pass incomplete"):
        QueryTable.read(bad)
    t = QueryTable.read(bad, incomplete="drop")
    assert (t.query_ids, t.notes) == (
        ("a",),
        ("2 rows of queries with damaged embeddings left out",),
    )
    lost = ASKED.with_columns(prompt_tokens=pl.Series([4.0, float("nan"), None]))
    with pytest.raises(
        cr2fast.Cr2Error, match=r"nulls, got some in \['n_input_tokens'\] of 'b', 'c'"
    ):
        QueryTable.read(lost)
    t = QueryTable.read(lost, incomplete="drop")
    assert (t.query_ids, t.notes) == (("a",), ("2 rows of queries with nulls left out",))


def test_it_is_taken_apart_as_a_routing_table_is(problem):
    queries = problem.table.queries()
    assert isinstance(queries, QueryTable)
    for mine, theirs in zip(queries.split(seed=3), problem.table.split(seed=3), strict=True):
        assert mine.query_ids == theirs.query_ids
        np.testing.assert_array_equal(mine.embeddings, theirs.embeddings)
        assert mine.categories == theirs.categories
