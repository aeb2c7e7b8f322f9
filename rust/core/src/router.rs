//! A fitted router: everything that one artifact holds.
//!
//! In: trained weights, a cost table, then a calibration. Out: operating points for
//! [`crate::device`] and selectors for [`crate::edge`]. Immutable: calibrating makes a new one.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::cost::CostTable;
use crate::crc::check_alpha;
use crate::error::{Error, Result, check_len};
use crate::gate::{Gate, check_lam};
use crate::length::LengthPredictor;
use crate::precision::Precision;
use crate::teacher::Teacher;

/// The frozen encoder whose embeddings the weights were fitted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// A name for people.
    pub id: String,
    /// SHA-256 of its model file, lower-case hex; empty when unknown.
    pub sha256: String,
}

impl Encoder {
    /// Refuse another encoder. One whose hash nobody knows is compared by name.
    pub fn check(&self, other: &Self) -> Result<()> {
        let same = if self.sha256.is_empty() || other.sha256.is_empty() {
            self.id == other.id
        } else {
            self.sha256 == other.sha256
        };
        if same {
            return Ok(());
        }
        let show = |e: &Self| format!("{} (sha256 {:?})", e.id, e.sha256);
        Err(Error::Encoder { expected: show(self), got: show(other) })
    }
}

/// Order statistics kept of the calibration margins at one λ, at most.
pub const QUANTILES: usize = 255;
/// Calibration samples, at most: far beyond any, and small enough for exact arithmetic.
const MAX_SAMPLES: usize = 1 << 40;

/// Thresholds and what they were calibrated on.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// λ grid (L,), ascending.
    pub lams: Vec<f64>,
    /// Risk levels (A,), ascending.
    pub alphas: Vec<f64>,
    /// Thresholds (L, A) as margins.
    pub thresholds: Vec<f32>,
    /// Calibration samples N.
    pub n: usize,
    /// "teacher" or "outcomes".
    pub reference: String,
    /// "predicted" or "known".
    pub lengths: String,
    /// None: each threshold keeps its own promise, on average over calibration sets. Some(δ): all
    /// keep theirs at once, for all but a fraction δ of calibration sets.
    pub delta: Option<f64>,
    /// Order statistics (L, Q) of the calibration margins at each λ, ascending; Q is 0 in files of
    /// before they were kept.
    pub quantiles: Vec<f32>,
    /// Hashes of the queries used.
    pub ids: IdSet,
}

/// A set of query ids, as sorted 64-bit prefixes of their SHA-256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet(Vec<u64>);

impl IdSet {
    /// From the ids.
    pub fn new(ids: &[String]) -> Self {
        Self::from_hashes(ids.iter().map(|id| Self::hash(id)).collect())
    }

    /// From stored hashes.
    pub fn from_hashes(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        Self(hashes)
    }

    fn hash(id: &str) -> u64 {
        let digest = Sha256::digest(id);
        u64::from_be_bytes(digest[..8].try_into().expect("eight of 32 bytes"))
    }

    /// The stored hashes.
    pub fn hashes(&self) -> &[u64] {
        &self.0
    }

    /// Refuse ids that are in the set.
    pub fn check_disjoint(&self, used_in: &'static str, what: &str, ids: &[String]) -> Result<()> {
        let shared: Vec<&String> =
            ids.iter().filter(|id| self.0.binary_search(&Self::hash(id)).is_ok()).collect();
        match shared.first() {
            None => Ok(()),
            Some(first) => Err(Error::Overlap {
                what: what.into(),
                used_in,
                count: shared.len(),
                first: (*first).clone(),
            }),
        }
    }
}

/// A fitted router.
#[derive(Clone, Debug)]
pub struct Router {
    /// Model names, the device's first.
    pub models: Vec<String>,
    /// The encoder.
    pub encoder: Encoder,
    /// The gate.
    pub gate: Arc<Gate>,
    /// The teacher.
    pub teacher: Arc<Teacher>,
    /// The length predictor.
    pub length: Arc<LengthPredictor>,
    /// The cost table, normalizers set.
    pub costs: CostTable,
    /// The training record, JSON.
    pub training: String,
    /// Queries seen in training.
    pub train_ids: IdSet,
    /// Thresholds, once calibrated.
    pub calibration: Option<Calibration>,
    /// Number type of the weight matrices.
    pub precision: Precision,
}

impl Router {
    /// The same router with weight matrices of a smaller number type, and no thresholds: they belong
    /// to margins, which the rounding moves. LayerNorm's affine goes into the matrices first, so that
    /// what is multiplied is what was rounded.
    pub fn rounded(&self, to: Precision) -> Result<Self> {
        let (mut g, mut t) = (self.gate.weights().folded(), self.teacher.weights().folded());
        let mut l = self.length.weights().clone();
        g.w1 = to.rounded("gate.w1", &g.w1)?;
        g.film_weight = to.rounded("gate.film.weight", &g.film_weight)?;
        t.w1 = to.rounded("teacher.w1", &t.w1)?;
        l.weight = to.rounded("length.weight", &l.weight)?;
        Ok(Self {
            gate: Arc::new(Gate::new(g)?),
            teacher: Arc::new(Teacher::new(t)?),
            length: Arc::new(LengthPredictor::new(l)?),
            calibration: None,
            precision: to,
            ..self.clone()
        })
    }

