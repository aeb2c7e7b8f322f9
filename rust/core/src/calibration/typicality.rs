//! How far a query lies from those that a router knows: a score, and a conformal p-value.
//!
//! In: an embedding x. Out: s(x) = Σⱼ (aⱼ·x/|x| − bⱼ)², and the p-value of s among the scores of the
//! calibration split. The aⱼ are directions in which training embeddings hardly vary, each over its
//! standard deviation (minor components, Shyu et al. 2003): text that breaks what training texts have
//! in common, an empty one, gibberish, another script, stands out there. They are fitted on the
//! training split alone, so s is fixed before the calibration split is seen. Then for a query
//! exchangeable with that split P(p ≤ u) ≤ u for every u, over both drawn together.

use crate::base::checks::{check_finite, check_len, filled};
use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_WIDTH, TYPICAL_SCORES};
use crate::base::threads;
use crate::file::container::{Container, Tensor};
use crate::networks::length::inverse_norm;
use crate::simd::isa::Simd;
use crate::simd::layers::{ABREAST, TOGETHER};

/// The score, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Typicality {
    d: usize,
    directions: Vec<f32>,
    offsets: Vec<f32>,
    /// Directions as (m/8, d, 8), padded with zeros: a sum's order is its direction's own.
    columns: Vec<[f64; TOGETHER]>,
    simd: Simd,
}

impl Typicality {
    /// Directions a (m, d) over standard deviations, and b (m,).
    pub fn new(d: usize, directions: Vec<f32>, offsets: Vec<f32>) -> Result<Self> {
        let m = offsets.len();
        if !(1..=MAX_WIDTH).contains(&d) || !(1..=d).contains(&m) {
            return Err(Error::argument(
                "typicality (directions, d)",
                format!("1 to d, and d from 1 to {MAX_WIDTH}"),
                format!("{m}, {d}"),
            ));
        }
        check_len("typicality.directions", m * d, directions.len())?;
        check_finite("typicality.directions", &directions)?;
        check_finite("typicality.offsets", &offsets)?;
        let mut columns = vec![[0.0; TOGETHER]; m.div_ceil(TOGETHER) * d];
        for (j, row) in directions.chunks_exact(d).enumerate() {
            for (i, v) in row.iter().enumerate() {
                columns[j / TOGETHER * d + i][j % TOGETHER] = f64::from(*v);
            }
        }
        Ok(Self { d, directions, offsets, columns, simd: Simd::best()? })
    }

    /// As tensors of a file.
    pub(crate) fn tensors(&self) -> [Tensor; 2] {
        let (rows, d) = (self.offsets().len(), self.dim());
        [
            Tensor::f32s("typicality.directions", &[rows, d], self.directions()),
            Tensor::f32s("typicality.offsets", &[rows], self.offsets()),
        ]
    }

    /// From a file's tensors; files of earlier versions have none.
    pub(crate) fn read(file: &Container) -> Result<Option<Self>> {
        if !file.has("typicality.directions") && !file.has("typicality.offsets") {
            return Ok(None);
        }
        let (shape, directions) = file.f32s("typicality.directions")?;
        let offsets = file.f32s("typicality.offsets")?.1;
        Self::new(*shape.last().unwrap_or(&0), directions, offsets).map(Some)
    }

    /// Embedding width.
    pub fn dim(&self) -> usize {
        self.d
    }

    /// a (m, d).
    pub fn directions(&self) -> &[f32] {
        &self.directions
    }

    /// b (m,).
    pub fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    /// s(x) of one finite embedding; +∞ beyond single precision.
    pub fn score(&self, x: &[f32]) -> f32 {
        self.scores_of([x; ABREAST])[0]
    }

    fn scores_of(&self, rows: [&[f32]; ABREAST]) -> [f32; ABREAST] {
        let rows = rows.map(|x| (x, inverse_norm(x)));
        self.simd.squares_off(&self.columns, &self.offsets, &rows).map(|sum| sum as f32)
    }

    /// s of N embeddings (N, d).
    pub fn scores(&self, xs: &[f32], threads: usize) -> Result<Vec<f32>> {
        let n = xs.len() / self.d;
        check_len("embeddings (N·d values)", n * self.d, xs.len())?;
        check_finite("embeddings", xs)?;
        let mut out = filled("typicality scores", n, 1, 0.0)?;
        threads::rows(threads, &mut out, 1, |first, part| {
            let xs = &xs[first * self.d..(first + part.len()) * self.d];
            for (out, xs) in part.chunks_mut(ABREAST).zip(xs.chunks(ABREAST * self.d)) {
                // The last rows stand in for those that are not there.
                let row = |i: usize| &xs[i.min(out.len() - 1) * self.d..][..self.d];
                let scores = self.scores_of(std::array::from_fn(row));
                out.copy_from_slice(&scores[..out.len()]);
            }
        });
        Ok(out)
    }
}

