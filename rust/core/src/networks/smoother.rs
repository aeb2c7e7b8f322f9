//! The kernel smoother as a part of the teacher: neighbours at every scale, weighed.
//!
//! In: embeddings. Out: for each model f_m(x) = ȳ_m + Σ_i a_mi·k(x, z_i), kept within [0.01, 0.99], with
//! the Laplace kernel k(x, z) = exp(−s·‖x − z‖) between standardised rows over √d, and centres z_i that
//! are training queries. The teacher's p is (1 − w)·(the head's p) + w·f, w being the share.
//!
//! Centres are of bfloat16's precision: a row waits for their bytes, and rounding moves a distance by a
//! thousandth. One packed product gives x·z_i of all centres; distances, exponentials and sums follow in the
//! centres' order, so a row has the same bits from every call.

use crate::base::checks::{check_finite, check_len};
use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_CENTRES, MAX_MODELS, MAX_WIDTH};
use crate::file::precision::Precision;
use crate::simd::packed::Packed;

/// Predictions are probabilities, kept this far from certain.
const FLOOR: f64 = 0.01;

/// The fitted function's numbers, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SmootherWeights {
    /// Models M.
    pub models: usize,
    /// Width of a row d.
    pub d: usize,
    /// Centres z (n, d): standardised rows over √d, numbers of bfloat16's precision.
    pub centres: Vec<f32>,
    /// a (M, n).
    pub coefficients: Vec<f32>,
    /// ȳ (M,).
    pub mean: Vec<f32>,
    /// s.
    pub scale: f32,
    /// w, in (0, 1].
    pub share: f32,
}

impl SmootherWeights {
    /// Number of centres n.
    pub fn count(&self) -> usize {
        self.centres.len() / self.d.max(1)
    }

    /// How many numbers it holds.
    pub fn parameter_count(&self) -> usize {
        self.centres.len() + self.coefficients.len() + self.mean.len() + 1
    }

    fn check(&self) -> Result<()> {
        let (m, d, n) = (self.models, self.d, self.count());
        for (name, value, max) in [
            ("smoother models", m, MAX_MODELS),
            ("smoother width", d, MAX_WIDTH),
            ("smoother centres", n, MAX_CENTRES),
        ] {
            if !(1..=max).contains(&value) {
                return Err(Error::argument(name, format!("1 to {max}"), value));
            }
        }
        for (name, expected, xs) in [
            ("smoother.centres", n * d, &self.centres),
            ("smoother.coefficients", m * n, &self.coefficients),
            ("smoother.mean", m, &self.mean),
        ] {
            check_len(name, expected, xs.len())?;
            check_finite(name, xs)?;
        }
        if Precision::Bfloat16.rounded("smoother.centres", &self.centres)? != self.centres {
            let expected = "numbers of bfloat16's precision";
            return Err(Error::argument("smoother.centres", expected, "finer ones"));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(Error::argument("smoother scale", "a positive number", self.scale));
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(Error::argument("smoother share", "a number in (0, 1]", self.share));
        }
        Ok(())
    }
}

/// A checked and packed smoother.
#[derive(Clone, Debug)]
pub struct Smoother {
    weights: SmootherWeights,
    centres: Packed,
    /// ‖z_i‖² (n,).
    squares: Vec<f32>,
    /// a (n, M).
    by_centre: Vec<f64>,
}

impl Smoother {
    /// Check and pack.
    pub fn new(weights: SmootherWeights) -> Result<Self> {
        weights.check()?;
        let (n, d, m) = (weights.count(), weights.d, weights.models);
        let square = |z: &[f32]| z.iter().map(|z| f64::from(*z) * f64::from(*z)).sum::<f64>();
        let squares = weights.centres.chunks_exact(d).map(|z| square(z) as f32).collect();
        let at = |i: usize| f64::from(weights.coefficients[i % m * n + i / m]);
        let by_centre = (0..n * m).map(at).collect();
        Ok(Self { centres: Packed::new(&weights.centres, n, d), squares, by_centre, weights })
    }

    /// The numbers as stored.
    pub fn weights(&self) -> &SmootherWeights {
        &self.weights
    }

    /// The centres, for a product with centred rows.
    pub(crate) fn centres(&self) -> &Packed {
        &self.centres
    }

    /// Mix f into the heads' p (M,) of a row: its products with the centres, and its squared norm, both
    /// of the standardised row.
    pub(crate) fn mix(&self, products: &[f32], square: f32, p: &mut [f32], sums: &mut Vec<f64>) {
        let (m, d) = (self.weights.models, self.weights.d as f32);
        let (root, square) = (d.sqrt(), square / d);
        sums.clear();
        sums.extend(self.weights.mean.iter().map(|mean| f64::from(*mean)));
        let rows = products.iter().zip(&self.squares).zip(self.by_centre.chunks_exact(m));
        for ((product, z), a) in rows {
            let gap = square + z - 2.0 * (product / root);
            // A NaN stays one: it is the row's, and is looked for in p.
            let gap = if gap < 0.0 { 0.0 } else { gap };
            let k = f64::from(libm::expf(-self.weights.scale * gap.sqrt()));
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum += a * k;
            }
        }
        let share = f64::from(self.weights.share);
        for (p, f) in p.iter_mut().zip(sums.iter()) {
            let head = f64::from(*p);
            *p = (head + share * (f.clamp(FLOOR, 1.0 - FLOOR) - head)) as f32;
        }
    }
}
