//! The teacher's forward pass (equations 36–45): one binary head a model.
//!
//! In: embeddings (N, d). Out: p (N, M), the probability that each model answers correctly:
//! p_m = σ(w2_m · GELU(W1_m·LN_m(e) + b1_m) + b2_m).
//!
//! All heads share LayerNorm's statistics; its affine is folded into each W1, so a head is one product
//! with the centred row, and GELU runs in the gate's own kernel with γ = 1. Where there is a smoother,
//! its share of p comes from there.

use crate::base::checks::{check_finite, check_len, filled};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_MODELS;
use crate::base::limits::MAX_WIDTH;
use crate::base::threads;
use crate::networks::smoother::{Smoother, SmootherWeights};
use crate::networks::trunk::{Trunk, fold_layer_norm};
use crate::simd::isa::Simd;
use crate::simd::layers::sigmoid;
use crate::simd::packed::{Packed, PaddedVec};

/// Rows whose hidden layers are kept at once.
const ROWS: usize = 48;

/// The heads' parameters as they are trained and stored; row-major, stacked over models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeacherWeights {
    /// Models M.
    pub models: usize,
    /// Embedding width d.
    pub d: usize,
    /// Hidden width h of a head.
    pub hidden: usize,
    /// LayerNorm gains (M, d).
    pub ln_weight: Vec<f32>,
    /// LayerNorm biases (M, d).
    pub ln_bias: Vec<f32>,
    /// W1 (M, h, d).
    pub w1: Vec<f32>,
    /// b1 (M, h).
    pub b1: Vec<f32>,
    /// W2 (M, h).
    pub w2: Vec<f32>,
    /// b2 (M,).
    pub b2: Vec<f32>,
}

impl TeacherWeights {
    /// Number of parameters; 99,585 a head, 398,340 for four, at d = 384, h = 256.
    pub fn parameter_count(&self) -> usize {
        let (m, d, h) = (self.models, self.d, self.hidden);
        m * (2 * d + h * d + h + h + 1)
    }

    fn check(&self) -> Result<()> {
        let (m, d, h) = (self.models, self.d, self.hidden);
        for (name, n, max) in [
            ("teacher models", m, MAX_MODELS),
            ("teacher embedding width", d, MAX_WIDTH),
            ("teacher hidden width", h, MAX_WIDTH),
        ] {
            if !(1..=max).contains(&n) {
                return Err(Error::argument(name, format!("1 to {max}"), n));
            }
        }
        for (name, expected, xs) in [
            ("teacher.ln.weight", m * d, &self.ln_weight),
            ("teacher.ln.bias", m * d, &self.ln_bias),
            ("teacher.w1", m * h * d, &self.w1),
            ("teacher.b1", m * h, &self.b1),
            ("teacher.w2", m * h, &self.w2),
            ("teacher.b2", m, &self.b2),
        ] {
            check_len(name, expected, xs.len())?;
            check_finite(name, xs)?;
        }
        Ok(())
    }

    /// Head k's W1 and b1 with LayerNorm's affine in them.
    fn fold(&self, k: usize) -> (Vec<f32>, Vec<f32>) {
        let (d, h) = (self.d, self.hidden);
        let (w, b) = fold_layer_norm(
            &self.ln_weight[k * d..(k + 1) * d],
            &self.ln_bias[k * d..(k + 1) * d],
            &self.w1[k * h * d..(k + 1) * h * d],
            &self.b1[k * h..(k + 1) * h],
        );
        (w, b.into_iter().map(|b| b as f32).collect())
    }

    /// The same heads with LayerNorm's affine in W1 and b1, up to their rounding.
    #[must_use]
    pub fn folded(&self) -> Self {
        let (w1, b1): (Vec<_>, Vec<_>) = (0..self.models).map(|k| self.fold(k)).unzip();
        Self {
            ln_weight: vec![1.0; self.models * self.d],
            ln_bias: vec![0.0; self.models * self.d],
            w1: w1.concat(),
            b1: b1.concat(),
            ..self.clone()
        }
    }
}

#[derive(Clone, Debug)]
struct Head {
    w1: Packed,
    gamma: PaddedVec,
    shift: PaddedVec,
    w2: PaddedVec,
    b2: f32,
}

/// Packed heads, ready to run.
#[derive(Clone, Debug)]
pub struct Teacher {
    weights: TeacherWeights,
    heads: Vec<Head>,
    smoother: Option<Smoother>,
    simd: Simd,
}

impl Teacher {
    /// Check, fold and pack.
    pub fn new(weights: TeacherWeights) -> Result<Self> {
        Self::with_simd(weights, Simd::best()?)
    }

