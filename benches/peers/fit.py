"""Training beside JAX under jit, two threads: the same networks, losses, optimiser and data.

In: a synthetic pool. Out: JSON on standard output: median and least seconds of a full step of each
stage, by cr2fast and by JAX, compilation left out. The loss curves must agree. `run.py` calls
it in a process of its own, whose XLA has its thread pool.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial

os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import cr2fast  # noqa: E402
from cr2fast.datasets import make_routing_problem  # noqa: E402
from testing.timing import Time  # noqa: E402

D, M, H, BATCH, EPOCHS, ROUNDS, J = 384, 4, 256, 256, 10, 3, 8
LR, DECAY, CLIP, DROPOUT = 3e-4, 0.01, 1.0, 0.1
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)


def uniform(key, shape, fan_in):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def teacher_start(key):
    k = jax.random.split(key, 4)
    return {
        "gain": jnp.ones((D, M)), "offset": jnp.zeros((M, D)),
        "w1": uniform(k[0], (D, M, H), D), "b1": uniform(k[1], (M * H,), D),
        "w2": uniform(k[2], (M * H,), H), "b2": uniform(k[3], (M,), H),
    }  # fmt: skip


def gate_start(key):
    k = jax.random.split(key, 5)
    return {
        "gain": jnp.ones((D, 1)), "offset": jnp.zeros((1, D)),
        "w1": uniform(k[0], (D, 1, H), D), "b1": uniform(k[1], (H,), D),
        "film_w": uniform(k[2], (9, 2 * H), 900), "film_b": jnp.r_[jnp.ones(H), jnp.zeros(H)],
        "w2": uniform(k[3], (H,), H), "b2": uniform(k[4], (1,), H),
        "eta": jnp.full((1,), jnp.log(jnp.expm1(0.1))),
    }  # fmt: skip


def trunk(p, x):
    """LayerNorm's affine folded into the first layer, as cr2fast does: the faster form."""
    w = (p["gain"][:, :, None] * p["w1"]).reshape(D, -1)
    return x @ w + jnp.einsum("md,dmh->mh", p["offset"], p["w1"]).reshape(-1)


def drop(key, a):
    return jnp.where(jax.random.bernoulli(key, 1 - DROPOUT, a.shape), a / (1 - DROPOUT), 0)


def bce(logits, y):
    return (jax.nn.softplus(logits) - logits * y).mean()


def teacher_loss(p, key, x, y):
    a = drop(key, jax.nn.gelu(trunk(p, x) + p["b1"], approximate=False)) * p["w2"]
    logits = a.reshape(-1, M, H).sum(-1) + p["b2"]
    pair = (1 - y)[:, :, None] * y[:, None, :]
    gap = jax.nn.softplus(logits[:, :, None] - logits[:, None, :]) * pair
    n = pair.sum((1, 2))
    rank = (gap.sum((1, 2)) / jnp.maximum(n, 1)).sum() / jnp.maximum((n > 0).sum(), 1)
    return bce(logits, y) + 0.5 * rank


def gate_margins(p, x, lams):
    log = jnp.log(lams)[:, None]
    angle = 2 * jnp.pi * jnp.array(FREQUENCIES) * log
    film = jnp.concatenate([log, jnp.sin(angle), jnp.cos(angle)], 1) @ p["film_w"] + p["film_b"]
    gamma, beta = film[:, None, :H], film[:, None, H:]
    return gamma * (trunk(p, x) + p["b1"]) + beta


def gate_loss(p, key, x, accuracy, cost, lams, w_mono):
    utility = accuracy - lams[:, None, None] * cost
    target = utility[..., 0] - utility[..., 1:].max(-1)
    a = drop(key, jax.nn.gelu(gate_margins(p, x, lams), approximate=False))
    margin = a @ p["w2"] + p["b2"]
    t = jax.nn.softplus(p["eta"]) + 1e-6
    q = jnp.minimum(jnp.abs(margin - target), 0.1)
    huber = (0.5 * q * q + 0.1 * (jnp.abs(margin - target) - q)).mean()
    mono = jax.nn.relu(margin[:-1] - margin[1:]).mean()
    return bce(margin / t, (target >= 0) * 1.0) + huber + w_mono * mono


@partial(jax.jit, static_argnums=0)
def step(loss, state, key, *batch):
    """One step of AdamW with the global norm clipped."""
    p, m, v, t = state
    value, g = jax.value_and_grad(loss)(p, key, *batch)
    norm = jnp.sqrt(sum((a * a).sum() for a in jax.tree.leaves(g)))
    g = jax.tree.map(lambda a: a * jnp.where(norm > CLIP, CLIP / norm, 1.0), g)
    t = t + 1
    m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
    v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
    c1, c2 = 1 / (1 - 0.9**t), 1 / (1 - 0.999**t)
    move = jax.tree.map(lambda a, b: a * c1 / (jnp.sqrt(b * c2) + 1e-8), m, v)
    p = jax.tree.map(lambda w, d: w * (1 - LR * DECAY) - LR * d, p, move)
    return (p, m, v, t), value