/// Rank, from the least (1) on, of the i-th (1 to q) of q order statistics kept of n: evenly spaced.
fn rank(i: usize, q: usize, n: usize) -> usize {
    (i as f64 * (n + 1) as f64 / (q + 1) as f64).round_ties_even() as usize
}

/// The scores kept of a calibration split, ascending: all, or evenly spaced order statistics.
pub fn keep(mut scores: Vec<f32>) -> Vec<f32> {
    scores.sort_unstable_by(f32::total_cmp);
    let (n, q) = (scores.len(), scores.len().min(TYPICAL_SCORES));
    (1..=q).map(|i| scores[rank(i, q, n) - 1]).collect()
}

/// The conformal p-value (1 + #{calibration scores ≥ s}) / (N + 1), where not all scores were kept the
/// least that is surely no smaller.
pub fn p_value(score: f32, kept: &[f32], n: usize) -> f64 {
    let below = kept.partition_point(|k| *k < score);
    // At least this many of the N lie below.
    let ranked = if below == 0 { 0 } else { rank(below, kept.len(), n) };
    (n + 1 - ranked) as f64 / (n + 1) as f64
}

/// Refuse kept scores that no calibration of `n` queries makes.
pub fn check_kept(kept: &[f32], n: usize) -> Result<()> {
    check_len("calibration.typicality", n.min(TYPICAL_SCORES), kept.len())?;
    if kept.is_sorted() && kept.iter().all(|s| *s >= 0.0) {
        return Ok(());
    }
    Err(Error::argument("calibration.typicality", "ascending scores, at least 0", "others"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_is_kept_of_few_and_as_many_as_fit_of_many() {
        for n in [1, 2, 5, TYPICAL_SCORES, TYPICAL_SCORES + 1, 5000] {
            let scores: Vec<f32> = (0..n).map(|i| ((i * 7919) % n) as f32).collect();
            let kept = keep(scores.clone());
            check_kept(&kept, n).unwrap();
            for (i, s) in scores.iter().enumerate().step_by(n / 97 + 1) {
                let exact = (1 + scores.iter().filter(|o| *o >= s).count()) as f64 / (n + 1) as f64;
                let p = p_value(*s, &kept, n);
                if n <= TYPICAL_SCORES {
                    assert!((p - exact).abs() < 1e-12, "{n} {i}: {p} {exact}");
                } else {
                    let step = 1.0 / (TYPICAL_SCORES + 1) as f64;
                    assert!(p >= exact - 1e-12 && p <= exact + 2.0 * step, "{n} {i}: {p} {exact}");
                }
            }
        }
        assert!((p_value(9.0, &[1.0, 2.0], 2) - 1.0 / 3.0).abs() < 1e-12);
        assert!((p_value(0.0, &[1.0, 2.0], 2) - 1.0).abs() < 1e-12);
        assert!((p_value(f32::INFINITY, &[1.0, f32::INFINITY], 2) - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn of_exchangeable_scores_no_more_than_a_fraction_u_have_a_p_value_up_to_u() {
        // The conformal argument itself, with ties: each score in turn against all others.
        for (n, values) in [(3, 2), (20, 5), (101, 1000), (1500, 40)] {
            let mut state = 7_u64;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 33) % values) as f32
            };
            let scores: Vec<f32> = (0..=n).map(|_| next()).collect();
            let p: Vec<f64> = (0..=n)
                .map(|i| {
                    let others = [&scores[..i], &scores[i + 1..]].concat();
                    p_value(scores[i], &keep(others), n)
                })
                .collect();
            for u in [0.001, 0.01, 0.05, 0.3, 0.5, 1.0] {
                let flagged = p.iter().filter(|p| **p <= u).count();
                assert!(flagged as f64 <= u * (n + 1) as f64, "{n} {u}: {flagged}");
            }
        }
    }

    #[test]
    fn forged_scores_are_refused() {
        for kept in [vec![], vec![1.0], vec![2.0, 1.0], vec![f32::NAN, 1.0], vec![-1.0, 1.0]] {
            assert!(check_kept(&kept, 2).is_err(), "{kept:?}");
        }
        assert!(Typicality::new(3, vec![0.0; 6], vec![0.0]).is_err());
        assert!(Typicality::new(3, vec![f32::NAN; 3], vec![0.0]).is_err());
        assert!(Typicality::new(0, vec![], vec![]).is_err());
        assert!(Typicality::new(1, vec![1.0; 2], vec![0.0; 2]).is_err());
    }
}