    /// The same on a chosen instruction set.
    pub fn with_simd(weights: TeacherWeights, simd: Simd) -> Result<Self> {
        weights.check()?;
        let (m, d, h) = (weights.models, weights.d, weights.hidden);
        let mut heads = Vec::with_capacity(m);
        for k in 0..m {
            let (w, shift) = weights.fold(k);
            heads.push(Head {
                w1: Packed::new(&w, h, d),
                gamma: PaddedVec::new(&vec![1.0; h]),
                shift: PaddedVec::new(&shift),
                w2: PaddedVec::new(&weights.w2[k * h..(k + 1) * h]),
                b2: weights.b2[k],
            });
        }
        Ok(Self { weights, heads, smoother: None, simd })
    }

    /// The same heads, and a smoother beside them.
    pub fn with_smoother(self, smoother: Option<SmootherWeights>) -> Result<Self> {
        if let Some(s) = &smoother {
            check_len("smoother models", self.weights.models, s.models)?;
            check_len("smoother width", self.weights.d, s.d)?;
        }
        Ok(Self { smoother: smoother.map(Smoother::new).transpose()?, ..self })
    }

    /// The smoother beside the heads.
    pub fn smoother(&self) -> Option<&SmootherWeights> {
        self.smoother.as_ref().map(Smoother::weights)
    }

    /// The parameters as stored.
    pub fn weights(&self) -> &TeacherWeights {
        &self.weights
    }

    /// p (N, M) of N embeddings.
    pub fn accuracies(&self, xs: &[f32], threads: usize) -> Result<Vec<f32>> {
        let (m, d) = (self.weights.models, self.weights.d);
        if !xs.len().is_multiple_of(d) {
            return Err(Error::argument("embeddings", format!("rows of {d} values"), xs.len()));
        }
        let mut out = filled("accuracies", xs.len() / d, m, 0.0)?;
        threads::rows(threads, &mut out, m, |first, part| {
            let mut trunk = Trunk::new(self.simd);
            for (i, part) in part.chunks_mut(ROWS * m).enumerate() {
                let start = first + i * ROWS;
                trunk.center(&xs[start * d..(start + part.len() / m) * d], d);
                for (k, head) in self.heads.iter().enumerate() {
                    for (u, out) in trunk.product(&head.w1).zip(part.chunks_exact_mut(m)) {
                        out[k] = self.accuracy(head, u);
                    }
                }
                self.smooth(&mut trunk, part);
            }
        });
        check_accuracies("embeddings", xs, &out)?;
        Ok(out)
    }

    /// p of one embedding for the models in `wanted`; the others' places in `out` (M,) are untouched.
    pub fn accuracies_of(
        &self,
        x: &[f32],
        wanted: impl Iterator<Item = usize> + Clone,
        out: &mut [f32],
    ) -> Result<()> {
        check_len("embedding", self.weights.d, x.len())?;
        check_len("accuracies", self.weights.models, out.len())?;
        let mut trunk = Trunk::new(self.simd);
        trunk.center(x, self.weights.d);
        let mut own = vec![0.0; self.weights.models];
        for k in wanted.clone() {
            let head = &self.heads[k];
            let u = trunk.product(&head.w1).next().expect("one row");
            own[k] = self.accuracy(head, u);
        }
        self.smooth(&mut trunk, &mut own);
        for k in wanted {
            out[k] = own[k];
            check_accuracies("embeddings", x, &out[k..=k])?;
        }
        Ok(())
    }

    /// Mix the smoother's share into p (B, M) of the rows that `trunk` took in.
    fn smooth(&self, trunk: &mut Trunk, p: &mut [f32]) {
        let Some(smoother) = &self.smoother else { return };
        let squares: Vec<f32> = trunk.squares(self.weights.d).collect();
        let (n, mut sums) = (smoother.weights().count(), Vec::new());
        let rows = trunk.product(smoother.centres()).zip(p.chunks_exact_mut(self.weights.models));
        for ((products, p), square) in rows.zip(squares) {
            smoother.mix(&products[..n], square, p, &mut sums);
        }
    }

    fn accuracy(&self, head: &Head, u: &[f32]) -> f32 {
        sigmoid(self.simd.film_gelu_dot(u, &head.gamma, &head.shift, &head.w2) + head.b2)
    }
}

/// As in the gate: what is not finite comes out as NaN, so inputs are looked at only then.
fn check_accuracies(what: &str, xs: &[f32], p: &[f32]) -> Result<()> {
    if check_finite("", p).is_err() {
        check_finite(what, xs)?;
    }
    check_finite("accuracy (embedding too large in magnitude?)", p)
}
