"""Rows of a log as another router reads them: by texts, without them, and texts of other rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cr2fast
from cr2fast import Cr2Error
from cr2fast.datasets import make_routing_problem
from cr2fast.encoders.info import EncoderInfo
from cr2fast.traffic import LogWarning, label, recalibrate, replay
from cr2fast.traffic.rows import NO_TEXT
from testing import traffic
from testing.letters import LETTERS, letters

LAM, ALPHA, D, N = 0.2, 0.2, 16, 600
ENCODER = letters(D)


def fitted(parts, costs, **options):
    router = cr2fast.fit(
        parts[0], costs, hidden=8, teacher_epochs=1, gate_epochs=1, progress=False,
        lam_range=(0.1, 20.0), **options,
    )  # fmt: skip
    router.calibrate(parts[1], lams=[LAM], alphas=[ALPHA])
    return router


@pytest.fixture(scope="module")
def world():
    """A router of embeddings only, one with features, and queries with their texts."""
    made = make_routing_problem(n=N, d=D, models=3, seed=2)
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(list(LETTERS), 1 + i % 40)) + f" {i}?" for i in range(N)]
    table = replace(
        made.table,
        embeddings=ENCODER.encode(texts),
        encoder=ENCODER.info,
        extra={"text": texts, "hour": [i % 24 for i in range(N)]},
    )
    parts = table.split((0.3, 0.2, 0.5), seed=0)
    return {
        "plain": fitted(parts, made.costs, features=False),
        "text": fitted(parts, made.costs),
        "hour": fitted(parts, made.costs, features=["text", "hour"]),
        "parts": parts,
        "test": parts[2],
    }


def written(tmp_path, by, test, texts):
    rows = by.inputs(test)
    records = traffic.records(by, rows, test.n_input_tokens, LAM, ALPHA)
    for record, text in zip(records, texts, strict=True):
        record["text"] = text
    return traffic.write(tmp_path / "decisions.jsonl", records)


def test_rows_without_a_text_are_left_out_counted_and_said(world, tmp_path):
    plain, router, test = world["plain"], world["text"], world["test"]
    texts = [None if i % 10 == 0 else t for i, t in enumerate(test.extra["text"])]
    log = written(tmp_path, plain, test, texts)
    lacking = sum(t is None for t in texts)
    told = replay(log, router, LAM, ALPHA, logged_by=plain)
    assert told.left_out == {NO_TEXT: lacking}
    assert told.would.n == len(test) - lacking
    assert f"Left out: {lacking} without a text to make its features from." in str(told)
    done = recalibrate(log, router, logged_by=plain)
    assert done.left_out[NO_TEXT] == lacking
    assert done.report.n + done.held_n == len(test) - lacking
    assert f"{lacking} without a text" in str(done)
    # What is left is labelled as if the others had never come.
    rows = [i for i, t in enumerate(texts) if t is not None]
    ours = router.margins(router.inputs(test.take(rows)), [LAM])[0]
    with pytest.warns(LogWarning, match=f"left out {lacking} requests"):
        found = label(written(tmp_path, plain, test, texts), router, logged_by=plain)
    np.testing.assert_array_equal(found["margin"].to_numpy(), ours)


def test_a_log_of_which_nothing_is_left_is_refused(world, tmp_path):
    plain, router, test = world["plain"], world["text"], world["test"]
    log = written(tmp_path, plain, test, [None] * len(test))
    n = len(test)
    with pytest.raises(Cr2Error, match=f"{n} of {n} have no text; set texts = true"):
        replay(log, router, LAM, ALPHA, logged_by=plain)
    # None of the accepted requests has one: the rest is no sample.
    local = plain.device(LAM, ALPHA).route_batch(plain.inputs(test))
    texts = [None if kept else t for t, kept in zip(test.extra["text"], local, strict=True)]
    assert any(texts)
    log = written(tmp_path, plain, test, texts)
    with pytest.raises(Cr2Error, match="texts of accepted requests too, got none"):
        recalibrate(log, router, logged_by=plain)


def test_what_two_routers_look_at_differently_is_named(world, tmp_path):
    test = world["test"]
    log = written(tmp_path, world["text"], test, [None] * len(test))
    with pytest.raises(Cr2Error, match=r"only this router looks at \['hour'\]\), and the columns"):
        replay(log, world["hour"], LAM, ALPHA, logged_by=world["text"])
    log = written(tmp_path, world["hour"], test, [None] * len(test))
    with pytest.raises(Cr2Error, match=r"only that one looks at \['hour'\]\), and .* no text"):
        replay(log, world["text"], LAM, ALPHA, logged_by=world["hour"])
    # A router of embeddings only reads both.
    for writer in ("text", "hour"):
        log = written(tmp_path, world[writer], test, [None] * len(test))
        told = label(log, world["plain"], logged_by=world[writer])
        ours = world["plain"].margins(test.embeddings, [LAM])[0]
        np.testing.assert_allclose(told["margin"].to_numpy(), ours, atol=1e-5)


def test_an_encoder_of_the_same_name_or_width_is_told_apart(world, tmp_path):
    test, parts = world["test"], world["parts"]
    log = written(tmp_path, world["plain"], test, [None] * len(test))

    def named(info, cut=D):
        those = [
            replace(p, encoder=info, embeddings=np.ascontiguousarray(p.embeddings[:, :cut]))
            for p in parts
        ]
        return fitted(those, world["plain"].costs, features=False)

    twin = named(EncoderInfo(ENCODER.info.id, "f" * 64))
    with pytest.raises(Cr2Error, match=f"of SHA-256 {ENCODER.info.sha256}, got .*{'f' * 64}"):
        replay(log, world["plain"], LAM, ALPHA, logged_by=twin)
    narrow = named(ENCODER.info, D - 4)
    with pytest.raises(Cr2Error, match=f"embeddings of {D} numbers, got one of {D - 4}"):
        replay(log, world["plain"], LAM, ALPHA, logged_by=narrow)


@pytest.mark.parametrize("writer", ["plain", "text", "hour"])
def test_texts_of_other_rows_are_found_out(world, tmp_path, writer):
    by, test = world[writer], world["test"]
    texts = list(test.extra["text"])
    log = written(tmp_path, by, test, texts)
    label(log, by, encoder=ENCODER)
    texts[7], texts[11] = texts[11], texts[7]
    log = written(tmp_path, by, test, texts)
    name = traffic.request_id(7)
    if writer == "plain":
        label(log, by)  # Nothing tells, without the encoder.
    else:
        with pytest.raises(
            Cr2Error, match=f"features of their texts, got others for '{name}' .2 s"
        ):
            label(log, by)
    with pytest.raises(Cr2Error, match=f"for '{name}' .*do not belong together"):
        label(log, by, encoder=ENCODER)
    with pytest.raises(Cr2Error, match="encoder: expected the router's, 'letters'"):
        label(log, by, encoder=_Other())


class _Other:
    info = EncoderInfo("letters", "e" * 64)


def test_rows_of_another_routers_log_calibrate_nothing(world, tmp_path, capsys):
    """A decision log as queries without answers: of this router it will do, of another it will not."""
    from cr2fast import cli

    router, test, parts = world["text"], world["test"], world["parts"]
    other = fitted([parts[0].take(range(90)), parts[1]], router.costs)
    router.save(tmp_path / "r.safetensors")
    texts = test.extra["text"]

    def calibrate(by, said, which=router):
        which.save(tmp_path / "r.safetensors")
        log = written(tmp_path, by, test, said)
        code = cli.main(["calibrate", str(tmp_path / "r.safetensors"), "--queries", str(log)])
        return code, capsys.readouterr()

    assert calibrate(router, texts)[0] == 0
    code, told = calibrate(other, texts)
    assert code == 2
    assert "expected rows of this router, got others for 'a000" in told.err
    # Without texts the router's hash tells; the fixture's log names none that is known.
    code, told = calibrate(other, [None] * len(test))
    assert code == 2
    assert "that of another (32 numbers per row): cr2fast recalibrate LOG --logged-by" in told.err
    code, told = calibrate(router, texts, world["plain"])
    assert code == 2
    assert "that of another (32 numbers per row)" in told.err
    # Of embeddings only, a router with features takes the rows that have a text.
    some = [None if i % 3 == 0 else t for i, t in enumerate(texts)]
    code, told = calibrate(world["plain"], some)
    assert code == 0
    assert f"{sum(t is None for t in some)} rows without a text left out" in told.out


def test_labels_say_how_many_lack_a_text(world, tmp_path):
    plain, router, test = world["plain"], world["text"], world["test"]
    log = written(tmp_path, plain, test, [None, *test.extra["text"][1:]])
    with pytest.warns(LogWarning, match="left out 1 requests without a text"):
        assert len(label(log, router, logged_by=plain)) == len(test) - 1
