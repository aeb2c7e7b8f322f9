"""Features of texts and the rows made of them: against plain twins, in files, on every path in."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast import _core
from cr2fast.traffic import RouteBatches, label, recalibrate, replay
from cr2fast.traffic.rows import NO_TEXT
from testing import seen, traffic
from testing.artifacts import put, rewritten
from testing.hashed import ByHash, with_texts

LAM, ALPHA = 1.0, 0.05
# Characters on either side of every border between classes, and the marks that features look for.
BORDERS = "".join(
    chr(c + step)
    for ranges in seen._WORD_RANGES.values()
    for pair in ranges
    for c in pair
    for step in (-1, 0, 1)
    if not 0xD800 <= c + step <= 0xDFFF
)
PARTS = st.sampled_from(
    [
        "\n",
        "A. ",
        "(b) ",
        " C: x",
        "user:",
        "USER:",
        "<|im_start|>",
        "```",
        '"tools"',
        "<tool",
        "12",
    ]
)


@given(st.lists(st.text() | st.text(BORDERS + " ?=\n_") | PARTS, max_size=12).map("".join))
def test_features_are_what_their_definitions_say(text):
    found = cr2fast.text_features([text])
    assert found.shape == (1, len(_core.TEXT_FEATURES))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], seen.text_features(text), rtol=1e-6, atol=1e-7)


def test_a_chat_counts_by_its_last_user_turn():
    chat = [{"role": "user", "content": "A?"}, {"role": "user", "content": "Is 2 + 2 = 4?"}]
    np.testing.assert_array_equal(
        cr2fast.text_features([chat]), cr2fast.text_features(["Is 2 + 2 = 4?"])
    )
    with pytest.raises(TypeError, match="list of texts"):
        cr2fast.text_features("one")
    assert cr2fast.text_features([]).shape == (0, len(_core.TEXT_FEATURES))


@pytest.fixture(scope="module")
def problem():
    return with_texts()


def fitted(problem, features=True, **options):
    table, costs = problem
    train, calibration, test = table.split(seed=0)
    router = cr2fast.fit(
        train,
        costs,
        features=features,
        teacher_epochs=2,
        gate_epochs=2,
        lam_range=(0.1, 20.0),
        progress=False,
        **options,
    )
    router.calibrate(calibration, lams=[LAM], alphas=[ALPHA])
    return router, test


@pytest.fixture(scope="module")
def routed(problem):
    return fitted(problem)


def test_rows_are_unit_embeddings_and_scaled_features(problem, routed):
    router, test = routed
    train = problem[0].split(seed=0)[0]
    f = [cr2fast.text_features(t.extra["text"]).astype(float) for t in (test, train)]
    expected = seen.inputs(test.embeddings.astype(float), *f, router.features["weight"])
    np.testing.assert_allclose(router.inputs(test), expected, atol=2e-5)
    assert router.dim == 24 + 16
    assert router.embedding_dim == 24
    assert router.features["names"] == list(_core.TEXT_FEATURES)


def test_every_path_sees_the_same_rows(routed):
    router, test = routed
    rows, texts, encoder = router.inputs(test), test.extra["text"], ByHash()
    device, edge, two = router.device(LAM, ALPHA), router.edge(LAM), router.two_stage(LAM, ALPHA)
    for own in (router, device, edge, two):
        np.testing.assert_array_equal(own.inputs(test.embeddings, texts), rows)
        np.testing.assert_array_equal(
            own.inputs(test.embeddings, features=cr2fast.text_features(texts)), rows
        )
    local = device.route_batch(rows)
    np.testing.assert_array_equal(device.route_texts(texts, encoder), local)
    state = two.typical_state
    for i in range(8):
        assert device.route_text(texts[i], encoder) == device.route(rows[i])
        n = len(texts[i])
        assert (
            edge.select_text(texts[i], encoder, state).model == edge.select(rows[i], n, state).model
        )
        assert two.route_text(texts[i], encoder).model == two.route(rows[i], n).model
    assert cr2fast.evaluate(router, test).n == len(test)


def test_files_keep_them(tmp_path, routed):
    router, test = routed
    router.save(tmp_path / "r.safetensors")
    again = cr2fast.Router.load(tmp_path / "r.safetensors")
    assert again.to_bytes() == router.to_bytes()
    assert again.features == router.features
    np.testing.assert_array_equal(again.inputs(test), router.inputs(test))
    texts = test.extra["text"]
    for part in (again.device(LAM, ALPHA), again.edge(LAM), again.two_stage(LAM, ALPHA)):
        copied = pickle.loads(pickle.dumps(part))
        np.testing.assert_array_equal(copied.inputs(test.embeddings, texts), router.inputs(test))
    half = router.to_bfloat16()
    np.testing.assert_array_equal(half.inputs(test), router.inputs(test))


def test_a_forged_file_is_refused(routed):
    data = routed[0].to_bytes()

    def of(**changes):
        return lambda _, body: body["features"].update(changes)

    def renamed(header, _):
        header["features.other"] = header.pop("features.shift")

    for change in (
        put(features=None),
        put(format="cr2fast.router/1"),
        put(format="cr2fast.router/3"),
        of(text="text/9"),
        of(text=None),
        of(columns=["a"]),
        of(bound=-1.0),
        of(weight=0.0),
        of(more=1),
        renamed,
    ):
        with pytest.raises(cr2fast.Cr2Error):
            cr2fast.Router.from_bytes(rewritten(data, change))


def test_what_is_missing_is_said(problem, routed):
    table, costs = problem
    router, test = routed
    bare = replace(test, extra={})
    for call in (router.inputs, lambda t: cr2fast.evaluate(router, t)):
        with pytest.raises(cr2fast.Cr2Error, match="text.*features=False"):
            call(bare)
    with pytest.raises(cr2fast.Cr2Error, match="features=False"):
        cr2fast.fit(replace(table, extra={}), costs, features=True)
    device = router.device(LAM, ALPHA)
    for call in (device.inputs, router.inputs):
        with pytest.raises(cr2fast.Cr2Error, match=r"^texts: .*16 features .*features=False"):
            call(test.embeddings)
        with pytest.raises(cr2fast.Cr2Error, match="inputs has made already"):
            call(router.inputs(test), test.extra["text"])
    nan = np.full((len(test), 16), np.nan, np.float32)
    with pytest.raises(cr2fast.Cr2Error, match="features"):
        device.inputs(test.embeddings, features=nan)
    plain, _ = fitted(problem, features=False)
    with pytest.raises(cr2fast.Cr2Error, match="embeddings only"):
        plain.inputs(test.embeddings, features=nan)
    np.testing.assert_array_equal(plain.inputs(test.embeddings, ["x"] * len(test)), test.embeddings)
    with pytest.raises(cr2fast.Cr2Error, match="the teacher's: none"):
        cr2fast.fit(table, costs, features=True, teacher=plain, progress=False)
    for wrong in (3, ["text", "text"], [1], ["nothing"]):
        with pytest.raises(cr2fast.Cr2Error, match="features"):
            cr2fast.fit(table, costs, features=wrong, progress=False)
    words = replace(table, extra=table.extra | {"hour": ["x"] * len(table)})
    with pytest.raises(cr2fast.Cr2Error, match="numbers in the column 'hour'"):
        cr2fast.fit(words, costs, features=["hour"], progress=False)


def test_texts_are_looked_at_by_default(problem, routed):
    table, costs = problem
    quick = {"teacher_epochs": 1, "gate_epochs": 1, "progress": False}
    router = cr2fast.fit(table, costs, **quick)
    assert router.features == routed[0].features
    assert router.training["config"]["feature_weight"] == 1.0
    unknown = replace(table, encoder=cr2fast.EncoderInfo())
    assert cr2fast.fit(unknown, costs, **quick).features is None
    assert cr2fast.fit(unknown, costs, features=True, **quick).features is not None
    some = table.extra["text"][:-1]
    for texts in ([*some, None], [*some, float("nan")]):
        lacking = replace(table, extra={"text": texts})
        assert cr2fast.fit(lacking, costs, **quick).features is None
    papers = cr2fast.fit(table, costs, recipe="paper", **quick)
    assert papers.features is None
    plain = cr2fast.fit(table, costs, features=False, **quick)
    assert plain.features is None
    gate = cr2fast.fit(table, costs, teacher=plain, **quick)
    assert gate.features is None


def test_an_embedding_only_is_refused_on_every_path_with_what_to_do(routed, tmp_path):
    """Fitted with the defaults on a table with texts, then given embeddings: what does it say?"""
    router, test = routed
    device, edge, two = router.device(LAM, ALPHA), router.edge(LAM), router.two_stage(LAM, ALPHA)
    x, n = test.embeddings, test.n_input_tokens
    states = router.costs.sample_states(len(x), 0)
    router.save(tmp_path / "r.safetensors")
    batches = RouteBatches(tmp_path / "r.safetensors", LAM, ALPHA, tokens="n")
    batch = {"embedding": x, "n": n.astype(float)}
    said = "also looks at 16 features of the text"
    for call in (
        lambda: device.route(x[0]),
        lambda: device.route_batch(x),
        lambda: device.margins(x),
        lambda: device.p_values(x),
        lambda: router.margins(x, [LAM]),
        lambda: router.accuracies(x),
        lambda: router.predict_lengths(x, n),
        lambda: router.p_values(x),
        lambda: edge.select(x[0], 20, states[0]),
        lambda: edge.select_batch(x, n, states),
        lambda: two.route(x[0], 20),
        lambda: two.route_batch(x, n),
        lambda: batches(batch),
        lambda: batches(batch | {"embedding": list(x)}),
        lambda: batches(polars.DataFrame({"embedding": x, "n": n.astype(float)})),
        lambda: batches(polars.DataFrame({"embedding": x, "n": n.astype(float)}).to_arrow()),
    ):
        with pytest.raises(cr2fast.Cr2Error) as error:
            call()
        words = str(error.value)
        assert "embedding" in words.partition(":")[0]
        assert said in words
        assert "inputs" in words
        assert "features=False" in words
        assert "route_text" in words or "encoder=" in words
        assert len(words) < 500
    rows = router.inputs(test)
    np.testing.assert_array_equal(
        batches(batch | {"embedding": rows})["local"], device.route_batch(rows)
    )
    assert device.features == router.features
    with pytest.raises(cr2fast.Cr2Error, match="another encoder's"):
        router.margins(x[:, :-1], [LAM])
    with pytest.raises(cr2fast.Cr2Error, match="width 40, the router's"):
        batches(batch | {"embedding": x[:, :-1].copy()})


def test_a_log_is_read_by_its_own_features_or_by_its_texts(problem, routed, tmp_path):
    table, costs = problem
    router, test = routed
    train, calibration, _ = table.split(seed=0)
    options = {"teacher_epochs": 2, "gate_epochs": 2, "lam_range": (0.1, 20.0), "progress": False}

    def log_of(by, rows, texts=None):
        records = traffic.records(by, rows, test.n_input_tokens, LAM, ALPHA)
        for record, text in zip(records, texts or [None] * len(records), strict=True):
            record |= {} if text is None else {"text": text}
        return traffic.write(tmp_path / "decisions.jsonl", records)

    def calibrated(router):
        router.calibrate(calibration, lams=[LAM], alphas=[ALPHA])
        return router

    def margins(by):
        return by.margins(by.inputs(test), [LAM])[0]

    texts = test.extra["text"]
    plain = calibrated(cr2fast.fit(train, costs, features=False, **options))
    log = log_of(plain, test.embeddings)
    with pytest.raises(cr2fast.Cr2Error, match=r"embeddings only in .*16 features.*features=False"):
        replay(log, router, LAM, ALPHA)
    with pytest.raises(
        cr2fast.Cr2Error, match=r"embeddings only, and 80 of 80 have .*; set texts = true"
    ):
        replay(log, router, LAM, ALPHA, logged_by=plain)
    log = log_of(plain, test.embeddings, [*texts[:-1], None])
    assert replay(log, router, LAM, ALPHA, logged_by=plain).left_out == {NO_TEXT: 1}
    told = label(log_of(plain, test.embeddings, texts), router, logged_by=plain)
    np.testing.assert_array_equal(told["margin"].to_numpy(), margins(router))

    rows = router.inputs(test)
    log = log_of(router, rows)
    assert replay(log, router, LAM, ALPHA).changed == 0
    # The same features, scaled by the moments of other queries: its rows are not this router's.
    other = calibrated(cr2fast.fit(train.take(range(len(train) // 2)), costs, **options))
    assert other.dim == router.dim
    with pytest.raises(
        cr2fast.Cr2Error, match="the same ones, which each router scales .*teacher="
    ):
        replay(log, other, LAM, ALPHA, logged_by=router)
    # Of embeddings only, a router reads those of any log of its encoder.
    with pytest.raises(
        cr2fast.Cr2Error, match=r"24 numbers, got 40 .*pass the router .*logged_by="
    ):
        replay(log, plain, LAM, ALPHA)
    told = label(log, plain, logged_by=router)
    np.testing.assert_array_equal(
        told["margin"].to_numpy(), plain.margins(rows[:, :24].copy(), [LAM])[0]
    )
    same = calibrated(cr2fast.fit(train, costs, teacher=router, seed=7, **options))
    told = label(log, same, logged_by=router)
    np.testing.assert_array_equal(told["margin"].to_numpy(), margins(same))
    log = log_of(router, rows, texts)
    told = label(log, other, logged_by=[plain, router])
    # The logged embedding is at unit length already: once more moves the last digit.
    np.testing.assert_allclose(told["margin"].to_numpy(), margins(other), atol=1e-5)
    assert np.abs(other.margins(rows, [LAM])[0] - margins(other)).max() > 1e-3
    assert replay(log, plain, LAM, ALPHA, logged_by=router).would.n == 80


def test_training_is_found_in_a_log_by_its_texts(problem, routed, tmp_path):
    router, test = routed
    both = [problem[0].split(seed=0)[0].take(range(20)), test]
    rows = np.concatenate([router.inputs(part) for part in both])
    tokens = np.concatenate([part.n_input_tokens for part in both])
    records = traffic.records(router, rows, tokens, LAM, ALPHA)
    texts = [text for part in both for text in part.extra["text"]]
    for record, text in zip(records, texts, strict=True):
        record["text"] = text
    log = traffic.write(tmp_path / "decisions.jsonl", records)
    found = recalibrate(log, router)
    assert found.report.dropped == found.left_out["that training had seen"] == 20


def test_own_columns_beside_the_text(problem):
    router, test = fitted(problem, ("text", "hour"))
    assert router.features["columns"] == ["hour"]
    assert router.dim == 24 + 17
    hours = np.asarray(test.extra["hour"], np.float32)[:, None]
    texts = test.extra["text"]
    np.testing.assert_array_equal(router.inputs(test.embeddings, texts, hours), router.inputs(test))
    with pytest.raises(cr2fast.Cr2Error, match="columns"):
        router.device(LAM, ALPHA).route_text(texts[0], ByHash())
    with pytest.raises(cr2fast.Cr2Error, match="hour"):
        router.inputs(test.embeddings, texts)
    only, test = fitted(problem, ["hour"])
    assert only.features["text"] is False
    assert only.dim == 25
    assert cr2fast.evaluate(only, test).n == len(test)


def test_a_gate_of_its_own_looks_at_what_its_teacher_does(problem, routed):
    table, costs = problem
    teacher, test = routed
    train = table.split(seed=0)[0]
    gate = cr2fast.fit(train, costs, teacher=teacher, gate_epochs=1, progress=False, seed=4)
    assert gate.features == teacher.features
    rows = gate.inputs(test)
    np.testing.assert_array_equal(rows, teacher.inputs(test))
    np.testing.assert_array_equal(gate.accuracies(rows), teacher.accuracies(rows))
