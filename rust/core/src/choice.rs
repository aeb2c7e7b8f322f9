//! The full-information choice and its margin (equations 26–29, 46–48).
//!
//! In: p (N, M) and c (N, M), model 0 local, and λ. Out: û_m = p_m − λ·c_m, the argmax, and
//! Δ = û_0 − max over edge models of û_m. Two tie rules: among edge models a tie goes to the smaller
//! cost (then to the earlier model); a tie with the local model goes to the local model. So the
//! choice is local exactly when Δ ≥ 0.
//!
//! Utilities are double precision, a product and a difference: any language gives these bits.

use crate::base::checks::check_lam;
use crate::base::checks::{check_finite, check_len, room};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_MODELS;

/// û = p − λ·c.
pub fn utility(p: f32, c: f32, lam: f64) -> f64 {
    f64::from(p) - lam * f64::from(c)
}

/// The best of `candidates` (model indices in ascending order) by the tie rules; `None` if empty.
pub fn best(
    p: &[f32],
    c: &[f32],
    lam: f64,
    candidates: impl Iterator<Item = usize>,
) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for m in candidates {
        let u = utility(p[m], c[m], lam);
        let better = match best {
            None => true,
            Some((b, ub)) => u > ub || (u == ub && b != 0 && c[m] < c[b]),
        };
        if better {
            best = Some((m, u));
        }
    }
    best.map(|(m, _)| m)
}

/// Δ = û_0 − max over edge models of û_m.
pub fn margin(p: &[f32], c: &[f32], lam: f64) -> f64 {
    let edge = (1..p.len()).map(|m| utility(p[m], c[m], lam)).fold(f64::NEG_INFINITY, f64::max);
    utility(p[0], c[0], lam) - edge
}

fn check(p: &[f32], c: &[f32], models: usize, lams: &[f64]) -> Result<usize> {
    if !(2..=MAX_MODELS).contains(&models) || !p.len().is_multiple_of(models) {
        return Err(Error::argument(
            "accuracies",
            format!("(N, M) with 2 <= M <= {MAX_MODELS}"),
            format!("{} values, M = {models}", p.len()),
        ));
    }
    check_len("costs (N·M values)", p.len(), c.len())?;
    check_finite("accuracies", p)?;
    check_finite("costs", c)?;
    lams.iter().try_for_each(|lam| check_lam(*lam))?;
    Ok(p.len() / models)
}

/// Δ at every λ and row → (L, N).
pub fn margins(p: &[f32], c: &[f32], models: usize, lams: &[f64]) -> Result<Vec<f64>> {
    let n = check(p, c, models, lams)?;
    let mut out = room("margins", lams.len(), n)?;
    for lam in lams {
        out.extend(
            p.chunks_exact(models).zip(c.chunks_exact(models)).map(|(p, c)| margin(p, c, *lam)),
        );
    }
    Ok(out)
}

/// The chosen model at every λ and row, from `first` on (0: all models, 1: edge models) → (L, N).
pub fn choices(
    p: &[f32],
    c: &[f32],
    models: usize,
    lams: &[f64],
    first: usize,
) -> Result<Vec<u16>> {
    let n = check(p, c, models, lams)?;
    if first >= models {
        return Err(Error::argument("first", format!("under {models}"), first));
    }
    let mut out = room("choices", lams.len(), n)?;
    for lam in lams {
        for (p, c) in p.chunks_exact(models).zip(c.chunks_exact(models)) {
            out.push(best(p, c, *lam, first..models).unwrap_or(first) as u16);
        }
    }
    Ok(out)
}
