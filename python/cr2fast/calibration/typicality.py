"""Directions in which training embeddings hardly vary, by which an atypical query stands out.

In: the training split's embeddings. Out: directions and offsets of the score
s(x) = |A x/|x| - b|^2, whose p-value among the calibration split's scores a decision can give.

A's rows are the eigenvectors v_j of the embeddings' covariance with the least eigenvalues w_j, over
sqrt(w_j + floor): minor components (Shyu et al., A Novel Anomaly Detection Scheme Based on
Principal Component Classifier, 2003). The leading ones say what a text is about, the minor ones
what texts of one kind have in common: on MMLU-Pro under MiniLM they tell empty texts, gibberish and
other scripts apart better than the distance to 256 prototypes does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
# On MMLU-Pro under MiniLM (d = 384) 16 to 192 do much the same; each costs d products.
DIRECTIONS = 64
# Of the mean eigenvalue: directions without any variance get a finite weight.
FLOOR = 1e-3
_ROWS = 4096


def minor_components(embeddings: Matrix) -> tuple[Matrix, Matrix]:
    """Fit the typicality score.

    Parameters
    ----------
    embeddings : ndarray of float32, (N, d)
        The training split's, finite; their lengths do not matter.

    Returns
    -------
    directions : ndarray of float32, (m, d)
        A, with m = min(64, d / 4), at least 1.
    offsets : ndarray of float32, (m,)
        b = A times the mean of the embeddings at unit length.
    """
    n, d = embeddings.shape
    total, square = np.zeros(d), np.zeros((d, d))
    for start in range(0, n, _ROWS):
        x = embeddings[start : start + _ROWS].astype(np.float64)
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        x /= np.where(norms > 0, norms, 1)
        total += x.sum(axis=0)
        square += x.T @ x
    mean = total / n
    variances, vectors = np.linalg.eigh(square / n - np.outer(mean, mean))
    m = max(1, min(DIRECTIONS, d // 4))
    floor = max(FLOOR * float(np.maximum(variances, 0).mean()), 1e-12)
    directions = (vectors[:, :m] / np.sqrt(np.maximum(variances[:m], 0) + floor)).T
    return np.ascontiguousarray(directions, np.float32), (directions @ mean).astype(np.float32)
