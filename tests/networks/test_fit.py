"""fit: reproducible, interruptible, honest about what it did, and strict about its input."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest

import cr2fast
from cr2fast.data.content import warn_if_alike
from cr2fast.datasets import make_routing_problem, synthetic_costs

TINY = {"hidden": 8, "teacher_epochs": 2, "gate_epochs": 2, "batch": 64}


@pytest.fixture(scope="module")
def small():
    return make_routing_problem(n=600, d=16, seed=2)


def test_run_to_run_the_bytes_are_the_same(small):
    one, two = (cr2fast.fit(small.table, small.costs, seed=3, progress=False, **TINY) for _ in "ab")
    assert one.to_bytes() == two.to_bytes()
    other = cr2fast.fit(small.table, small.costs, seed=4, progress=False, **TINY)
    assert other.to_bytes() != one.to_bytes()


def test_parameter_counts_are_the_papers():
    problem = make_routing_problem(n=200, d=384, models=4, seed=0)
    router = cr2fast.fit(
        problem.table, problem.costs, teacher_epochs=1, gate_epochs=1, progress=False
    )
    assert router.parameters == {"gate": 104_706, "teacher": 398_340}


def test_it_learns(fitted, splits, problem):
    """Held-out losses fall, and accuracies order queries better than chance."""
    record = fitted.training
    for stage in ("teacher", "gate"):
        losses = record[stage]["held_out"]
        best = record[stage]["best_epoch"]
        assert losses[best - 1] == min(losses) < losses[0]
    test = splits[2]
    p = fitted.accuracies(test.embeddings)
    for m in range(4):
        right, wrong = p[test.correct[:, m], m], p[~test.correct[:, m], m]
        auc = (right[:, None] > wrong[None]).mean()
        assert auc > 0.54, (m, auc)


def test_the_gate_follows_the_teachers_margin(fitted, splits):
    from cr2fast import _core

    test = splits[2]
    states = fitted.costs.sample_states(len(test), 9)
    c = fitted.decision_costs(test, states, "predicted")
    target = _core.choice_margins(fitted.accuracies(test.embeddings), c, [0.3, 1.0, 3.0])
    margins = fitted.margins(test.embeddings, [0.3, 1.0, 3.0])
    for row in range(3):
        assert np.corrcoef(target[row], margins[row])[0, 1] > 0.5


def test_the_record_says_what_was_done(fitted, splits):
    record = fitted.training
    assert record["n_train"] + record["n_holdout"] == len(splits[0])
    assert record["config"]["lams_per_step"] == 8
    assert len(record["teacher"]["loss"]) == record["config"]["teacher_epochs"]
    assert record["monotone"]["pairs_with_dearer_local"] <= 1
    assert {"r2_log", "mean_tokens", "mean_predicted"} <= set(record["length"]["held_out"][0])


def test_the_monotone_penalty_is_dropped_where_local_is_dear(small):
    table = json.loads(small.costs.to_json())
    table["models"][0]["beta_dec_s"] = 1.0
    costs = cr2fast.CostTable.from_json(json.dumps(table))
    record = cr2fast.fit(small.table, costs, progress=False, **TINY).training["monotone"]
    assert record["pairs_with_dearer_local"] > 0.9
    assert record["w_mono_used"] == 0
    record = cr2fast.fit(small.table, small.costs, progress=False, **TINY).training["monotone"]
    assert record["pairs_with_dearer_local"] <= record["tolerance"]
    assert record["w_mono_used"] == 1


def test_known_lengths_make_another_gate_and_the_same_teacher(small):
    a = cr2fast.fit(small.table, small.costs, progress=False, **TINY)
    b = cr2fast.fit(small.table, small.costs, progress=False, lengths="known", **TINY)
    x = small.table.embeddings
    np.testing.assert_array_equal(a.accuracies(x), b.accuracies(x))
    assert (a.margins(x, [1.0]) != b.margins(x, [1.0])).any()
    assert (a.lengths, b.lengths) == ("predicted", "known")


def test_progress_is_told(small):
    seen = []
    cr2fast.fit(small.table, small.costs, progress=lambda *p: seen.append(p), **TINY)
    stages = list(dict.fromkeys(stage for stage, *_ in seen))
    assert stages == ["smoother", "copies", "teacher", "gate"]
    assert all(0 <= done <= total and np.isfinite(loss) for _, done, total, loss in seen)
    for stage, total in (("smoother", 1), ("copies", 8), ("teacher", 2), ("gate", 2)):
        own = [(done, n) for s, done, n, _ in seen if s == stage]
        assert own[-1] == (total, total), stage
        assert own == sorted(own), stage


def test_recipes_set_the_defaults_and_options_override_them(small):
    def config(**options):
        router = cr2fast.fit(small.table, small.costs, progress=False, **(TINY | options))
        return router.training["config"]

    ours, papers = config(), config(recipe="paper")
    assert (ours["smoothing"], ours["cosine"], ours["dropout"]) == (True, True, 0.0)
    assert (papers["smoothing"], papers["cosine"], papers["dropout"]) == (False, False, 0.1)
    assert (papers["lr"], papers["w_rank"], papers["holdout"]) == (3e-4, 0.5, 0.15)
    assert config(recipe="paper", dropout=0.3)["dropout"] == 0.3
    assert config(smoothing=False)["smoothing"] is False


def test_without_film_the_scale_does_not_depend_on_lam(small):
    router = cr2fast.fit(small.table, small.costs, progress=False, film=False, **TINY)
    gate = _gate(router.to_bytes())
    h = len(gate["gate.film.bias"]) // 2
    weight = gate["gate.film.weight"].reshape(2 * h, -1)
    assert (weight[:h] == 0).all()
    assert (gate["gate.film.bias"][:h] == 1).all()
    assert (weight[h:] != 0).any()


def _gate(data):
    size = int.from_bytes(data[:8], "little")
    header, payload = json.loads(data[8 : 8 + size]), data[8 + size :]
    return {
        name: np.frombuffer(payload[slice(*spec["data_offsets"])], dtype="<f4")
        for name, spec in header.items()
        if name.startswith("gate.")
    }


def test_a_gate_can_be_fitted_to_anothers_teacher(small):
    half = len(small.table) // 2
    first, second = small.table.take(range(half)), small.table.take(range(half, 2 * half))
    base = cr2fast.fit(first, small.costs, progress=False, **TINY)
    options = {"teacher": base, "progress": False, **TINY}
    router = cr2fast.fit(second, small.costs, lengths="known", seed=5, **options)
    x, n = small.table.embeddings, small.table.n_input_tokens
    np.testing.assert_array_equal(router.accuracies(x), base.accuracies(x))
    np.testing.assert_array_equal(router.predict_lengths(x, n), base.predict_lengths(x, n))
    assert (router.margins(x, [1.0]) != base.margins(x, [1.0])).any()
    assert router.costs.normalizers == base.costs.normalizers
    assert router.training["teacher"] is None
    for part in (first, second):
        with pytest.raises(cr2fast.SplitOverlapError):
            router.calibrate(part)
    with pytest.raises(TypeError, match="teacher: expected a Router"):
        cr2fast.fit(second, small.costs, **(options | {"teacher": base._core}))
    other = make_routing_problem(n=200, d=16, models=3, seed=2)
    with pytest.raises(cr2fast.Cr2Error, match="models"):
        cr2fast.fit(other.table, other.costs, **options)
    wide = make_routing_problem(n=200, d=20, seed=2)
    with pytest.raises(cr2fast.Cr2Error, match="encoder: the router was fitted on"):
        cr2fast.fit(wide.table, small.costs, **options)
    unnamed = replace(wide.table, encoder=small.table.encoder)
    with pytest.raises(cr2fast.Cr2Error, match="embedding width"):
        cr2fast.fit(unnamed, small.costs, **options)


def test_identical_embeddings_do_not_break_the_smoother(small):
    t = small.table.take(range(100))
    same = replace(t, embeddings=np.repeat(t.embeddings[:1], 100, axis=0))
    with pytest.warns(UserWarning, match="treat all queries alike"):
        router = cr2fast.fit(same, small.costs, progress=False, **TINY)
    assert np.isfinite(router.accuracies(same.embeddings)).all()


def test_queries_are_told_apart_by_any_of_them():
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32), 9000, axis=0)
    with pytest.warns(UserWarning, match="all 9000 queries are the same"):
        warn_if_alike(x * np.linspace(1, 2, 9000, dtype=np.float32)[:, None], "train")
    x[8500] = x[8500, ::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_alike(x, "train")


def test_an_error_in_the_callback_stops_the_fit(small):
    def fail(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        cr2fast.fit(small.table, small.costs, progress=fail, **(TINY | {"teacher_epochs": 10_000}))


def test_ctrl_c_stops_the_fit_soon(small):
    # Processes started in the background inherit an ignored SIGINT.
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    training, stages = threading.Event(), []
    # Longer than any machine is too busy to send a signal.
    minutes = {"teacher_epochs": 10_000, "batch": 4}

    def watch(stage, done, total, loss):
        stages.append((stage, done))
        if stage == "teacher":
            training.set()

    def interrupt():
        training.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            cr2fast.fit(small.table, small.costs, progress=watch, **(TINY | minutes))
    finally:
        training.set()
        thread.join()
        signal.signal(signal.SIGINT, old)
    stage, done = stages[-1]
    assert stage == "teacher"
    assert done < 5000, "it stops long before the last epoch"


def test_normalizers_are_set_on_the_training_split(small, fitted, splits, problem):
    assert problem.costs.normalizers is None
    states = problem.costs.sample_states(len(splits[0]), 0)
    expected = problem.costs.normalized_on(
        splits[0].n_input_tokens, splits[0].n_output_tokens, states
    )
    assert fitted.costs.normalizers == expected.normalizers


def test_models_in_another_order_or_missing_are_refused(small):
    order = ["device-s", "edge-2", "edge-1", "edge-3"]
    with pytest.raises(
        cr2fast.Cr2Error, match=r"cost table: expected .* in this order.*costs.select"
    ):
        cr2fast.fit(small.table, small.costs.select(order), progress=False, **TINY)
    with pytest.raises(cr2fast.Cr2Error, match="models of the cost table"):
        cr2fast.fit(small.table, synthetic_costs(5), progress=False, **TINY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 3}, "epochs: no option of a fit has this name; the nearest is gate_epochs"),
        ({"hiden": 3}, "hiden: .*the nearest is hidden"),
        ({"hidden": 8.5}, "hidden: expected a whole number, got 8.5"),
        ({"hidden": True}, "hidden: expected a whole number, got True"),
        ({"film": 1}, "film: expected True or False, got 1"),
        ({"hidden": 0}, "hidden: expected 1 to"),
        ({"lr": -1.0}, "lr: expected a positive number, got -1"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\)"),
        ({"holdout": 0.9}, "holdout: expected"),
        ({"lam_range": (0.1, 1.0, 5.0)}, "lam_range: expected two positive numbers"),
        ({"lam_range": (0.1, float("inf"))}, "lam_range: expected two positive numbers"),
        ({"lr": float("nan")}, "lr: expected a finite number, got nan"),
        ({"hidden": "wide"}, "hidden: expected a whole number, got 'wide'"),
        ({"threads": -1}, "threads: expected 0"),
        ({"lam_range": (1.0, 0.5)}, "lam_range: expected two positive numbers, lowest first"),
        ({"lam_range": (0.0, 0.5)}, "lam_range: expected two positive numbers"),
        ({"lam_range": (0.1, 1e13)}, "lam_high: expected a number above lam_low, at most 1e6"),
        ({"lam_range": "ab"}, "lam_range: expected two positive numbers"),
        ({"lengths": "guessed"}, "lengths: expected 'predicted' or 'known', got 'guessed'"),
        ({"recipe": "secret"}, "recipe: expected 'smoothed' or 'paper', got 'secret'"),
        ({"kernel_ridge": 0.0}, "kernel_ridge: expected a positive number"),
        (
            {"lam_range": (100.0, np.nextafter(100.0, 200))},
            "lam_high: expected a number well above",
        ),
        ({"lam_low": 0.5}, r"lam_low: expected lam_range=\(low, high\) in its place"),
        ({"copies": 0}, "copies: expected 1 to 1024"),
        ({"jitter": -1.0}, "jitter: expected a number, at least 0"),
        ({"seed": -1}, "seed: expected a whole number"),
    ],
)
def test_bad_options_are_named(small, options, words):
    with pytest.raises(cr2fast.Cr2Error, match=words):
        cr2fast.fit(small.table, small.costs, progress=False, **options)


def test_numpy_scalars_are_numbers(small):
    options = TINY | {"hidden": np.int64(8), "lr": np.float32(0.001)}
    router = cr2fast.fit(small.table, small.costs, progress=False, **options)
    assert router.training["config"]["hidden"] == 8


def test_transposed_tables_are_refused(small):
    from cr2fast import _core

    t = small.table.take(range(40))
    costs = small.costs.with_normalizers(1.0, 1.0)
    for correct, n_output in (
        (np.ascontiguousarray(t.correct.T), t.n_output_tokens),
        (t.correct, t.n_output_tokens.T),
    ):
        with pytest.raises(cr2fast.Cr2Error, match=r"expected shape \[40, 4\], got \[4, 40\]"):
            _core.fit(
                t.embeddings, correct, t.n_input_tokens, n_output, costs, "{}", ("x", ""),
                list(t.query_ids), None, 1, None,
            )  # fmt: skip


def test_other_types_are_named(small):
    with pytest.raises(TypeError, match="costs: expected a CostTable, got NoneType"):
        cr2fast.fit(small.table, None, progress=False)
    with pytest.raises(TypeError, match="train: expected a RoutingTable, got dict"):
        cr2fast.fit({}, small.costs, progress=False)


_FORKED = """
import os, warnings, cr2fast
from cr2fast.datasets import make_routing_problem
p = make_routing_problem(n=100, d=8)
fit = lambda: cr2fast.fit(p.table, p.costs, progress=False, hidden=4, teacher_epochs=1, gate_epochs=1)
router = fit()
warnings.simplefilter("ignore")
if os.fork() == 0:
    print(router.accuracies(p.table.embeddings, threads=2).shape, flush=True)
    try:
        fit()
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_serves_and_says_why_it_does_not_fit():
    result = subprocess.run(
        [sys.executable, "-c", _FORKED], capture_output=True, text=True, check=True, timeout=120
    )
    shape, message = result.stdout.splitlines()
    assert shape == "(100, 4)"
    assert "forked child" in message
    assert "spawn" in message


