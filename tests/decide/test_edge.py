"""EdgeSelector: the best utility among those allowed and available."""

from __future__ import annotations

import numpy as np
import pytest

import cr2fast
from testing import oracle


@pytest.fixture(scope="module")
def edge(artifact):
    return cr2fast.EdgeSelector.load(artifact, 1.0)


@pytest.fixture(scope="module")
def world(artifact, splits):
    """Test queries with their states, p, and c with predicted lengths."""
    router = cr2fast.Router.load(artifact)
    test = splits[2]
    states = router.costs.sample_states(len(test), 5)
    p = router.accuracies(test.embeddings)
    c = router.decision_costs(test, states, "predicted")
    return router, test, states, p, c


@pytest.mark.parametrize(
    ("rule", "fallback", "candidates"),
    [
        ("edge-only", None, (1, 2, 3)),
        ("inclusive", None, (0, 1, 2, 3)),
        ("fallback", "edge-2", (2,)),
    ],
)
def test_selection_is_the_best_utility(artifact, world, rule, fallback, candidates):
    _, test, states, p, c = world
    edge = cr2fast.EdgeSelector.load(artifact, 1.0, rule, fallback)
    got = edge.select_batch(test.embeddings, test.n_input_tokens, states)
    assert len(got) == len(test)
    expected = [oracle.choose(p[i], c[i], 1.0, candidates) for i in range(len(test))]
    np.testing.assert_array_equal(got.index, expected)
    rows = np.arange(len(test))
    np.testing.assert_array_equal(got.accuracy, p[rows, got.index])
    np.testing.assert_array_equal(got.cost, c[rows, got.index])
    np.testing.assert_array_equal(got.utility, got.accuracy.astype(float) - got.cost)
    if rule != "fallback":
        assert len(set(got.index.tolist())) > 1


def test_single_equals_batch(edge, world):
    _, test, states, _, _ = world
    got = edge.select_batch(test.embeddings, test.n_input_tokens, states, threads=2)
    for i in range(0, len(test), 41):
        one = edge.select(test.embeddings[i], test.n_input_tokens[i], states[i])
        assert one.model == got.models[got.index[i]]
        assert (one.utility, one.accuracy, one.cost) == (
            got.utility[i],
            got.accuracy[i],
            got.cost[i],
        )


@pytest.mark.parametrize("rule", ["edge-only", "inclusive", "fallback"])
@pytest.mark.parametrize("available", [None, ["device-s", "edge-2", "edge-3"]])
@pytest.mark.parametrize("known", [False, True])
def test_single_equals_batch_under_every_rule(artifact, world, rule, available, known):
    _, test, states, _, _ = world
    fallback = "edge-3" if rule == "fallback" else None
    edge = cr2fast.EdgeSelector.load(artifact, 0.5, rule=rule, fallback=fallback)
    lengths = test.n_output_tokens if known else None
    x, n_in = test.embeddings, test.n_input_tokens
    got = edge.select_batch(x, n_in, states, available, lengths)
    for i in range(0, len(test), 29):
        one = edge.select(x[i], n_in[i], states[i], available, lengths[i] if known else None)
        assert one.model == got.models[got.index[i]]
        assert (one.utility, one.cost) == (got.utility[i], got.cost[i])


def test_known_lengths_change_what_is_chosen(edge, world):
    router, test, states, p, _ = world
    c = router.costs.cost(test.n_input_tokens, test.n_output_tokens, states)
    got = edge.select_batch(
        test.embeddings, test.n_input_tokens, states, n_output_tokens=test.n_output_tokens
    )
    expected = [oracle.choose(p[i], c[i], 1.0, (1, 2, 3)) for i in range(len(test))]
    np.testing.assert_array_equal(got.index, expected)


def test_availability_by_name_and_by_mask(edge, world):
    _, test, states, p, c = world
    args = (test.embeddings[0], test.n_input_tokens[0], states[0])
    by_name = edge.select(*args, available=["edge-1", "edge-3"])
    by_mask = edge.select(*args, available=[False, True, False, True])
    assert by_name.model == by_mask.model == edge.models[oracle.choose(p[0], c[0], 1.0, (1, 3))]
    assert edge.select(*args, available={"edge-2"}).model == "edge-2"


@pytest.mark.parametrize(
    ("available", "words"),
    [
        ([], "available: expected at least one model"),
        (["device-s"], 'available: expected at least one model that the rule "edge-only" allows'),
        (["gpt"], "available: expected names among .*gpt"),
        ([True, True], "available .*length 4, got length 2"),
        (5, "available: expected model names, or 4 booleans, got 5"),
    ],
)
def test_bad_availability_is_named(edge, world, available, words):
    _, test, states, _, _ = world
    with pytest.raises(cr2fast.Cr2Error, match=words):
        edge.select(test.embeddings[0], 10, states[0], available=available)


def test_bad_input_is_named(edge, artifact):
    x, state = np.zeros(40, np.float32), cr2fast.LinkState(1e6, 1e6, 0.01)
    with pytest.raises(cr2fast.Cr2Error, match="embedding: expected length 40, got length 3"):
        edge.select(x[:3], 10, state)
    with pytest.raises(TypeError, match="embedding: .*float64"):
        edge.select(x.astype(float), 10, state)
    for tokens in (-1, float("nan"), float("inf")):
        with pytest.raises(cr2fast.Cr2Error, match=r"n_input_tokens\[0\]: expected a token count"):
            edge.select(x, tokens, state)
    with pytest.raises(cr2fast.Cr2Error, match="n_output_tokens"):
        edge.select(x, 10, state, n_output_tokens=[1.0, 2.0])
    states = cr2fast.LinkStates([1e6] * 3, [1e6] * 3, [0.0] * 3)
    with pytest.raises(
        cr2fast.Cr2Error, match=r"n_output_tokens: expected shape \[3, 4\], got \[4, 3\]"
    ):
        edge.select_batch(
            np.zeros((3, 40), np.float32), [9, 9, 9], states, n_output_tokens=np.ones((4, 3))
        )
    with pytest.raises(cr2fast.Cr2Error, match="rule: expected"):
        cr2fast.EdgeSelector.load(artifact, 1.0, "cheapest")
    with pytest.raises(cr2fast.Cr2Error, match="fallback: expected one of the edge models"):
        cr2fast.EdgeSelector.load(artifact, 1.0, "fallback", "device-s")
    with pytest.raises(cr2fast.Cr2Error, match="lam"):
        cr2fast.EdgeSelector.load(artifact, -1.0)
    with pytest.raises(cr2fast.ArtifactError, match="got other"):
        cr2fast.EdgeSelector.load(artifact, 1.0, encoder=cr2fast.EncoderInfo("other"))
