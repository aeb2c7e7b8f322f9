//! The calibrated grid: thresholds by (λ, α), and what they were calibrated on.
//!
//! In: the outcome of a calibration, or of reading one from a file. Out: the threshold of an operating
//! point, or an error that names the nearest ones.

use crate::base::checks::{check_alpha, check_finite_f64, check_lam, check_len};
use crate::base::error::{Error, Result};
use crate::base::ids::Seen;
use crate::base::limits::{MAX_SAMPLES, QUANTILES};
use crate::calibration::groups::Groups;
use crate::calibration::typicality;

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
    /// What a false acceptance was measured against: "teacher" or "outcomes".
    pub judge: String,
    /// "predicted" or "known".
    pub lengths: String,
    /// None: each threshold keeps its own promise, on average over calibration sets. Some(δ): all
    /// keep theirs at once, for all but a fraction δ of calibration sets.
    pub delta: Option<f64>,
    /// Order statistics (L, Q) of the calibration margins at each λ, ascending; Q is 0 in files of
    /// before they were kept.
    pub quantiles: Vec<f32>,
    /// Conformal factors (M,) of output lengths; none where the split had
    /// no lengths, or too few.
    pub length_factors: Vec<f64>,
    /// Typicality scores kept of the split, ascending; none of a router without typicality.
    pub typicality: Vec<f32>,
    /// Queries whose typicality p-value is at most this are deferred, whatever their margin.
    pub defer_atypical: Option<f64>,
    /// Thresholds per group, where it was asked for.
    pub groups: Option<Groups>,
    /// The queries used.
    pub queries: Seen,
}

/// The paper's risk level, which a caller who names none has in mind.
pub const USUAL_ALPHA: f64 = 0.01;

/// That level or, where it is not calibrated, the nearest.
pub fn usual_alpha(alphas: &[f64]) -> f64 {
    nearest(alphas, USUAL_ALPHA).map_or(USUAL_ALPHA, |i| alphas[i])
}

/// What a false acceptance is measured against.
pub const JUDGES: [&str; 2] = ["teacher", "outcomes"];
/// Output lengths that price a judge's choice.
pub const LENGTHS: [&str; 2] = ["predicted", "known"];

impl Calibration {
    /// (λ, α, threshold) of an operating point on the grid, as the grid spells them.
    pub fn threshold(&self, lam: f64, alpha: f64) -> Result<(f64, f64, f32)> {
        let (l, a) = self.cell(lam, alpha)?;
        Ok((self.lams[l], self.alphas[a], self.thresholds[l * self.alphas.len() + a]))
    }

    /// The threshold of each group at an operating point, (G,); none without groups.
    pub fn group_thresholds(&self, lam: f64, alpha: f64) -> Result<Option<Vec<f32>>> {
        let (l, a) = self.cell(lam, alpha)?;
        let (at, cells) = (l * self.alphas.len() + a, self.lams.len() * self.alphas.len());
        let of = |g: &Groups| g.thresholds.iter().skip(at).step_by(cells).copied().collect();
        Ok(self.groups.as_ref().map(of))
    }

    /// Where an operating point stands on the grid.
    fn cell(&self, lam: f64, alpha: f64) -> Result<(usize, usize)> {
        check_lam(lam)?;
        check_alpha(alpha)?;
        let l = find(&self.lams, lam).ok_or_else(|| Error::LamOffGrid {
            lam,
            size: self.lams.len(),
            nearest: neighbours(&self.lams, lam),
        })?;
        let a = find(&self.alphas, alpha)
            .ok_or_else(|| Error::AlphaOffGrid { alpha, known: self.alphas.clone() })?;
        Ok((l, a))
    }

    /// The level of a caller who names none.
    pub fn usual_alpha(&self) -> f64 {
        usual_alpha(&self.alphas)
    }

    /// Refuse a grid that no calibration makes.
    pub fn check(&self) -> Result<()> {
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
        for (name, known, word) in
            [("judge", JUDGES, &self.judge), ("lengths", LENGTHS, &self.lengths)]
        {
            if !known.contains(&word.as_str()) {
                return Err(Error::argument(name, format!("one of {known:?}"), word));
            }
        }
        if self.thresholds.iter().any(|t| t.is_nan()) {
            return Err(Error::argument("thresholds", "margins or infinities", "NaN"));
        }
        if let Some(delta) = self.delta
            && !(delta > 0.0 && delta < 1.0)
        {
            return Err(Error::argument("delta", "a number in (0, 1)", delta));
        }
        check_finite_f64("length factors", &self.length_factors)?;
        if let Some(f) = self.length_factors.iter().find(|f| **f < 0.0) {
            return Err(Error::argument("length factors", "numbers, at least 0", f));
        }
        if let Some(level) = self.defer_atypical {
            check_level(level)?;
            if self.typicality.is_empty() {
                return Err(Error::argument("defer_atypical", "a router with typicality", "none"));
            }
        }
        if !self.typicality.is_empty() {
            typicality::check_kept(&self.typicality, self.n)?;
        }
        if let Some(groups) = &self.groups {
            groups.check(self.n, self.lams.len() * self.alphas.len())?;
        }
        self.check_quantiles()
    }

