"""Old names of renamed things: each works for one minor version, and warns."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest

import cr2fast
from cr2fast import cli


def calibrated(splits, fitted, **options):
    router = cr2fast.Router(fitted._core)
    return router, router.calibrate(splits[1], lams=[1.0], alphas=(0.05,), **options)


def test_reference_is_judge(splits, fitted):
    router, report = calibrated(splits, fitted, judge="outcomes")
    with pytest.warns(DeprecationWarning, match="reference= is now judge=; .* version 0.2"):
        _, old = calibrated(splits, fitted, reference="outcomes")
    np.testing.assert_array_equal(old.thresholds, report.thresholds)
    with pytest.raises(TypeError, match="expected judge only, got both"):
        calibrated(splits, fitted, judge="teacher", reference="teacher")
    evaluation = cr2fast.evaluate(router, splits[2])
    for owner in (report, evaluation):
        with pytest.warns(DeprecationWarning, match=r"\.reference is now .*\.judge"):
            assert owner.reference == owner.judge == "outcomes"
        assert owner.to_dict()["reference"] == owner.to_dict()["judge"] == "outcomes"
    with pytest.warns(DeprecationWarning, match="judge"):
        assert router.calibration["reference"] == "outcomes"
    with pytest.raises(KeyError):
        router.calibration["refer"]
    with pytest.warns(DeprecationWarning, match="judged_accuracies"):
        router.reference_accuracies(splits[1], "teacher")


def test_weights_are_precision(fitted):
    with pytest.warns(DeprecationWarning, match="Router.weights is now Router.precision"):
        assert fitted.weights == fitted.precision == "float32"


def test_scores_are_margins(splits, fitted):
    router, _ = calibrated(splits, fitted)
    margins = router.margins(splits[2].embeddings, [1.0])[0]
    with pytest.warns(DeprecationWarning, match="scores= is now margins="):
        assert router.check_drift(scores=margins) == router.check_drift(margins)


def test_cost_at_accuracy_is_cheapest(splits, fitted):
    evaluation = cr2fast.evaluate(calibrated(splits, fitted)[0], splits[2])
    with pytest.warns(DeprecationWarning, match="cheapest"):
        assert evaluation.cost_at_accuracy(0.0) == evaluation.cheapest(0.0)["cost"]
    with pytest.warns(DeprecationWarning, match="cheapest"):
        assert np.isnan(evaluation.cost_at_accuracy(1.01))


def test_old_flags_say_the_new_ones(artifact, capsys, tmp_path):
    for flag, value, new in (("--weights", "float16", "--precision"),):
        code = cli.main(["fit", "--data", str(tmp_path), flag, value])
        assert code == 2, "an empty folder is the error, not the flag"
        assert f"{flag} is now {new}; the old name goes" in capsys.readouterr().err
    args = ["--data", str(tmp_path), "--reference", "outcomes"]
    assert cli.main(["calibrate", str(artifact), *args]) == 2
    assert "--reference is now --judge" in capsys.readouterr().err
    assert cli.main(["inspect", str(artifact), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["weights"] == said["precision"] == "float32"
    assert said["calibration"]["reference"] == said["calibration"]["judge"] == "teacher"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("drift", "calibration.drift"),
        ("intervals", "evaluation.intervals"),
        ("mmlu_pro", "data.mmlu_pro"),
        ("report", "evaluation.report"),
        ("table", "data.table"),
        ("text_encoder", "encoders.onnx"),
    ],
)
def test_moved_modules_are_found(old, new):
    sys.modules.pop(f"cr2fast.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"cr2fast.{old} is now cr2fast.{new};"):
        found = importlib.import_module(f"cr2fast.{old}")
    moved = importlib.import_module(f"cr2fast.{new}")
    assert found is moved
    assert moved.__spec__.name == moved.__name__ == f"cr2fast.{new}"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"cr2fast.{old}s_of_old")
