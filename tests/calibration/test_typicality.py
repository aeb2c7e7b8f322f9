"""Typicality: the score and p-value against plain NumPy, the guarantee, deferral, files, real text."""

from __future__ import annotations

import json
import random
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cr2fast
from cr2fast import _core
from cr2fast.calibration.typicality import DIRECTIONS, FLOOR, minor_components
from cr2fast.datasets import make_routing_problem
from testing import oracle
from testing.artifacts import rewritten

LAM, ALPHA, D = 1.0, 0.05, 16


@pytest.fixture(scope="module")
def problem():
    return make_routing_problem(n=3000, d=D, models=3, seed=4)


@pytest.fixture(scope="module")
def splits(problem):
    return problem.table.split(seed=0)


@pytest.fixture(scope="module")
def fitted(problem, splits):
    return cr2fast.fit(
        splits[0],
        problem.costs,
        lam_range=(0.1, 20.0),
        hidden=16,
        teacher_epochs=1,
        gate_epochs=1,
        progress=False,
    )


def calibrated(fitted, split, **options):
    router = cr2fast.Router(fitted._core)
    report = router.calibrate(split, lams=[0.5, LAM], alphas=(ALPHA, 0.2), **options)
    return router, report


@pytest.mark.parametrize(("n", "d"), [(500, 16), (20, 48), (5000, 300), (10, 1), (3, 4)])
def test_the_directions_are_those_of_least_variance(n, d):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, d)) * rng.uniform(0.1, 1, d) + rng.normal(size=d)
    a, b = minor_components((x * rng.uniform(1, 9, (n, 1))).astype(np.float32))
    m = max(1, min(DIRECTIONS, d // 4))
    assert a.shape == (m, d)
    assert b.shape == (m,)
    w = {"typicality.directions": a, "typicality.offsets": b}
    if not n > d > 1:
        return
    expected = dict(zip(w, oracle.minor_components(x, m, FLOOR), strict=True))
    # Directions may turn within equal variances; what they say of a query may not.
    probe = rng.normal(size=(50, d))
    np.testing.assert_allclose(
        oracle.typicality_scores(w, probe), oracle.typicality_scores(expected, probe), rtol=0.01
    )


@pytest.mark.parametrize("x", [np.zeros((4, 3)), np.ones((4, 3)), np.full((1, 1), 1e-30)])
def test_degenerate_embeddings_have_finite_directions(x):
    a, b = minor_components(x.astype(np.float32))
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()


@given(st.data())
def test_scores_and_p_values_are_the_oracles(fitted, splits, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    m, n = data.draw(st.integers(1, D)), data.draw(st.integers(5, 60))
    a = rng.normal(size=(m, D)).astype(np.float32)
    b = rng.normal(size=m).astype(np.float32)
    core = fitted._core.with_typicality(a, b)
    split = splits[1].take(np.arange(n))
    router = cr2fast.Router(core)
    router.calibrate(split, lams=[LAM], alphas=(0.5,))
    w = oracle.read_tensors(router.to_bytes())
    np.testing.assert_array_equal(w["typicality.directions"], a)
    kept = w["calibration.typicality"].astype(float)
    np.testing.assert_allclose(
        kept, np.sort(oracle.typicality_scores(w, split.embeddings)), rtol=1e-6
    )
    x = rng.normal(size=(20, D)) * 10.0 ** rng.integers(-3, 3, (20, 1))
    x = np.concatenate([x, np.zeros((1, D)), split.embeddings[:3]]).astype(np.float32)
    scores = oracle.typicality_scores(w, x).astype(np.float32)
    # A calibration query ties with itself.
    scores[-3:] = [kept[np.abs(kept - s).argmin()] for s in scores[-3:]]
    expected = [oracle.p_value(s, kept.astype(np.float32)) for s in scores]
    np.testing.assert_allclose(router.p_values(x), expected, rtol=1e-12)


def test_single_batch_and_threads_give_the_same_bits(fitted, splits):
    router, _ = calibrated(fitted, splits[1])
    device = router.device(LAM, ALPHA)
    x = splits[2].embeddings
    p = device.p_values(x)
    assert p.dtype == np.float64
    assert ((p > 0) & (p <= 1)).all()
    for threads in (2, 3, 0):
        np.testing.assert_array_equal(device.p_values(x, threads), p)
        np.testing.assert_array_equal(router.p_values(x, threads), p)
    for row, expected in zip(x[:100], p, strict=False):
        got = device.route(row, typicality=True)
        assert got.p_value == expected
        assert "p_value=" in repr(got)
        plain = device.route(row)
        assert plain.p_value is None
        assert (plain.local, plain.margin) == (got.local, got.margin)
    # Like the gate, it does not mind a forgotten normalisation.
    np.testing.assert_array_equal(device.p_values(x * np.float32(8)), p)


def test_of_queries_like_the_splits_a_fraction_of_the_level_is_flagged(fitted, problem):
    """Over many splits into calibration and test, the mean is at most the level, and near it."""
    rest = np.concatenate([problem.table.split(seed=0)[i].embeddings for i in (1, 2)])
    w = oracle.read_tensors(fitted.to_bytes())
    scores = oracle.typicality_scores(w, rest)
    rng, rates = np.random.default_rng(0), []
    for _ in range(400):
        order = rng.permutation(len(scores))
        kept, test = np.sort(scores[order[:300]]), scores[order[300:]]
        p = (1 + len(kept) - np.searchsorted(kept, test, "left")) / (len(kept) + 1)
        rates.append([(p <= u).mean() for u in (0.01, 0.05, 0.3)])
    got, error = np.mean(rates, axis=0), np.std(rates, axis=0) / 20
    exact = np.floor(np.array([0.01, 0.05, 0.3]) * 301) / 301
    assert (np.abs(got - exact) <= 4 * error).all(), (got, exact)


@pytest.mark.parametrize("simultaneous", [False, True])
def test_deferral_lowers_false_acceptances_and_is_counted(fitted, splits, simultaneous):
    level = 0.2
    options = {"simultaneous": simultaneous}
    router, report = calibrated(fitted, splits[1], **options)
    careful, counted = calibrated(fitted, splits[1], defer_atypical=level, **options)
    np.testing.assert_array_equal(report.thresholds, counted.thresholds)
    assert report.defer_atypical is None
    assert counted.defer_atypical == level == careful.calibration["defer_atypical"]
    assert "can only lower that probability" in careful.statement == counted.statement
    assert "lower" not in router.statement
    # The calibration split, by the plain definition.
    margins = router.margins(splits[1].embeddings, report.lams)
    typical = careful.p_values(splits[1].embeddings) > level
    local = margins[:, None, :] >= report.thresholds[:, :, None]
    np.testing.assert_allclose(counted.local_rate, (local & typical).mean(axis=2))
    assert (counted.empirical_risk <= report.empirical_risk).all()
    assert (counted.local_rate < report.local_rate).any()
    # The device, one by one and in a batch, and the evaluation of the test split.
    x = splits[2].embeddings
    two = careful.two_stage(LAM, ALPHA)
    chosen = two.route_batch(x, splits[2].n_input_tokens)
    device = careful.device(LAM, ALPHA)
    np.testing.assert_array_equal(chosen.local, device.route_batch(x))
    first = two.route(x[0], 50.0)
    assert (first.local, first.p_value) == (chosen.local[0], device.p_values(x)[0])
    evaluation = cr2fast.evaluate(careful, splits[2])
    for k, lam in enumerate(report.lams):
        for a, alpha in enumerate(report.alphas):
            before, after = (r.device(lam, alpha) for r in (router, careful))
            assert (before.defer_atypical, after.defer_atypical) == (None, level)
            expected = before.route_batch(x) & (after.p_values(x) > level)
            np.testing.assert_array_equal(after.route_batch(x), expected)
            one = [after.route(row) for row in x[:50]]
            assert [d.local for d in one] == expected[:50].tolist()
            assert [d.p_value for d in one] == after.p_values(x[:50]).tolist()
            assert evaluation.local_rate[k, a] == expected.mean()
    plain = cr2fast.evaluate(router, splits[2])
    assert (evaluation.false_acceptances <= plain.false_acceptances).all()


@pytest.mark.parametrize("level", [0, 1, -0.1, float("nan"), float("inf")])
def test_levels_out_of_range_are_refused(fitted, splits, level):
    with pytest.raises(cr2fast.Cr2Error, match="defer_atypical: expected a level strictly between"):
        calibrated(fitted, splits[1], defer_atypical=level)


def test_embeddings_that_are_none_are_refused(fitted, splits):
    router, _ = calibrated(fitted, splits[1])
    x = splits[2].embeddings
    for bad in (x[:, :3], np.where(x > 0, x, np.nan).astype(np.float32)):
        for call in (router.p_values, router.device(LAM, ALPHA).p_values):
            with pytest.raises(cr2fast.Cr2Error, match="embeddings"):
                call(bad)


def test_it_is_in_the_file_and_old_files_are_read_without_it(fitted, splits, tmp_path):
    router, _ = calibrated(fitted, splits[1], defer_atypical=0.05)
    x = splits[2].embeddings
    path = tmp_path / "router.safetensors"
    router.save(path)
    again = cr2fast.Router.load(path)
    assert again.to_bytes() == path.read_bytes()
    np.testing.assert_array_equal(again.p_values(x), router.p_values(x))
    device = cr2fast.DeviceRouter.load(path, LAM, ALPHA)
    assert device.defer_atypical == 0.05
    rounded = router.to_bfloat16()
    rounded.calibrate(splits[1], lams=[LAM])
    np.testing.assert_array_equal(rounded.p_values(x), router.p_values(x))
    # Not calibrated: nothing to compare with.
    with pytest.raises(cr2fast.Cr2Error, match="fit and calibrate again"):
        fitted.p_values(x)


def without(data, *names):
    """The artifact without some tensors, the way earlier versions wrote it."""
    from testing.artifacts import assemble, parts

    header, payload = parts(data)
    for name in names:
        start, end = header[name]["data_offsets"]
        payload = payload[:start] + payload[end:]
        del header[name]
        for k, entry in header.items():
            if k != "__metadata__" and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [o - (end - start) for o in entry["data_offsets"]]
    return rewritten(assemble(header, payload), lambda h, b: None)


SCORES, SCORE = "calibration.typicality", ("typicality.directions", "typicality.offsets")


def test_files_of_earlier_versions_route_and_say_what_they_cannot(fitted, splits):
    router, _ = calibrated(fitted, splits[1])
    old = cr2fast.Router.from_bytes(without(router.to_bytes(), SCORES, *SCORE))
    x = splits[2].embeddings
    new, device = router.device(LAM, ALPHA), old.device(LAM, ALPHA)
    np.testing.assert_array_equal(device.margins(x), new.margins(x))
    assert device.route(x[0]) == new.route(x[0])
    for call in (
        lambda: device.route(x[0], typicality=True),
        lambda: device.p_values(x),
        lambda: old.p_values(x),
    ):
        with pytest.raises(cr2fast.Cr2Error, match="fit and calibrate again"):
            call()
    with pytest.raises(cr2fast.Cr2Error, match="defer_atypical: expected a router with typicality"):
        old.calibrate(splits[1], lams=[LAM], defer_atypical=0.05)
    old.calibrate(splits[1], lams=[LAM])
    # Fitted with it, calibrated before: the next calibration keeps scores.
    half = cr2fast.Router.from_bytes(without(router.to_bytes(), SCORES))
    with pytest.raises(cr2fast.Cr2Error, match="fit and calibrate again"):
        half.device(LAM, ALPHA).p_values(x)
    half.calibrate(splits[1], lams=[LAM])
    np.testing.assert_array_equal(half.p_values(x), router.p_values(x))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (SCORE, "typicality"),
        (SCORE[:1], "a tensor typicality.directions"),
        (SCORE[1:], "a tensor typicality.offsets"),
    ],
)
def test_half_a_score_is_refused(fitted, splits, names, words):
    router, _ = calibrated(fitted, splits[1])
    with pytest.raises(cr2fast.Cr2Error, match=words):
        cr2fast.Router.from_bytes(without(router.to_bytes(), *names))


def test_forged_levels_and_shapes_are_refused(fitted, splits):
    data = calibrated(fitted, splits[1], defer_atypical=0.05)[0].to_bytes()

    def level(value):
        return lambda h, b: b["calibration"].update(defer_atypical=value)

    for value in (0, 1, -1, 7.5):
        with pytest.raises(cr2fast.Cr2Error, match="defer_atypical"):
            cr2fast.Router.from_bytes(rewritten(data, level(value)))
    bare = without(data, SCORES)
    with pytest.raises(cr2fast.Cr2Error, match="defer_atypical"):
        cr2fast.Router.from_bytes(bare)
    for shape in ([D, 4], [1, 4 * D]):
        with pytest.raises(cr2fast.Cr2Error, match="typicality"):
            cr2fast.Router.from_bytes(
                rewritten(data, lambda h, b, s=shape: h[SCORE[0]].update(shape=s))
            )
    with pytest.raises(cr2fast.Cr2Error, match="typicality embedding width"):
        fitted._core.with_typicality(np.ones((1, 3), np.float32), np.ones(1, np.float32))


def odd_texts():
    """Texts that no routing table of questions is about, by kind."""
    rng = random.Random(0)
    letters, marks = string.ascii_lowercase, string.punctuation
    words = [rng.choices(letters, k=rng.randint(2, 9)) for _ in range(400)]
    return {
        "empty": ["", " ", "\n\n", "\t"],
        "letters": ["".join(rng.choices(letters, k=n)) for n in (8, 20, 60, 200) * 5],
        "words": [" ".join("".join(w) for w in rng.choices(words, k=n)) for n in (3, 10, 40) * 7],
        "marks": ["".join(rng.choices(marks, k=n)) for n in (8, 20, 60, 200) * 5],
        "other scripts": [
            "今天天气怎么样?我想去公园散步。", "请解释一下量子力学的基本原理。", "如何制作红烧肉?",
            "明日の天気を教えてください。", "日本の歴史について簡単に説明してください。",
            "오늘 날씨가 어때요?", "맛있는 김치찌개를 만드는 방법을 알려주세요.",
            "Какая сегодня погода в Москве?", "Объясните принципы термодинамики простыми словами.",
            "ما هي عاصمة مصر؟", "اشرح لي نظرية النسبية باختصار.", "भारत की राजधानी क्या है?",
            "מה מזג האוויר היום?", "Ποια είναι η πρωτεύουσα της Ελλάδας;", "วันนี้อากาศเป็นอย่างไร",
            "🙂🙂🙂", "🚀🔥💯🎉",
        ],
    }  # fmt: skip


def test_odd_texts_are_flagged_and_real_questions_are_not(data_dir):
    """On MMLU-Pro under MiniLM, with the directions that a fit makes."""
    import polars as pl

    x = np.stack(pl.read_parquet(data_dir / "mmlu_pro_queries.parquet")["embedding"].to_numpy())
    order = np.random.default_rng(0).permutation(len(x))
    train, calibration, test = np.split(x[order], [7219, 9625])
    w = dict(zip(SCORE, minor_components(train), strict=True))
    kept = np.sort(oracle.typicality_scores(w, calibration))

    def rates(rows):
        scores = oracle.typicality_scores(w, rows)
        p = (1 + len(kept) - np.searchsorted(kept, scores, "left")) / (len(kept) + 1)
        return [float((p <= u).mean()) for u in (0.01, 0.05)]

    encoder = cr2fast.Encoder.load("minilm")
    found = {kind: rates(encoder.encode(texts)) for kind, texts in odd_texts().items()}
    found["test"] = rates(test)
    print({k: [round(r, 3) for r in v] for k, v in found.items()})
    for kind in odd_texts():
        assert found[kind][0] >= 0.9, found
        assert found[kind][1] >= 0.95, found
    assert found["test"][0] < 0.02
    assert 0.03 < found["test"][1] < 0.07


def test_the_command_line_defers_and_says_p_values(fitted, splits, tmp_path, capsys):
    from cr2fast import cli

    router, _ = calibrated(fitted, splits[1])
    path, x = tmp_path / "router.safetensors", tmp_path / "x.npy"
    router.save(path)
    np.save(x, splits[2].embeddings[:3])
    args = ["route", str(path), "--lam", "1", "--alpha", "0.05", "--embeddings", str(x)]
    assert cli.main([*args, "--typicality"]) == 0
    assert capsys.readouterr().out.count("p-value 0.") == 3
    assert cli.main([*args, "--typicality", "--n-input-tokens", "50", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = router.p_values(splits[2].embeddings[:3]).tolist()
    assert [row["p_value"] for row in rows] == expected
    assert cli.main(args) == 0
    assert "p-value" not in capsys.readouterr().out
    assert _core.Router.load(path).calibration["defer_atypical"] is None