def test_too_few_queries_are_refused(small):
    with pytest.raises(
        cr2fast.Cr2Error, match="training split: expected at least 20 queries, got 5"
    ):
        cr2fast.fit(small.table.take(range(5)), small.costs, progress=False, **TINY)


def test_a_diverging_fit_says_so(small):
    with pytest.raises(cr2fast.Cr2Error, match="expected a finite loss|finite numbers|margin"):
        cr2fast.fit(small.table, small.costs, progress=False, **(TINY | {"lr": 1e30}))


def test_models_that_are_always_right_or_wrong_are_fine(small):
    for value in (True, False):
        table = replace(small.table, correct=np.full_like(small.table.correct, value))
        router = cr2fast.fit(table, small.costs, progress=False, **TINY)
        assert np.isfinite(router.accuracies(table.embeddings)).all()


def test_options_are_a_class_or_keywords(small):
    options = cr2fast.FitOptions(**TINY)
    a = cr2fast.fit(small.table, small.costs, progress=False, options=options)
    b = cr2fast.fit(small.table, small.costs, progress=False, **TINY)
    assert a.to_bytes() == b.to_bytes()
    with pytest.raises(cr2fast.Cr2Error, match="hidden: expected it once"):
        cr2fast.fit(small.table, small.costs, options=options, hidden=3)
    with pytest.raises(TypeError, match="options: expected a FitOptions, got dict"):
        cr2fast.fit(small.table, small.costs, options={"hidden": 3})


def test_every_option_is_described_with_its_defaults(small):
    table = small.table.take(range(60))
    ours, papers = (
        cr2fast.fit(table, small.costs, progress=False, recipe=r).training["config"]
        for r in ("smoothed", "paper")
    )
    said = re.findall(
        r"^    (\w+) : (?:int|float|bool)\n((?:     .*\n)+)", cr2fast.FitOptions.__doc__, re.M
    )
    assert [name for name, _ in said] == [f.name for f in fields(cr2fast.FitOptions)]
    given = {"recipe", "seed", "lam_low", "lam_high", "lengths"}
    for config in (ours, papers):  # Not in the record of a gate that does not see the link.
        assert config.setdefault("link_features", False) is False
    assert {name for name, _ in said} == ours.keys() - given
    for name, text in said:
        found = re.search(r"Default\s+([\w.]+?)(?:\s+\(([\w.]+)\))?\.\s*$", text)
        default = ast.literal_eval(found[1])
        other = default if found[2] is None else ast.literal_eval(found[2])
        assert (default, other) == (ours[name], papers[name]), name
