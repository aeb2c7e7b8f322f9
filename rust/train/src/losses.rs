//! The terms of both losses, each a few tensor operations.
//!
//! In: logits or margins, and their targets. Out: a scalar to go down. The teacher adds [`bce`] and
//! [`rank`] (eqs. 36–45 of arXiv 2605.12001); the gate adds [`bce`], [`huber`] and [`monotone`]
//! (eqs. 49–55).

use candle_core::{D, Result, Tensor};

/// softplus(x) = log(1 + e^x), stable at both ends.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + ((x.abs()?.neg()?.exp()? + 1.0)?.log()?)
}

/// Mean binary cross-entropy of logits against targets in [0, 1] of the same shape. Of a target between
/// the ends it is the mean over answers that are right with that probability.
pub fn bce(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    (softplus(logits)? - (logits * targets)?)?.mean_all()
}

/// Mean Huber loss: ½x² within δ, δ(|x| − ½δ) outside.
pub fn huber(error: &Tensor, delta: f64) -> Result<Tensor> {
    // min(|x|, δ) = q: ½q² + δ(|x| − q), one form for both parts.
    let abs = error.abs()?;
    let q = abs.minimum(delta)?;
    ((q.sqr()? * 0.5)? + ((abs - &q)? * delta)?)?.mean_all()
}

/// Pairwise ranking: for a query with right and wrong models, the mean over (right, wrong) pairs of
/// softplus(ℓ_wrong − ℓ_right); then the mean over such queries; 0 if there are none. Of grades y, a pair
/// weighs (1 − y_i)·y_j, the probability that i is wrong and j right, and a query as its pairs together,
/// up to 1.
/// Logits and targets (B, M).
pub fn rank(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (b, m) = targets.dims2()?;
    let wrong = (1.0 - targets)?;
    // [b, i, j]: i wrong, j right.
    let pair = wrong.unsqueeze(2)?.broadcast_mul(&targets.unsqueeze(1)?)?;
    let gap = logits.unsqueeze(2)?.broadcast_sub(&logits.unsqueeze(1)?)?;
    let pairs = pair.reshape((b, m * m))?.sum(D::Minus1)?;
    let total = (softplus(&gap)? * pair)?.reshape((b, m * m))?.sum(D::Minus1)?;
    // A query without pairs has total 0: any positive divisor leaves it 0.
    let per_query = (total / pairs.maximum(1.0)?)?;
    let queries = pairs.minimum(1.0)?.sum_all()?;
    per_query.sum_all()? / queries.maximum(1.0)?
}

/// Monotone penalty: the mean over rows and neighbouring λ of relu(Δ̂(λ_j) − Δ̂(λ_{j+1})),
/// margins (J, B) with λ ascending; 0 for one λ.
pub fn monotone(margins: &Tensor) -> Result<Tensor> {
    let j = margins.dim(0)?;
    if j < 2 {
        return margins.zeros_like()?.mean_all();
    }
    (margins.narrow(0, 0, j - 1)? - margins.narrow(0, 1, j - 1)?)?.relu()?.mean_all()
}