def train(loss, start, rows, batch):
    """Seconds of each step, and each epoch's mean loss. `batch(epoch, rows)` makes the rest."""
    p = start(jax.random.key(0))
    zeros = jax.tree.map(jnp.zeros_like, p)
    state, rng, key = (p, zeros, zeros, jnp.float32(0)), np.random.default_rng(1), jax.random.key(2)
    for size in {BATCH, rows % BATCH} - {0}:
        step(loss, state, key, *batch(0, np.arange(size)))[1].block_until_ready()
    curve, taken = [], []
    for epoch in range(EPOCHS):
        order = rng.permutation(rows)
        losses = []
        for at in range(0, rows, BATCH):
            begun = time.perf_counter()
            key = jax.random.fold_in(key, at)
            state, value = step(loss, state, key, *batch(epoch, order[at : at + BATCH]))
            losses.append(float(value))  # cr2fast reads the loss after every step, too
            taken.append(time.perf_counter() - begun)
        taken.pop()  # the epoch's last, smaller batch
        curve.append(float(np.mean(losses)))
    return taken, curve


def ours(train_split, costs):
    """Seconds of each step but a stage's first, whose start is not seen, and the loss curves."""
    calls = {}

    def progress(stage, done, total, loss):
        calls.setdefault(stage, []).append((time.perf_counter(), done, loss))

    router = cr2fast.fit(
        train_split, costs, recipe="paper", lam_range=(0.1, 20.0),
        teacher_epochs=EPOCHS, gate_epochs=EPOCHS, threads=2, progress=progress,
    )  # fmt: skip
    times, curves = {}, {}
    for stage in ("teacher", "gate"):
        seen = calls[stage]
        ends = np.array([now for now, _, _ in seen])
        full = [abs(done - round(done)) > 1e-9 for _, done, _ in seen]
        times[stage] = np.diff(ends)[full[1:]]
        curves[stage] = [loss for _, done, loss in seen if abs(done - round(done)) < 1e-9]
    return router, times, curves


def main():
    problem = make_routing_problem(n=8000, d=D)
    split, _, _ = problem.table.split()
    router, _, _ = ours(split, problem.costs)
    record = router.training
    n = record["n_train"]
    x = split.embeddings[:n] - split.embeddings[:n].mean(1, keepdims=True)
    x = jnp.asarray(x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5))
    y = jnp.asarray(split.correct[:n], jnp.float32)
    accuracy = jnp.asarray(router.accuracies(split.embeddings[:n]))
    tables = []
    for seed in range(EPOCHS):
        states = router.costs.sample_states(len(split), 1000 + seed)
        lengths = router.predict_lengths(split.embeddings, split.n_input_tokens)
        tables.append(jnp.asarray(router.costs.cost(split.n_input_tokens, lengths, states)[:n]))
    rng, w_mono = np.random.default_rng(3), record["monotone"]["w_mono_used"]

    def lams():
        return jnp.asarray(np.sort(np.exp(rng.uniform(np.log(0.1), np.log(20), J))), jnp.float32)

    peers = {
        "teacher": lambda: train(teacher_loss, teacher_start, n, lambda _, r: (x[r], y[r])),
        "gate": lambda: train(
            gate_loss, gate_start, n,
            lambda e, r: (x[r], accuracy[r], tables[e][r], lams(), w_mono),
        ),
    }  # fmt: skip
    seconds = {stage: {"cr2fast": [], "jax jit": []} for stage in peers}
    for _ in range(ROUNDS):
        _, times, curves = ours(split, problem.costs)
        for stage, peer in peers.items():
            taken, curve = peer()
            seconds[stage]["cr2fast"].extend(times[stage])
            seconds[stage]["jax jit"].extend(taken)
            # Other random numbers (the gate draws eight λ a step), the same curve.
            gap = abs(np.mean(curves[stage][2:]) / np.mean(curve[2:]) - 1)
            assert gap < 0.08, f"{stage}: curves differ by {gap:.0%}: {curves[stage]} {curve}"
    print(
        json.dumps(
            {
                f"{stage}: a step of {BATCH} rows, 2 threads": {
                    name: Time.of(turns) for name, turns in both.items()
                }
                for stage, both in seconds.items()
            }
        )
    )


if __name__ == "__main__":
    main()
