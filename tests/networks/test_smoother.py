"""The kernel smoother as a part of the teacher: its plain twin, files, and the same bits on every path."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import cr2fast
from testing import oracle
from testing.artifacts import put, rewritten
from testing.hashed import with_texts

LAM, ALPHA = 1.0, 0.05


def no_scalars(header, _):
    header["smoother.others"] = header.pop("smoother.scalars")


@pytest.mark.parametrize("features", [False, True])
def test_the_smoother_is_its_twin(features, tmp_path):
    table, costs = with_texts()
    train, calibration, test = table.split(seed=0)
    fits = [
        cr2fast.fit(
            train, costs, features=features, smoother_share=share, smoother_centres=centres,
            teacher_epochs=2, gate_epochs=1, lam_range=(0.1, 20.0), progress=False,
        )
        for share, centres in ((0.0, 8192), (0.75, 8192), (0.75, 40))
    ]  # fmt: skip
    alone = fits[0]
    rows = alone.inputs(test)
    for router in fits[1:]:
        router.save(tmp_path / "r.safetensors")
        stored = oracle.read_tensors(router.to_bytes())
        scale, share = stored["smoother.scalars"].astype(float)
        assert share == 0.75
        f = oracle.smoother(
            rows,
            stored["smoother.centres"],
            stored["smoother.coefficients"],
            stored["smoother.mean"],
            scale,
        )
        expected = (1 - share) * alone.accuracies(rows).astype(float) + share * f
        p = router.accuracies(rows)
        # Near centres, distances are small differences of single-precision squares.
        np.testing.assert_allclose(p, expected, atol=2e-4)
        again = cr2fast.Router.load(tmp_path / "r.safetensors")
        np.testing.assert_array_equal(again.accuracies(rows), p)
        # One row or many, one thread or two: the same bits; and so at the edge.
        for i in range(5):
            np.testing.assert_array_equal(router.accuracies(rows[i : i + 1], 1)[0], p[i])
        router.calibrate(calibration, lams=[LAM], alphas=[ALPHA])
        edge = router.edge(LAM)
        state = router.two_stage(LAM, ALPHA).typical_state
        chosen = [edge.select(rows[i], 20, state) for i in range(5)]
        models = [router.models.index(c.model) for c in chosen]
        assert [c.accuracy for c in chosen] == [p[i, m] for i, m in enumerate(models)]
        copied = pickle.loads(pickle.dumps(edge))
        assert copied.select(rows[0], 20, state) == chosen[0]
        # A gate of its own keeps the smoother.
        gate = cr2fast.fit(train, costs, teacher=router, gate_epochs=1, progress=False, seed=2)
        np.testing.assert_array_equal(gate.accuracies(rows), p)
        assert (
            router.parameters["smoother"]
            == sum(stored[f"smoother.{n}"].size for n in ("centres", "coefficients", "mean")) + 1
        )
        for change in (put(format="cr2fast.router/1"), no_scalars):
            with pytest.raises(cr2fast.Cr2Error):
                cr2fast.Router.from_bytes(rewritten(router.to_bytes(), change))
    assert len(stored["smoother.centres"]) == 40
    with pytest.raises(cr2fast.Cr2Error, match="smoother_share"):
        cr2fast.fit(train, costs, recipe="paper", smoother_share=0.5, progress=False)
