//! Conformal risk control (equations 62–68): a risk level into a threshold.
//!
//! In: scores (L, N), r (L, N) where true means the full-information choice is an edge model, and
//! levels α. Out: thresholds (L, A); accept where score ≥ threshold.
//!
//! CRC(τ) = (d_τ + 1)/(N + 1) with d_τ = #{r = 1, s ≥ τ}, and τ* = inf{τ : CRC ≤ α}. With
//! k = ⌊α(N+1)⌋ − 1 allowed false acceptances, τ* lies just above the (k+1)-th largest score among
//! r = 1: equal scores stand or fall together. So it is selection, not sorting: three histogram
//! passes over the bits of the scores serve every α, in O(N) time and 25 KB an α, whatever N is.

use crate::error::{Error, Result, check_finite, check_len, filled};
use crate::parallel;

/// What to do when α < 1/(N+1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInfeasible {
    /// An error.
    Raise,
    /// A threshold of +∞: every query goes to the edge.
    Defer,
}

/// Refuse an α outside (0, 1).
pub fn check_alpha(alpha: f64) -> Result<()> {
    if alpha > 0.0 && alpha < 1.0 {
        return Ok(());
    }
    Err(Error::argument("alpha", "a risk level strictly between 0 and 1", alpha))
}

/// α as the shortest decimal that reads back as it: the number the user typed, mantissa · 10^−scale.
fn decimal(alpha: f64) -> (u128, u32) {
    // Display writes the shortest digits that round-trip, never an exponent.
    let text = alpha.to_string();
    let digits = text.split_once('.').map_or("", |(_, d)| d);
    (digits.trim_start_matches('0').parse().unwrap_or(0), digits.len() as u32)
}

/// ⌊α·(N+1)⌋, exactly: 0.29·100 is 29, which no double product gives.
fn floor_product(alpha: f64, n: usize) -> u128 {
    let (mantissa, scale) = decimal(alpha);
    // At most 10^17 · 2^64 < 10^37; a larger power of ten leaves nothing.
    10_u128.checked_pow(scale).map_or(0, |p| mantissa * (n as u128 + 1) / p)
}

/// k = ⌊α(N+1)⌋ − 1 allowed false acceptances, or `None` when α is infeasible.
pub fn allowed(alpha: f64, n: usize) -> Option<usize> {
    floor_product(alpha, n).checked_sub(1).map(|k| k as usize)
}

/// Fewest calibration samples that make α feasible: ⌈1/α⌉ − 1.
pub fn samples_needed(alpha: f64) -> u128 {
    let (mantissa, scale) = decimal(alpha);
    10_u128.checked_pow(scale).map_or(u128::MAX, |p| p.div_ceil(mantissa.max(1)).saturating_sub(1))
}

/// Order-preserving integer image of a float; −0 and +0 are one value.
fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits }
}

fn unkey(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}

const TOP: usize = 1 << 11;
const LOW: usize = 1 << 10;

/// The threshold just above the rank-th largest (from 0) score among r = 1, for each rank; −∞ where
/// fewer samples have r = 1.
fn select(scores: &[f32], prefers_edge: &[bool], ranks: &[usize]) -> Vec<f32> {
    let keys = || scores.iter().zip(prefers_edge).filter(|(_, r)| **r).map(|(s, _)| key(*s));
    let mut counts = vec![0_usize; TOP];
    keys().for_each(|k| counts[(k >> 21) as usize] += 1);
    let found: Vec<Option<(u32, usize)>> = ranks.iter().map(|r| descend(&counts, *r)).collect();
    let found = refine(keys, &found, 10, TOP);
    let found = refine(keys, &found, 0, LOW);
    let total: usize = counts.iter().sum();
    ranks
        .iter()
        .zip(found)
        .map(|(rank, found)| match found {
            _ if *rank >= total => f32::NEG_INFINITY,
            Some((key, _)) => unkey(key).next_up(),
            // Only if a caller changed the scores meanwhile: then nothing may be accepted.
            None => f32::INFINITY,
        })
        .collect()
}

/// One more digit of each key: `found` holds a prefix and the rank within it.
fn refine<I: Iterator<Item = u32>>(
    keys: impl Fn() -> I,
    found: &[Option<(u32, usize)>],
    shift: u32,
    width: usize,
) -> Vec<Option<(u32, usize)>> {
    let digit = width.trailing_zeros();
    let mut prefixes: Vec<u32> = found.iter().flatten().map(|f| f.0).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let mut counts = vec![0_usize; prefixes.len() * width];
    for k in keys() {
        if let Ok(slot) = prefixes.binary_search(&(k >> (shift + digit))) {
            counts[slot * width + ((k >> shift) as usize & (width - 1))] += 1;
        }
    }
    let step = |&(prefix, rank): &(u32, usize)| {
        let slot = prefixes.binary_search(&prefix).ok()?;
        let (low, rank) = descend(&counts[slot * width..(slot + 1) * width], rank)?;
        Some((prefix << digit | low, rank))
    };
    found.iter().map(|f| f.as_ref().and_then(step)).collect()
}

/// The bucket that holds the rank-th largest element, and the rank within it.
fn descend(counts: &[usize], mut rank: usize) -> Option<(u32, usize)> {
    for (bucket, count) in counts.iter().enumerate().rev() {
        if rank < *count {
            return Some((bucket as u32, rank));
        }
        rank -= count;
    }
    None
}

/// Thresholds (L, A) of scores and r, both (L, N).
pub fn thresholds(
    scores: &[f32],
    prefers_edge: &[bool],
    n: usize,
    alphas: &[f64],
    on_infeasible: OnInfeasible,
    threads: usize,
) -> Result<Vec<f32>> {
    let l = check_shape(scores, prefers_edge, n)?;
    if alphas.is_empty() {
        return Err(Error::argument("alphas", "at least one risk level", "none"));
    }
    for alpha in alphas {
        check_alpha(*alpha)?;
        if allowed(*alpha, n).is_none() && on_infeasible == OnInfeasible::Raise {
            return Err(Error::Infeasible { alpha: *alpha, n, needed: samples_needed(*alpha) });
        }
    }
    let mut out = filled("thresholds", l, alphas.len(), f32::INFINITY)?;
    let feasible: Vec<(usize, usize)> = alphas
        .iter()
        .enumerate()
        .filter_map(|(a, alpha)| allowed(*alpha, n).map(|k| (a, k)))
        .collect();
    let ranks: Vec<usize> = feasible.iter().map(|(_, k)| *k).collect();
    parallel::chunks(threads, &mut out, alphas.len(), |first, part| {
        for (i, row) in part.chunks_exact_mut(alphas.len()).enumerate() {
            let span = (first + i) * n..(first + i + 1) * n;
            let selected = select(&scores[span.clone()], &prefers_edge[span], &ranks);
            for ((a, _), threshold) in feasible.iter().zip(selected) {
                row[*a] = threshold;
            }
        }
    });
    Ok(out)
}

fn check_shape(scores: &[f32], prefers_edge: &[bool], n: usize) -> Result<usize> {
    if n == 0 {
        return Err(Error::argument("scores", "(L, N) with at least one sample", "N = 0"));
    }
    check_len("prefers_edge (L·N values)", scores.len(), prefers_edge.len())?;
    if !scores.len().is_multiple_of(n) {
        return Err(Error::argument("scores", format!("rows of {n}"), scores.len()));
    }
    check_finite("scores", scores)?;
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
            let d = s.iter().zip(r).filter(|(s, r)| **r && **s >= *t).count();
            out.push(d as f64 / n as f64);
        }
    }
    Ok(out)
}