    /// Check that the parts belong together.
    pub fn check(&self) -> Result<()> {
        let (m, d) = (self.models.len(), self.gate.weights().d);
        check_len("teacher models", m, self.teacher.weights().models)?;
        check_len("length predictor models", m, self.length.weights().models)?;
        check_len("teacher embedding width", d, self.teacher.weights().d)?;
        check_len("length predictor embedding width", d, self.length.weights().d)?;
        self.check_models("cost table", &self.costs.models())?;
        if self.costs.normalizers().is_none() {
            return Err(Error::argument("cost table", "T0 and E0 set", "null"));
        }
        self.calibration.as_ref().map_or(Ok(()), Calibration::check)
    }

    /// Refuse other models, or another order.
    pub fn check_models(&self, what: &str, models: &[String]) -> Result<()> {
        if self.models == models {
            return Ok(());
        }
        Err(Error::Models {
            what: what.into(),
            expected: self.models.clone(),
            got: models.to_vec(),
        })
    }

    /// Refuse another encoder.
    pub fn check_encoder(&self, other: &Encoder) -> Result<()> {
        self.encoder.check(other)
    }

    /// The same router with thresholds.
    pub fn with_calibration(&self, calibration: Calibration) -> Result<Self> {
        calibration.check()?;
        Ok(Self { calibration: Some(calibration), ..self.clone() })
    }

    /// (λ, α, threshold) of a calibrated operating point, as the grid spells them.
    pub fn threshold(&self, lam: f64, alpha: f64) -> Result<(f64, f64, f32)> {
        check_lam(lam)?;
        check_alpha(alpha)?;
        let c = self.calibration.as_ref().ok_or(Error::NotCalibrated)?;
        let l = find(&c.lams, lam).ok_or_else(|| Error::LamOffGrid {
            lam,
            size: c.lams.len(),
            nearest: neighbours(&c.lams, lam),
        })?;
        let a = find(&c.alphas, alpha)
            .ok_or_else(|| Error::AlphaOffGrid { alpha, known: c.alphas.clone() })?;
        Ok((c.lams[l], c.alphas[a], c.thresholds[l * c.alphas.len() + a]))
    }
}

impl Calibration {
    fn check(&self) -> Result<()> {
        if self.lams.is_empty() || self.alphas.is_empty() || self.n == 0 {
            return Err(Error::argument("calibration", "λ, α and N all non-empty", "an empty one"));
        }
        if self.n > MAX_SAMPLES {
            return Err(Error::argument("calibration N", format!("at most {MAX_SAMPLES}"), self.n));
        }
        for (name, xs) in [("lams", &self.lams), ("alphas", &self.alphas)] {
            if !xs.is_sorted_by(|a, b| a < b) {
                return Err(Error::argument(name, "strictly ascending values", format!("{xs:?}")));
            }
        }
        self.lams.iter().try_for_each(|l| check_lam(*l))?;
        self.alphas.iter().try_for_each(|a| check_alpha(*a))?;
        check_len("thresholds", self.lams.len() * self.alphas.len(), self.thresholds.len())?;
        if self.thresholds.iter().any(|t| t.is_nan()) {
            return Err(Error::argument("thresholds", "margins or infinities", "NaN"));
        }
        if let Some(delta) = self.delta
            && !(delta > 0.0 && delta < 1.0)
        {
            return Err(Error::argument("delta", "a number in (0, 1)", delta));
        }
        self.check_quantiles()
    }

    fn check_quantiles(&self) -> Result<()> {
        let q = self.quantiles.len() / self.lams.len();
        check_len("quantiles (L·Q values)", self.lams.len() * q, self.quantiles.len())?;
        let expected = self.n.min(QUANTILES);
        if q != 0 && q != expected {
            return Err(Error::argument("quantiles a λ", format!("{expected}, or none"), q));
        }
        let good = |row: &[f32]| row.is_sorted() && row.iter().all(|v| v.is_finite());
        if q > 0 && !self.quantiles.chunks_exact(q).all(good) {
            return Err(Error::argument("quantiles", "ascending margins at each λ", "others"));
        }
        Ok(())
    }
}

/// Index of a grid value, forgiving the last digits of a recomputed one.
fn find(grid: &[f64], x: f64) -> Option<usize> {
    let distance = |g: &f64| (g - x).abs();
    let (at, nearest) =
        grid.iter().enumerate().min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)))?;
    (distance(nearest) <= 1e-9 * nearest.abs()).then_some(at)
}

fn neighbours(grid: &[f64], x: f64) -> String {
    let at = grid.partition_point(|g| *g < x);
    let near: Vec<String> = [at.checked_sub(1), Some(at)]
        .into_iter()
        .flatten()
        .filter_map(|i| grid.get(i))
        .map(f64::to_string)
        .collect();
    near.join(" and ")
}
