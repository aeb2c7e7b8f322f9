//! Predicted output lengths, so that a deployed edge needs no true ones.
//!
//! In: embedding and L_in. Out: the expected L_out of each model, in tokens. One linear head a model for
//! log(1 + L_out), then Duan's smearing factor, because exp of a mean logarithm is not a mean:
//! L̂_m = exp(w_m·e/|e| + a_m·log(1+L_in) + b_m)·s_m − 1, clipped to [0, longest answer in training].

use crate::base::checks::{check_finite, check_finite_f64, check_len, check_tokens, filled};
use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_MODELS, MAX_WIDTH};
use crate::simd::isa::Simd;

/// The heads' parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LengthWeights {
    /// Models M.
    pub models: usize,
    /// Embedding width d.
    pub d: usize,
    /// w (M, d).
    pub weight: Vec<f32>,
    /// Columns a, b, log s and the longest answer, (M, 4).
    pub scalars: Vec<f64>,
}

/// Columns of [`LengthWeights::scalars`].
pub const SCALARS: usize = 4;

/// 1/|x|, or 0 for a row of zeros. Like LayerNorm in gate and teacher, it makes the predictor blind to
/// an embedding's scale: a forgotten normalisation changes nothing.
pub fn inverse_norm(x: &[f32]) -> f64 {
    let square: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 }
}

/// Models whose sums advance together.
const TOGETHER: usize = 4;

/// A checked length predictor.
#[derive(Clone, Debug)]
pub struct LengthPredictor {
    weights: LengthWeights,
    /// w as (M/4, d, 4), padded with zeros: a sum's order is its model's own, four sums at a time.
    columns: Vec<[f32; TOGETHER]>,
    simd: Simd,
}

impl LengthPredictor {
    /// Check sizes and ranges.
    pub fn new(w: LengthWeights) -> Result<Self> {
        if !(1..=MAX_MODELS).contains(&w.models) || !(1..=MAX_WIDTH).contains(&w.d) {
            return Err(Error::argument(
                "length predictor (models, d)",
                format!("1 to {MAX_MODELS}, 1 to {MAX_WIDTH}"),
                format!("{}, {}", w.models, w.d),
            ));
        }
        check_len("length.weight", w.models * w.d, w.weight.len())?;
        check_len("length.scalars", w.models * SCALARS, w.scalars.len())?;
        check_finite("length.weight", &w.weight)?;
        check_finite_f64("length.scalars", &w.scalars)?;
        let mut columns = vec![[0.0; TOGETHER]; w.models.div_ceil(TOGETHER) * w.d];
        for (m, row) in w.weight.chunks_exact(w.d).enumerate() {
            for (i, v) in row.iter().enumerate() {
                columns[m / TOGETHER * w.d + i][m % TOGETHER] = *v;
            }
        }
        Ok(Self { weights: w, columns, simd: Simd::best()? })
    }

    /// The parameters.
    pub fn weights(&self) -> &LengthWeights {
        &self.weights
    }

    /// Expected output tokens of every model for one query.
    pub fn predict_into(&self, x: &[f32], n_input: f64, out: &mut [f64]) {
        let log_in = libm::log1p(n_input);
        let inverse = inverse_norm(x);
        let scalars = self.weights.scalars.chunks(SCALARS * TOGETHER);
        let groups = self.columns.chunks_exact(self.weights.d);
        for ((out, scalars), w) in out.chunks_mut(TOGETHER).zip(scalars).zip(groups) {
            let dots = self.simd.four_dots(w, x);
            for ((out, s), dot) in out.iter_mut().zip(scalars.chunks_exact(SCALARS)).zip(dots) {
                let log = dot * inverse + s[0] * log_in + s[1] + s[2];
                *out = (libm::exp(log) - 1.0).clamp(0.0, s[3].max(0.0));
            }
        }
    }

    /// (N, d) embeddings and (N,) input lengths → (N, M).
    pub fn predict(&self, xs: &[f32], n_input: &[f64]) -> Result<Vec<f64>> {
        let (m, d) = (self.weights.models, self.weights.d);
        check_len("embeddings (N·d values)", n_input.len() * d, xs.len())?;
        check_finite("embeddings", xs)?;
        check_tokens("n_input_tokens", n_input)?;
        let mut out = filled("predicted lengths", n_input.len(), m, 0.0)?;
        for (i, row) in out.chunks_exact_mut(m).enumerate() {
            self.predict_into(&xs[i * d..(i + 1) * d], n_input[i], row);
        }
        Ok(out)
    }
}
