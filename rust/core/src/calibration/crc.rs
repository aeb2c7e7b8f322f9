//! Conformal risk control (equations 62–68): a risk level into a threshold.
//!
//! In: scores (L, N), r (L, N) where true means the full-information choice is an edge model, and
//! levels α. Out: thresholds (L, A); accept where score ≥ threshold.
//!
//! CRC(τ) = (d_τ + 1)/(N + 1) with d_τ = #{r = 1, s ≥ τ}, and τ* = inf{τ : CRC ≤ α}. With
//! k = ⌊α(N+1)⌋ − 1 allowed false acceptances, τ* lies just above the (k+1)-th largest score among
//! r = 1: equal scores stand or fall together. So it is selection ([`crate::ranks::select`]), not sorting:
//! about one pass over a row serves every α.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::checks::{check_alpha, check_finite, check_len, filled};
use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::ranks::found::{Found, NotFinite};
use crate::ranks::select::Selector;
use crate::simd::isa::Simd;

/// α as the shortest decimal that reads back as it: the number the user typed, mantissa · 10^−scale.
fn decimal(alpha: f64) -> (u128, u32) {
    // Display writes the shortest digits that round-trip, never an exponent.
    let text = alpha.to_string();
    let digits = text.split_once('.').map_or("", |(_, d)| d);
    (digits.trim_start_matches('0').parse().unwrap_or(0), digits.len() as u32)
}

/// ⌊α·(N+1)⌋, exactly: 0.29·100 is 29, which no double product gives. An α that a user computed as
/// m/(N+1) counts as m/(N+1), though rounding puts half of them below it: m counts where
/// m/(N+1) ≤ α + 1 unit in its last place.
fn floor_product(alpha: f64, n: usize) -> u128 {
    let (mantissa, scale) = decimal(alpha);
    // At most 10^17 · 2^64 < 10^37; a larger power of ten leaves nothing.
    let exact = 10_u128.checked_pow(scale).map_or(0, |p| mantissa * (n as u128 + 1) / p);
    exact + u128::from(at_most(exact + 1, n as u128 + 1, alpha.next_up()))
}

/// Whether m/n ≤ x, exactly, for n ≤ 2^64 and x in (0, 1].
fn at_most(m: u128, n: u128, x: f64) -> bool {
    let (bits, fraction) = (x.to_bits(), (1_u64 << (f64::MANTISSA_DIGITS - 1)) - 1);
    // x = mantissa / 2^shift.
    let (mantissa, shift) = match (bits >> (f64::MANTISSA_DIGITS - 1)) as u32 {
        0 => (bits & fraction, 1074),
        exponent => ((bits & fraction) | (fraction + 1), 1075 - exponent),
    };
    // At most 2^53 · 2^64; what does not fit into 128 bits is larger.
    shift < m.leading_zeros() && m << shift <= u128::from(mantissa) * n
}

/// k = ⌊α(N+1)⌋ − 1 allowed false acceptances, or `None` when α is infeasible.
pub fn allowed(alpha: f64, n: usize) -> Option<usize> {
    floor_product(alpha, n).checked_sub(1).map(|k| k as usize)
}

/// Fewest calibration samples that make α feasible: ⌈1/α⌉ − 1, or one less where α stands for 1/(N+1).
pub fn samples_needed(alpha: f64) -> u128 {
    let (mantissa, scale) = decimal(alpha);
    let exact = 10_u128
        .checked_pow(scale)
        .map_or(u128::MAX, |p| p.div_ceil(mantissa.max(1)).saturating_sub(1));
    match exact.checked_sub(1).map(usize::try_from) {
        Some(Ok(one_less)) if allowed(alpha, one_less).is_some() => exact - 1,
        _ => exact,
    }
}

/// The acceptance rule, the only one: Δ̂ ≥ τ.
pub fn accepts(margin: f32, threshold: f32) -> bool {
    margin >= threshold
}

/// Thresholds (L, A) of scores and r, both (L, N); +∞ for an infeasible level where `defer` allows it.
pub fn thresholds(
    scores: &[f32],
    prefers_edge: &[bool],
    n: usize,
    alphas: &[f64],
    defer: bool,
    threads: usize,
) -> Result<Vec<f32>> {
    check_shape(scores, prefers_edge, n)?;
    if alphas.is_empty() {
        return Err(Error::argument("alphas", "at least one risk level", "none"));
    }
    let mut counts = Vec::with_capacity(alphas.len());
    for alpha in alphas {
        check_alpha(*alpha)?;
        let k = allowed(*alpha, n);
        if k.is_none() && !defer {
            return Err(Error::Infeasible { alpha: *alpha, n, needed: samples_needed(*alpha) });
        }
        counts.push(k);
    }
    thresholds_by_count(scores, prefers_edge, n, &counts, threads)
}