    /// The typicality p-value of a score, in (0, 1]; none where no scores were kept.
    pub fn p_value(&self, score: f32) -> Option<f64> {
        let kept = &self.typicality[..];
        (!kept.is_empty()).then(|| typicality::p_value(score, kept, self.n))
    }

    fn check_quantiles(&self) -> Result<()> {
        let q = self.quantiles.len() / self.lams.len();
        check_len("quantiles (L·Q values)", self.lams.len() * q, self.quantiles.len())?;
        let expected = self.n.min(QUANTILES);
        if q != 0 && q != expected {
            return Err(Error::argument("quantiles per λ", format!("{expected}, or none"), q));
        }
        let good = |row: &[f32]| row.is_sorted() && row.iter().all(|v| v.is_finite());
        if q > 0 && !self.quantiles.chunks_exact(q).all(good) {
            return Err(Error::argument("quantiles", "ascending margins at each λ", "others"));
        }
        Ok(())
    }
}

/// Refuse a level of p-values outside (0, 1).
pub fn check_level(level: f64) -> Result<()> {
    if level > 0.0 && level < 1.0 {
        return Ok(());
    }
    Err(Error::argument("defer_atypical", "a level strictly between 0 and 1", level))
}

/// Index of a grid value, forgiving the last digits of a recomputed one.
pub fn find(grid: &[f64], x: f64) -> Option<usize> {
    let at = nearest(grid, x)?;
    ((grid[at] - x).abs() <= 1e-9 * grid[at].abs()).then_some(at)
}

/// Index of the value nearest to `x`; `None` of an empty grid.
fn nearest(grid: &[f64], x: f64) -> Option<usize> {
    let distance = |i: &usize| (grid[*i] - x).abs();
    (0..grid.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)))
}

/// The values of an ascending grid on either side of one that it lacks, in words.
pub fn neighbours(grid: &[f64], x: f64) -> String {
    let at = grid.partition_point(|g| *g < x);
    let near: Vec<String> = [at.checked_sub(1), Some(at)]
        .into_iter()
        .flatten()
        .filter_map(|i| grid.get(i))
        .map(f64::to_string)
        .collect();
    near.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(quantiles: Vec<f32>) -> Calibration {
        Calibration {
            lams: vec![0.5, 1.0],
            alphas: vec![0.05],
            thresholds: vec![0.0, 0.1],
            n: 1000,
            judge: "teacher".into(),
            lengths: "predicted".into(),
            delta: None,
            quantiles,
            length_factors: Vec::new(),
            typicality: Vec::new(),
            defer_atypical: None,
            groups: None,
            queries: Seen::default(),
        }
    }

    #[test]
    fn order_statistics_of_another_number_or_order_are_refused() {
        let rising: Vec<f32> = (0..QUANTILES).map(|i| i as f32).collect();
        assert!(calibration([&rising[..], &rising].concat()).check().is_ok());
        assert!(calibration(Vec::new()).check().is_ok());
        for width in [1, 100, QUANTILES + 1] {
            let error = calibration(vec![0.0; 2 * width]).check().unwrap_err().to_string();
            assert!(error.contains("quantiles per λ: expected 255, or none"), "{error}");
        }
        let falling: Vec<f32> = rising.iter().rev().copied().collect();
        let error = calibration([falling, rising].concat()).check().unwrap_err().to_string();
        assert!(error.contains("ascending margins"), "{error}");
    }

    #[test]
    fn a_point_is_found_by_its_decimal_and_a_near_one_is_named() {
        let c = calibration(Vec::new());
        assert_eq!(c.threshold(1.0, 0.05).unwrap(), (1.0, 0.05, 0.1));
        assert!(c.threshold(0.7, 0.05).unwrap_err().to_string().contains("nearest 0.5 and 1"));
        assert!(c.threshold(1.0, 0.04).unwrap_err().to_string().contains("[0.05]"));
    }
}
