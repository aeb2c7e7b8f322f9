"""Logs as tools export them: the same calls in each form are the same table."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl
import pytest

from cr2fast import Cr2Error
from cr2fast.data import calls

N = 6
MODELS = ("small", "big")


def plain():
    for i in range(N):
        for k, model in enumerate(MODELS):
            yield {
                "request": f"r{i}", "prompt": f"What is {i} + 7?", "model": model, "score": k,
                "prompt_tokens": 9 + i, "completion_tokens": 3 + i, "usd": 1e-6 * (k + 1) * (i + 1),
            }  # fmt: skip


def batch(r):
    """A request of OpenAI's batches beside its answer."""
    usage = {"prompt_tokens": r["prompt_tokens"], "completion_tokens": r["completion_tokens"]}
    body = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    return {
        "custom_id": r["request"],
        "body": {"model": r["model"], "messages": [{"role": "user", "content": r["prompt"]}]},
        "response": {"status_code": 200, "body": body},
        "error": None,
        "score": r["score"],
        "cost": r["usd"],
    }


def openrouter(r):
    return {
        "request_id": r["request"], "prompt": r["prompt"], "model_permaslug": r["model"],
        "tokens_prompt": r["prompt_tokens"], "tokens_completion": r["completion_tokens"],
        "cost_total": r["usd"], "score": r["score"], "generation_time_ms": 500,
    }  # fmt: skip


def lines(rows, end="\n"):
    return "".join(json.dumps(row) + end for row in rows).encode()


FORMS = {
    "crlf.jsonl": lambda rows: lines(rows, "\r\n"),
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + lines(rows),
    "packed.jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "batch.jsonl": lambda rows: lines(map(batch, rows)),
    "openrouter.jsonl": lambda rows: lines(map(openrouter, rows)),
    "answer.json": lambda rows: json.dumps({"data": rows, "next": None}).encode(),
    "pretty.json": lambda rows: json.dumps({"observations": rows}, indent=1).encode(),
    "lines.json": lines,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_same_table(name, tmp_path):
    rows = list(plain())
    (path := tmp_path / name).write_bytes(FORMS[name](rows))
    found = calls.read(path, None, ("model", "score", "usd", *calls.TOKENS))
    for ours, theirs in (("query_id", "request"), ("text", "prompt"), *((c, c) for c in
                         ("model", "score", "prompt_tokens", "completion_tokens", "usd"))):  # fmt: skip
        assert found[ours].to_list() == [r[theirs] for r in rows], ours
    assert not found["failed"].any()


def test_a_batch_that_failed_is_a_failed_call():
    rows = [batch(r) for r in plain()]
    rows[3]["response"]["status_code"] = 429
    found = calls.read(pl.DataFrame([json.loads(json.dumps(r)) for r in rows]), None, ("model",))
    np.testing.assert_array_equal(np.flatnonzero(found["failed"]), [3])


def test_one_object_of_messages_is_a_row_and_no_table(tmp_path):
    (path := tmp_path / "one.json").write_text(
        json.dumps({"messages": [{"role": "user", "content": "Hi"}], "model": "big"})
    )
    assert len(calls.read(path, None, ("model",))) == 1


def test_bills_in_other_money_are_refused():
    frame = pl.DataFrame(list(plain())).with_columns(currency=pl.Series(["USD", "EUR"] * N))
    with pytest.raises(Cr2Error, match=r"dollars throughout, got bills in \['EUR'\]"):
        calls.read(frame, None, ("model",))
    assert len(calls.read(frame.with_columns(currency=pl.lit("usd")), None, ("model",))) == 2 * N
