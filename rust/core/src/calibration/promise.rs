//! What is promised, and how many false acceptances it allows.
//!
//! In: N samples, risk levels, a [`Promise`]. Out: for each level the count k of false acceptances that
//! the calibration set may hold, or `None` where N samples cannot promise the level.

use crate::base::checks::check_alpha;
use crate::base::error::{Error, Result};
use crate::calibration::crc;

/// Where thresholds are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Cost weights λ (L,), strictly ascending.
    pub lams: Vec<f64>,
    /// Risk levels α (A,), strictly ascending.
    pub alphas: Vec<f64>,
    /// What happens to the levels that N samples cannot promise.
    pub on_infeasible: OnInfeasible,
}

/// What to do with a risk level that N samples cannot promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInfeasible {
    /// An error.
    Raise,
    /// A threshold of +∞: every query goes to the edge.
    Defer,
    /// The level leaves the grid; an error only where none is left.
    LeaveOut,
}

/// Over what the promise of a threshold holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    /// Each (λ, α) by itself, on average over calibration sets (equation 68).
    Each,
    /// All of the grid at once, with probability 1 − δ over calibration sets drawn independently.
    AtOnce {
        /// δ.
        delta: f64,
    },
}

impl Promise {
    /// δ, where there is one.
    pub fn delta(self) -> Option<f64> {
        match self {
            Self::Each => None,
            Self::AtOnce { delta } => Some(delta),
        }
    }

    /// Counts k (A,) for N samples and a grid of L cost weights.
    ///
    /// `Each`: k = ⌊α(N+1)⌋ − 1. `AtOnce`: with k allowed, the risk behind the threshold is at most
    /// Beta(k+1, N−k) distributed over calibration sets, so it exceeds α with probability at most
    /// P(Binomial(N, α) ≤ k); k is the largest that keeps this under δ/(L·A), and by Bonferroni all
    /// L·A cells hold at once with probability 1 − δ.
    pub fn allowed(self, n: usize, lams: usize, alphas: &[f64]) -> Result<Vec<Option<usize>>> {
        let level = match self {
            Self::Each => None,
            Self::AtOnce { delta } if delta > 0.0 && delta < 1.0 => {
                Some(delta / (lams * alphas.len()) as f64)
            }
            Self::AtOnce { delta } => {
                return Err(Error::argument("delta", "a number in (0, 1)", delta));
            }
        };
        let count = |alpha: &f64| {
            check_alpha(*alpha)?;
            Ok(match level {
                None => crc::allowed(*alpha, n),
                Some(level) => largest_count(n, *alpha, level),
            })
        };
        alphas.iter().map(count).collect()
    }

    /// The error for a level that N samples cannot promise.
    pub fn infeasible(self, alpha: f64, n: usize, cells: (usize, usize)) -> Error {
        match self {
            Self::Each => Error::Infeasible { alpha, n, needed: crc::samples_needed(alpha) },
            Self::AtOnce { .. } => Error::InfeasibleAtOnce { alpha, n, cells },
        }
    }
}

/// Largest k with P(X ≤ k) ≤ `level` for X ~ Binomial(n, p); `None` where even 0 is too likely.
pub fn largest_count(n: usize, p: f64, level: f64) -> Option<usize> {
    let (trials, log_p, log_q) = (n as f64, libm::log(p), libm::log1p(-p));
    let whole = libm::lgamma(trials + 1.0);
    let mut below = 0.0;
    for k in 0..=n {
        let x = k as f64;
        let choose = whole - libm::lgamma(x + 1.0) - libm::lgamma(trials - x + 1.0);
        below += libm::exp(choose + x * log_p + (trials - x) * log_q);
        if below > level {
            return k.checked_sub(1);
        }
    }
    Some(n)
}