/// Thresholds (L, A) that let k false acceptances pass each, in any order; +∞ for none given.
pub fn thresholds_by_count(
    scores: &[f32],
    prefers_edge: &[bool],
    n: usize,
    counts: &[Option<usize>],
    threads: usize,
) -> Result<Vec<f32>> {
    let l = check_shape(scores, prefers_edge, n)?;
    let simd = Simd::best()?;
    let places = counts.iter().enumerate();
    let mut feasible: Vec<(usize, usize)> = places.filter_map(|(a, k)| Some(((*k)?, a))).collect();
    feasible.sort_unstable();
    let mut out = filled("thresholds", l, counts.len(), f32::INFINITY)?;
    let ranks: Vec<usize> = feasible.iter().map(|(k, _)| *k).collect();
    // The pass that selects also looks for NaN: a second one would cost as much again.
    let not_finite = AtomicUsize::new(usize::MAX);
    threads::chunks(threads, &mut out, counts.len(), |first, part| {
        let mut selector = Selector::new(simd, n);
        for (i, row) in part.chunks_exact_mut(counts.len()).enumerate() {
            let start = (first + i) * n;
            let span = start..start + n;
            match selector.largest(&scores[span.clone()], &prefers_edge[span], &ranks) {
                Ok(found) => {
                    for ((_, a), found) in feasible.iter().zip(found) {
                        row[*a] = just_above(found);
                    }
                }
                Err(NotFinite(at)) => {
                    not_finite.fetch_min(start + at, Ordering::Relaxed);
                }
            }
        }
    });
    match not_finite.into_inner() {
        usize::MAX => Ok(out),
        at => Err(Error::NotFinite { what: "scores".into(), index: at, value: scores[at].into() }),
    }
}

/// The threshold that lets pass what is larger than the (k+1)-th largest score.
pub(super) fn just_above(found: Found) -> f32 {
    match found {
        Found::Score(score) => score.next_up(),
        Found::TooFew => f32::NEG_INFINITY,
        // Only if a caller changed the scores meanwhile: then nothing may be accepted.
        Found::Unstable => f32::INFINITY,
    }
}

fn check_shape(scores: &[f32], prefers_edge: &[bool], n: usize) -> Result<usize> {
    if n == 0 {
        return Err(Error::argument("scores", "(L, N) with at least one sample", "N = 0"));
    }
    check_len("prefers_edge (L·N values)", scores.len(), prefers_edge.len())?;
    if !scores.len().is_multiple_of(n) {
        return Err(Error::argument("scores", format!("rows of {n}"), scores.len()));
    }
    Ok(scores.len() / n)
}

/// Fraction of samples with r = 1 and score ≥ threshold, (L, A).
pub fn empirical_risk(
    scores: &[f32],
    prefers_edge: &[bool],
    n: usize,
    thresholds: &[f32],
) -> Result<Vec<f64>> {
    let l = check_shape(scores, prefers_edge, n)?;
    check_finite("scores", scores)?;
    if l == 0 || !thresholds.len().is_multiple_of(l) {
        return Err(Error::argument(
            "thresholds",
            format!("(L, A) with L = {l}"),
            thresholds.len(),
        ));
    }
    if thresholds.iter().any(|t| t.is_nan()) {
        return Err(Error::argument("thresholds", "numbers or infinities", "NaN"));
    }
    let a = thresholds.len() / l;
    let mut out = Vec::with_capacity(thresholds.len());
    for row in 0..l {
        let (s, r) = (&scores[row * n..(row + 1) * n], &prefers_edge[row * n..(row + 1) * n]);
        for t in &thresholds[row * a..(row + 1) * a] {
            let d = s.iter().zip(r).filter(|(s, r)| **r && accepts(**s, *t)).count();
            out.push(d as f64 / n as f64);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// m/(N+1) as a user computes it in floating point is m/(N+1), for every N up to 10^5; and what is
    /// allowed beyond exactness is never more than one unit in the last place.
    #[test]
    fn an_alpha_computed_in_floating_point_is_what_it_stands_for() {
        let (mut below, mut all) = (0_u64, 0_u64);
        for n in 1..=100_000_usize {
            let n1 = (n + 1) as u128;
            for m in [1, 2, 3, 7, n / 3 + 1, n] {
                let alpha = m as f64 / (n as f64 + 1.0);
                if m > n || alpha >= 1.0 {
                    continue;
                }
                all += 1;
                below += u64::from(!at_most(m as u128, n1, alpha));
                assert_eq!(allowed(alpha, n), m.checked_sub(1), "{m}/{n1}");
                for x in [alpha.next_down(), alpha.next_up(), alpha * 1.37, alpha * 0.73] {
                    if x < 1.0 {
                        let counts = floor_product(x, n);
                        assert!(at_most(counts, n1, x.next_up()), "{counts}/{n1} > {x} + 1 ulp");
                        assert!(!at_most(counts + 1, n1, x), "{counts}/{n1}: one more fits {x}");
                    }
                }
            }
            let least = 1.0 / (n as f64 + 1.0);
            assert_eq!(samples_needed(least), n as u128);
            assert!(allowed(least, n - 1).is_none());
            assert!(allowed(least, n).is_some());
        }
        // The fault was no rarity.
        assert!(below * 5 > all * 2, "{below} of {all} are rounded down");
    }

    /// The decimal that a user typed stays exact: no neighbour of it is taken for it.
    #[test]
    fn decimals_stay_exact() {
        for (alpha, n, k) in [(0.29, 99, 28), (0.01, 99, 0), (0.002, 499, 0), (0.05, 1999, 99)] {
            assert_eq!(allowed(alpha, n), Some(k));
        }
        assert_eq!(allowed(0.01, 98), None);
        assert_eq!(allowed(0.002, 498), None);
        assert_eq!(allowed(f64::from_bits(1), 1 << 40), None);
        assert_eq!(samples_needed(0.002), 499);
    }
}
