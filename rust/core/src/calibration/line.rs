//! One λ of a calibration: margins and what the judge's choice compares in, thresholds, what they let
//! pass, and order statistics out. Each thread has buffers of its own.

use crate::base::limits::QUANTILES;
use crate::calibration::crc::just_above;
use crate::calibration::groups::{self, GroupLine, Members};
use crate::choice;
use crate::ranks::select::Selector;
use crate::ranks::spread::spread;
use crate::simd::isa::Simd;
use crate::simd::lanes::LANES;

/// Margins that are counted together.
const BLOCK: usize = 4096;

/// What one λ comes to.
#[derive(Default)]
pub struct Line {
    /// (A,).
    pub thresholds: Vec<f32>,
    /// Fractions of the split wrongly kept local, (A,).
    pub risk: Vec<f64>,
    /// Fractions of the split accepted, (A,).
    pub local: Vec<f64>,
    /// The order statistics that are kept.
    pub quantiles: Vec<f32>,
    /// The same within each group.
    pub groups: GroupLine,
}

/// A thread's buffers.
pub struct Work<'a> {
    selector: Selector,
    simd: Simd,
    /// Whether each query is typical enough to be accepted.
    typical: &'a [bool],
    /// r of one λ.
    prefers_edge: Vec<bool>,
    /// Places of the kept order statistics, from the smallest (0) on.
    kept: Vec<usize>,
    /// Where order statistics are looked for.
    gathered: Vec<f32>,
    block: Vec<f32>,
}

impl<'a> Work<'a> {
    /// Buffers for `n` queries.
    pub fn new(simd: Simd, n: usize, typical: &'a [bool]) -> Self {
        Self {
            selector: Selector::new(simd, n),
            simd,
            typical,
            prefers_edge: vec![false; n],
            kept: kept_places(n),
            gathered: Vec::new(),
            block: vec![0.0; BLOCK + LANES],
        }
    }

    /// Thresholds at `lam` from margins (N,), p and c (N, M) and the counts allowed (A,), ascending.
    pub fn line(
        &mut self,
        margins: &[f32],
        p: &[f32],
        c: &[f32],
        lam: f64,
        allowed: &[Option<usize>],
    ) -> Line {
        let n = margins.len();
        let models = p.len() / n;
        let rows = p.chunks_exact(models).zip(c.chunks_exact(models));
        for ((p, c), r) in rows.zip(&mut self.prefers_edge) {
            *r = choice::margin(p, c, lam) < 0.0;
        }
        // Ascending levels allow ascending counts.
        let ranks: Vec<usize> = allowed.iter().flatten().copied().collect();
        let found = self.selector.largest(margins, &self.prefers_edge, &ranks);
        let mut found = found.expect("margins are finite").into_iter().map(just_above);
        let thresholds: Vec<f32> =
            allowed.iter().map(|k| k.and_then(|_| found.next()).unwrap_or(f32::INFINITY)).collect();
        let quantiles = spread(margins, &self.kept, &mut self.gathered);
        let typical = self.typical;
        let local = thresholds.iter().map(|t| self.accepted(margins, typical, *t)).collect();
        let wrong: Vec<bool> =
            self.prefers_edge.iter().zip(typical).map(|(r, typical)| r & typical).collect();
        let risk = thresholds.iter().map(|t| self.accepted(margins, &wrong, *t)).collect();
        Line { thresholds, risk, local, quantiles, groups: GroupLine::default() }
    }

    /// The same within groups, right after [`Self::line`], which made r.
    pub fn groups(
        &mut self,
        margins: &[f32],
        members: &Members,
        allowed: &[Option<usize>],
    ) -> GroupLine {
        let of = (margins, &self.prefers_edge[..], self.typical);
        groups::line(&mut self.selector, members, of, allowed)
    }

    /// The fraction of all queries that lie in the mask and are accepted.
    fn accepted(&mut self, margins: &[f32], mask: &[bool], threshold: f32) -> f64 {
        // The filter takes finite bounds; beyond them all margins lie on one side.
        let bound = threshold.max(f32::MIN);
        let mut count = 0;
        if bound <= f32::MAX {
            for (margins, mask) in margins.chunks(BLOCK).zip(mask.chunks(BLOCK)) {
                count += self.simd.keep(margins, mask, bound, &mut self.block).kept;
            }
        }
        count as f64 / margins.len() as f64
    }
}

/// Places, from the smallest (0) on, of the order statistics kept of `n` margins: evenly spaced.
fn kept_places(n: usize) -> Vec<usize> {
    let q = n.min(QUANTILES);
    let rank = |i: usize| (i as f64 * (n + 1) as f64 / (q + 1) as f64).round_ties_even() as usize;
    (1..=q).map(|i| rank(i) - 1).collect()
}
