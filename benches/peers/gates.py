"""The same gate, elsewhere: NumPy, onnxruntime, JAX under jit. Single precision, erf GELU.

In: the tensors of a router.safetensors. Out: functions from embeddings (N, d) to margins (N,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erf

from testing import oracle

Margins = Callable[[np.ndarray], np.ndarray]
SQRT2 = np.float32(np.sqrt(2))


def film(w: dict[str, np.ndarray], lam: float) -> tuple[np.ndarray, np.ndarray]:
    """γ and β at a λ, float32."""
    both = w["gate.film.weight"].astype(float) @ oracle.psi(lam) + w["gate.film.bias"]
    gamma, beta = np.split(both.astype(np.float32), 2)
    return gamma, beta


def numpy_gate(w: dict[str, np.ndarray], lam: float) -> Margins:
    gamma, beta = film(w, lam)
    w1 = np.ascontiguousarray(w["gate.w1"].T)

    def margins(x: np.ndarray) -> np.ndarray:
        c = x - x.mean(-1, keepdims=True)
        z = c / np.sqrt((c * c).mean(-1, keepdims=True) + np.float32(1e-5))
        h = (z * w["gate.ln.weight"] + w["gate.ln.bias"]) @ w1 + w["gate.b1"]
        h = gamma * h + beta
        g = np.float32(0.5) * h * (1 + erf(h / SQRT2))
        return g @ w["gate.w2"] + w["gate.b2"][0]

    return margins


def onnx_gate(w: dict[str, np.ndarray], lam: float, threads: int) -> Margins:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    gamma, beta = film(w, lam)
    constants = {
        "ln_w": w["gate.ln.weight"], "ln_b": w["gate.ln.bias"],
        "w1": np.ascontiguousarray(w["gate.w1"].T), "b1": w["gate.b1"],
        "gamma": gamma, "beta": beta, "w2": w["gate.w2"][:, None], "b2": w["gate.b2"],
    }  # fmt: skip
    nodes = [
        helper.make_node("LayerNormalization", ["x", "ln_w", "ln_b"], ["z"], epsilon=1e-5),
        helper.make_node("Gemm", ["z", "w1", "b1"], ["h0"]),
        helper.make_node("Mul", ["h0", "gamma"], ["h1"]),
        helper.make_node("Add", ["h1", "beta"], ["h2"]),
        helper.make_node("Gelu", ["h2"], ["g"]),
        helper.make_node("Gemm", ["g", "w2", "b2"], ["y"]),
    ]
    d = len(w["gate.ln.weight"])
    graph = helper.make_graph(
        nodes,
        "gate",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", d])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"x": x})[0][:, 0]


def jax_gate(w: dict[str, np.ndarray], lam: float) -> Margins:
    import jax
    import jax.numpy as jnp

    gamma, beta = (jnp.asarray(v) for v in film(w, lam))
    p = {k: jnp.asarray(v) for k, v in w.items() if k.startswith("gate.")}

    @jax.jit
    def margins(x):
        c = x - x.mean(-1, keepdims=True)
        z = c / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)
        h = (z * p["gate.ln.weight"] + p["gate.ln.bias"]) @ p["gate.w1"].T + p["gate.b1"]
        return jax.nn.gelu(gamma * h + beta, approximate=False) @ p["gate.w2"] + p["gate.b2"][0]

    return lambda x: np.asarray(margins(x))
