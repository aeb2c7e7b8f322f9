"""RoutingTable.read_log: a log as people have it, under the names that tools give its columns."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import cr2fast
from cr2fast import RoutingTable
from cr2fast.data import calls, names
from testing.encoders import Counts

QUESTIONS = [f"What is {i} + {i}?" for i in range(6)]


def log(**columns):
    """Six queries, each answered by `small` and `big`."""
    rows = [
        {
            "request": f"r{i}",
            "prompt": text,
            "model": model,
            "score": float((i + k) % 2),
            "prompt_tokens": 10 + i + k,
            "completion_tokens": 3 * (k + 1),
            "usd": 0.001 * (k + 1) + 1e-5 * i,
            "seconds": 0.5 * (k + 1),
            "error": None,
        }
        for i, text in enumerate(QUESTIONS)
        for k, model in enumerate(("small", "big"))
    ]
    return pl.DataFrame(rows, schema_overrides={"error": pl.String}).with_columns(**columns)


def read(frame, **options):
    options = {"local": "small", "encoder": Counts(), "progress": False} | options
    return RoutingTable.read_log(frame, **options)


@pytest.mark.parametrize("value", [pl.lit(True), pl.int_range(12) % 2 == 0], ids=["same", "apart"])
@pytest.mark.parametrize("name", ["correct", "n_output_tokens", "query_id", "other.correct"])
def test_a_second_column_for_what_is_read_is_kept_beside_it(name, value):
    ours = {"query_id": "request"} | {c: c for c in ("score", "completion_tokens")}
    frame = log().with_columns(value.alias(name))
    t, plain = read(frame, columns=ours), read(log(), columns=ours)
    assert (t.correct == plain.correct).all()
    assert (t.n_output_tokens == plain.n_output_tokens).all()
    assert t.query_ids == plain.query_ids
    assert t.extra.keys() - plain.extra.keys() == {f"other.{name}"}


def test_a_log_becomes_a_table():
    t = read(log())
    assert t.models == ("small", "big")
    assert t.query_ids == tuple(f"r{i}" for i in range(6))
    assert t.extra["text"] == QUESTIONS
    assert t.correct.tolist() == [[bool(i % 2), not i % 2] for i in range(6)]
    # The device's own count, where it has one.
    assert t.n_input_tokens.tolist() == [10 + i for i in range(6)]
    assert t.n_output_tokens.tolist() == [[3, 6]] * 6
    assert t.extra["seconds"] == [[0.5, 1.0]] * 6
    np.testing.assert_allclose(t.extra["usd"][2], [0.00102, 0.00202])
    assert t.encoder == Counts.info
    assert t.notes == ()


def test_failed_and_ungraded_calls_are_left_out_with_counts():
    frame = log(
        error=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("timeout")),
        score=pl.when(pl.int_range(pl.len()) == 8).then(None).otherwise("score"),
    )
    t = read(frame)
    assert t.query_ids == ("r0", "r2", "r3", "r5")
    assert t.notes == (
        "1 failed calls left out",
        "1 calls without a score left out",
        "2 queries left out that lack the outcome of some model",
    )
    with pytest.raises(cr2fast.Cr2Error, match="2 queries lack some .*'r1'"):
        read(frame, incomplete="raise")


@pytest.mark.parametrize(
    "value", ["", " null", "None", "{}", "[]", "nan", "OK", False, 0, float("nan")]
)
def test_what_says_that_there_was_no_error_is_none(value):
    assert read(log(error=pl.lit(value))).notes == ()


def test_scores_are_words_or_grades():
    assert read(log(score=pl.lit("True"))).correct.tolist() == [[True, True]] * 6
    graded = read(log(score=pl.col("score") * 0.5 + 0.25))
    assert graded.correct.dtype == np.float32
    assert graded.correct[1].tolist() == [0.75, 0.25]
    with pytest.raises(
        cr2fast.Cr2Error, match=r"log.score: .*grades in \[0, 1\], got 7 \(12 values"
    ):
        read(log(score=pl.lit(7)))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("pass", r"got 'pass' \(12 such values\); write true or false for such words"),
        ("100%", r"got '100%' \(12 such values\); a grade of 50 % is 0.5"),
        (1.000000001, r"got 1.000000001 \(12 values outside\)"),
    ],
)
def test_what_is_no_score_is_shown_as_it_is_with_advice(value, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        read(log(score=pl.lit(value)))


def test_calls_that_name_no_model_are_said_apart():
    blank = log().with_columns(model=pl.lit(None, pl.String)).head(3)
    other = log().with_columns(model=pl.lit("third")).head(2)
    assert read(pl.concat([log(), blank, other]), edge=["big"]).notes[:2] == (
        "2 calls of other models left out",
        "3 calls that name no model left out",
    )


def test_edge_models_are_the_cheapest_first():
    third = log().filter(pl.col("model") == "big")
    cheap = third.with_columns(model=pl.lit("middle"), usd=pl.col("usd") / 2)
    t = read(pl.concat([log(), cheap]))
    assert t.models == ("small", "middle", "big")
    assert read(pl.concat([log(), cheap]), edge=["big"]).notes == (
        "6 calls of other models left out",
    )


def test_without_usable_ids_the_prompt_tells_the_query():
    expected = read(log())
    per_call = log(request=pl.format("c{}", pl.int_range(pl.len())))
    conversation = log(request=pl.lit("one session"))
    for frame, why in (
        (log().drop("request"), "no column of ids"),
        (per_call, "ids differ from call to call"),
        (conversation, "ids stand for several prompts"),
    ):
        t = read(frame)
        assert t.extra["text"] == QUESTIONS
        assert t.correct.tolist() == expected.correct.tolist()
        assert t.notes == (f"{why}: calls with the same prompt are one query",)
    with pytest.raises(
        cr2fast.Cr2Error, match="one prompt per request, got several for 'one session'"
    ):
        read(conversation, columns={"query_id": "request"})


def test_other_columns_are_of_the_query_or_of_its_calls():
    """Groups and features are columns of the queries: a log says them with every call."""
    frame = log(
        app=pl.col("request").str.slice(1).cast(pl.Int64) % 2,
        host=pl.format("h{}", pl.int_range(pl.len())),
        usd_of_mine=pl.lit(None, pl.Float64),
    )
    t = read(frame)
    assert t.extra["app"] == [0, 1, 0, 1, 0, 1]
    assert t.extra["host"][1] == ["h2", "h3"]
    assert [p.extra["app"] for p in t.split((0.5, 0.5))]


def test_calls_made_again_are_one_with_the_mean_of_their_scores():
    again = log().filter(pl.col("request") == "r2").with_columns(score=1 - pl.col("score"))
    t = read(pl.concat([log(), again]))
    assert t.correct[2].tolist() == [0.5, 0.5]
    assert t.notes == ("2 further calls of a model on the same query: means of their scores",)


def test_missing_tokens_are_counted_by_the_encoder():
    bare = log(answer=pl.lit("four words of it")).drop("prompt_tokens", "completion_tokens")
    t = read(bare)
    assert t.n_input_tokens.tolist() == [5] * 6
    assert t.n_output_tokens.tolist() == [[4, 4]] * 6
    assert t.notes == ("answers of 12 calls counted with the encoder's tokenizer",)
    with pytest.raises(cr2fast.Cr2Error, match="expected completion_tokens, or answers to count"):
        read(bare.drop("answer"))
    # Counts as floats, as pandas has a column with a hole.
    holes = pl.when(pl.int_range(pl.len()) != 5).then(pl.col("completion_tokens").cast(float))
    assert read(log(completion_tokens=holes)).query_ids == ("r0", "r1", "r3", "r4", "r5")


def openai(tmp_path):
    """Requests and responses as objects, chats with parts, one of them failed."""
    lines = []
    for row in log().rows(named=True):
        content = [{"type": "text", "text": row["prompt"]}]
        lines.append(
            {
                "id": f"chatcmpl-{len(lines)}",
                "request": {
                    "model": row["model"],
                    "messages": [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": content if len(lines) % 3 else row["prompt"]},
                    ],
                },
                "response": {
                    "usage": {
                        "prompt_tokens": row["prompt_tokens"],
                        "completion_tokens": row["completion_tokens"],
                    }
                },
                "grade": row["score"],
                "latency_ms": row["seconds"] * 1000,
                "cost": row["usd"],
            }
        )
    lines.append(lines[0] | {"id": "x", "error": {"message": "overloaded", "code": 529}})
    return lines, 1


def litellm(tmp_path):
    """Spend logs: status, spend, start and end."""
    return [
        {
            "request_id": f"id-{i}",
            "model": row["model"],
            "messages": [{"role": "user", "content": row["prompt"]}],
            "spend": row["usd"],
            "prompt_tokens": row["prompt_tokens"],
            "completion_tokens": row["completion_tokens"],
            "startTime": "2026-09-01T00:00:00Z",
            "endTime": f"2026-09-01T00:00:{'01.000' if row['model'] == 'big' else '00.500'}Z",
            "status": "success",
            "score": row["score"],
        }
        for i, row in enumerate(log().rows(named=True))
    ] + [{"request_id": "bad", "model": "big", "messages": [], "status": "failure"}], 1


def langfuse(tmp_path):
    """Observations: input, usageDetails, costDetails, level."""
    return [
        {
            "traceId": row["request"],
            "modelName": row["model"],
            "input": {"messages": [{"role": "user", "content": row["prompt"]}]},
            "output": {"role": "assistant", "content": "4"},
            "usageDetails": {"input": row["prompt_tokens"], "output": row["completion_tokens"]},
            "costDetails": {"total": row["usd"]},
            "level": "DEFAULT",
            "startTime": "2026-09-01T00:00:00.000Z",
            "endTime": "2026-09-01T00:00:01.000Z"
            if row["model"] == "big"
            else "2026-09-01T00:00:00.500Z",
            "accuracy": row["score"],
        }
        for row in log().rows(named=True)
    ] + [{"traceId": "t", "modelName": "big", "input": None, "level": "ERROR"}], 1


def helicone(tmp_path):
    """Bodies as JSON text in cells, status numbers."""
    return [
        {
            "request_id": row["request"],
            "request_model": row["model"],
            "request_body": json.dumps({"messages": [{"role": "user", "content": row["prompt"]}]}),
            "response_status": 200,
            "prompt_tokens": row["prompt_tokens"],
            "completion_tokens": row["completion_tokens"],
            "delay_ms": row["seconds"] * 1000,
            "costUSD": row["usd"],
            "is_correct": bool(row["score"]),
        }
        for row in log().rows(named=True)
    ] + [{"request_id": "r9", "request_model": "big", "response_status": 503}], 1


@pytest.mark.parametrize("kind", [openai, litellm, langfuse, helicone])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_exports_of_usual_tools_are_read_without_a_mapping(kind, ending, tmp_path):
    lines, failed = kind(tmp_path)
    path = tmp_path / f"log{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif ending == ".parquet":
        frame = (
            pl.DataFrame(
                [json.loads(json.dumps(line)) for line in lines if kind is not openai] or None,
                infer_schema_length=None,
            )
            if kind is not openai
            else pl.DataFrame(
                [
                    {k: json.dumps(v) if isinstance(v, dict) else v for k, v in line.items()}
                    for line in lines
                ],
                infer_schema_length=None,
            )
        )
        frame.write_parquet(path)
    else:
        cells = [
            {k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in line.items()}
            for line in lines
        ]
        pl.DataFrame(cells, infer_schema_length=None).write_csv(path)
    t = read(path)
    expected = read(log())
    assert t.extra["text"] == QUESTIONS
    assert t.models == expected.models
    assert t.correct.tolist() == expected.correct.tolist()
    assert t.n_input_tokens.tolist() == expected.n_input_tokens.tolist()
    assert t.n_output_tokens.tolist() == expected.n_output_tokens.tolist()
    np.testing.assert_allclose(t.extra["usd"], expected.extra["usd"])
    np.testing.assert_allclose(t.extra["seconds"], expected.extra["seconds"])
    assert f"{failed} failed calls left out" in t.notes
    # The cost table reads the same log by the same names.
    costs = cr2fast.CostTable.from_log(path, local="small", edge=["big"])
    assert costs.has_latency
    assert f"big: {failed} failed calls left out" in "\n".join(costs.notes).replace("small", "big")


@pytest.mark.parametrize(
    ("frame", "options", "words"),
    [
        (log().filter(pl.col("model") == "big"), {"local": "big"}, r"at least two models, .* got only of \['big'\]"),
        (log(), {"local": "tiny"}, r"calls of \['tiny', 'small', 'big'\], got none of \['tiny'\]; it has"),
        (log(), {"edge": ["small"]}, "a local and at least one edge model, distinct"),
        (log(), {"edge": []}, "a local and at least one edge model, distinct"),
        (log(), {"edge": "big"}, "edge: expected a list of model names, got the string 'big'"),
        (log().rename({"score": "verdict"}), {}, r"column for score, tried \['score', 'correct'.*'verdict'.*columns=.'score': <its name>"),
        (log().rename({"prompt": "said"}), {}, r"column for text, tried \['text', 'prompt'"),
        (log(), {"columns": {"score": "verdict"}}, r"column for score, tried \['verdict'\]; the log has"),
        (log(), {"columns": {"scores": "score"}}, "columns: expected some of .*, got 'scores'; nearest: score"),
        (log(), {"encoder": None}, "column for embedding, tried .*; pass encoder="),
        (log(), {"encoder": cr2fast.EncoderInfo("x")}, "column for embedding, tried .*; pass encoder="),
        (log(score=pl.lit(None)), {}, "expected calls with a prompt and a score .* 12 calls without a score"),
        (log(score=pl.lit("good")), {}, "log.score: expected true or false, .* got 'good'"),
        (log(prompt_tokens=pl.lit("many")), {}, "log.prompt_tokens: expected numbers, got String: 'many'"),
        (log(completion_tokens=pl.lit(-1)), {}, "n_output_tokens of small: expected token counts, got -1"),
        (log(prompt=pl.lit("  ")), {}, "12 calls without a prompt"),
        (log(error=pl.lit("x")), {}, "12 failed calls"),
        (log().clear(), {}, "log: expected at least one row, got none"),
        (log(), {"incomplete": "maybe"}, "incomplete: expected"),
    ],
)  # fmt: skip
def test_bad_logs_are_named(frame, options, words):
    with pytest.raises(cr2fast.Cr2Error, match=words) as caught:
        read(frame, **options)
    assert len(str(caught.value)) < 1500


def test_what_is_no_encoder_or_name_is_refused():
    with pytest.raises(TypeError, match="encoder: expected an EncoderInfo, an Encoder or"):
        read(log(), encoder="minilm")
    with pytest.raises(TypeError, match="columns: expected a mapping"):
        read(log(), columns=["score"])
    with pytest.raises(TypeError, match="local, edge: expected"):
        read(log(), local=3, edge=["big"])


def test_one_list_of_guesses_for_tables_logs_and_costs():
    from cr2fast.pricing import logs

    assert logs.GUESSES is names.GUESSES
    assert set(calls.COLUMNS) | {"n_input_tokens"} == set(names.GUESSES)
    every = [g for ours, gs in names.GUESSES.items() if ours != "n_input_tokens" for g in gs]
    assert len(every) == len(set(every)), "a name that two columns claim"


def test_repeats_stay_together_in_splits():
    texts = [f"{t}{end}" for t in QUESTIONS for end in ("", " ", "  ?")]
    rows = [
        {"request": f"q{i}", "prompt": t, "model": m, "score": 1, "prompt_tokens": 1, "completion_tokens": 1}
        for i, t in enumerate(texts)
        for m in ("small", "big")
    ]  # fmt: skip
    parts = read(pl.DataFrame(rows)).split((0.5, 0.5))
    said = [{t.strip().rstrip("? ") for t in p.extra["text"]} for p in parts]
    assert not said[0] & said[1]


def test_the_sample(data_dir):
    encoder = cr2fast.Encoder.load("minilm")
    t = RoutingTable.read_log(
        data_dir / "log_sample.jsonl", local="llama3.1-8b", encoder=encoder, progress=False
    )
    assert len(t) == 1527
    assert t.models == ("llama3.1-8b", "gpt-4o-mini", "gpt-4o")
    assert t.notes == (
        "13 failed calls left out",
        "13 queries left out that lack the outcome of some model",
    )
    assert [round(v, 3) for v in t.correct.mean(axis=0)] == [0.663, 0.761, 0.839]
