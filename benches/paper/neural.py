"""The neural baselines, in JAX: EmbedLLM's matrix factorisation and an LLMRank-style ranker.

In: a training split. Out: functions queries -> p (N, M), evaluated in NumPy.
EmbedLLM: arXiv 2410.02223. The ranker stands for LLMRank: cheap text features and the embedding in
one network that is trained to rank the models of a query.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

EMBEDLLM_WIDTH = 232
RANK_WIDTHS = (512, 256)


def _linear(key, fan_in, fan_out):
    bound = fan_in**-0.5
    w, b = jax.random.split(key)
    return {
        "w": jax.random.uniform(w, (fan_in, fan_out), minval=-bound, maxval=bound),
        "b": jax.random.uniform(b, (fan_out,), minval=-bound, maxval=bound),
    }


def count(params):
    """Learned numbers."""
    return sum(x.size for x in jax.tree.leaves(params))


def _batches(rng, n, size):
    order = rng.permutation(n)
    # Whole batches, so that one compiled step serves all.
    return order[: max(n // size, 1) * size].reshape(-1, min(size, n))


# EmbedLLM -----------------------------------------------------------------------------------------


def embedllm_params(key, d, models):
    keys = jax.random.split(key, 3)
    return {
        "models": jax.random.normal(keys[0], (models, EMBEDLLM_WIDTH)),
        "text": _linear(keys[1], d, EMBEDLLM_WIDTH),
        "out": _linear(keys[2], EMBEDLLM_WIDTH, 2),
    }


def embedllm(train, features, seed, epochs=50, batch=2048, lr=1e-4, decay=1e-5, noise=0.05):
    """logits = W_c(P[m] * (W_t q + b_t)) + b_c; noise on q in training."""
    x, y = train.embeddings, train.correct.astype(np.int32)
    n, models = y.shape
    params = embedllm_params(jax.random.PRNGKey(seed), x.shape[1], models)
    optimiser = optax.chain(optax.add_decayed_weights(decay), optax.adam(lr))
    state = optimiser.init(params)

    def logits(p, model, q):
        hidden = p["models"][model] * (q @ p["text"]["w"] + p["text"]["b"])
        return hidden @ p["out"]["w"] + p["out"]["b"]

    @jax.jit
    def step(p, state, model, q, label, key):
        def loss(p):
            noisy = q + noise * jax.random.normal(key, q.shape)
            out = logits(p, model, noisy)
            return optax.softmax_cross_entropy_with_integer_labels(out, label).mean()

        updates, state = optimiser.update(jax.grad(loss)(p), state, p)
        return optax.apply_updates(p, updates), state

    rng, key = np.random.default_rng(seed), jax.random.PRNGKey(seed + 1)
    for _ in range(epochs):
        for rows in _batches(rng, n * models, batch):
            key, sub = jax.random.split(key)
            query, model = rows // models, rows % models
            params, state = step(params, state, model, x[query], y[query, model], sub)
    p = jax.tree.map(np.asarray, params)

    def predict(queries):
        projected = queries.embeddings @ p["text"]["w"] + p["text"]["b"]
        out = (projected[:, None] * p["models"]) @ p["out"]["w"] + p["out"]["b"]
        return 1 / (1 + np.exp(out[:, :, 0] - out[:, :, 1]))

    return predict


# LLMRank style ------------------------------------------------------------------------------------


def rank_params(key, inputs, models):
    widths = (inputs, *RANK_WIDTHS, models)
    keys = jax.random.split(key, len(widths) - 1)
    return [_linear(k, a, b) for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)]


def llmrank(train, features, seed, lr=3e-4, epochs=20, batch=256, dropout=0.1, holdout=0.15):
    """Pairwise logistic ranking of a query's models, and cross-entropy so that scores are odds."""
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
    # The embedding's entries are about 1/sqrt(d): scaled to the features' size.
    scale = np.float32(np.sqrt(train.embeddings.shape[1]))

    def inputs(embeddings, features):
        return np.concatenate([embeddings * scale, (features - mean) / std], 1).astype(np.float32)

    x, y = inputs(train.embeddings, features), train.correct.astype(np.float32)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    held, rest = np.split(order, [int(len(x) * holdout)])
    params = rank_params(jax.random.PRNGKey(seed), x.shape[1], y.shape[1])
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr, weight_decay=0.01))
    state = optimiser.init(params)

    def scores(p, x, key=None):
        for i, layer in enumerate(p):
            x = x @ layer["w"] + layer["b"]
            if i < len(p) - 1:
                x = jax.nn.relu(x)
                if key is not None:
                    key, sub = jax.random.split(key)
                    x = x * jax.random.bernoulli(sub, 1 - dropout, x.shape) / (1 - dropout)
        return x

    def loss(p, x, y, key=None):
        s = scores(p, x, key)
        pairs = (1 - y)[:, :, None] * y[:, None, :]
        gaps = jax.nn.softplus(s[:, :, None] - s[:, None, :]) * pairs
        ranked = (gaps.sum((1, 2)) / jnp.maximum(pairs.sum((1, 2)), 1)).mean()
        return ranked + optax.sigmoid_binary_cross_entropy(s, y).mean()

    @jax.jit
    def step(p, state, x, y, key):
        updates, state = optimiser.update(jax.grad(loss)(p, x, y, key), state, p)
        return optax.apply_updates(p, updates), state

    held_loss, key = jax.jit(loss), jax.random.PRNGKey(seed + 1)
    best = (np.inf, params)
    for _ in range(epochs):
        for rows in _batches(rng, len(rest), batch):
            key, sub = jax.random.split(key)
            params, state = step(params, state, x[rest[rows]], y[rest[rows]], sub)
        now = float(held_loss(params, x[held], y[held]))
        if now < best[0]:
            best = (now, params)
    layers = jax.tree.map(np.asarray, best[1])

    def predict(queries):
        h = inputs(queries.embeddings, queries.features)
        for layer in layers[:-1]:
            h = np.maximum(h @ layer["w"] + layer["b"], 0)
        return 1 / (1 + np.exp(-(h @ layers[-1]["w"] + layers[-1]["b"])))

    return predict
