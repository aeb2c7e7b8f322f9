//! The numbers that the fused layers work in: single precision to train, double to check gradients.
//!
//! In: a number. Out: Φ and φ of the standard normal distribution, GELU(t) = t·Φ(t) and its slope
//! Φ(t) + t·φ(t) being made of them; and e^−y. In single precision all are polynomials that
//! vectorise, without a call of the mathematics library.

// Inlined into the functions that enable instructions.
#![allow(clippy::inline_always)]

use std::ops::{AddAssign, Mul};

use candle_core::WithDType;
use cr2fast_core::{ERF_P, ERF_Q};

/// Partial sums of a dot product, so that it vectorises.
pub const LANES: usize = 16;

/// What the loops need of a number.
pub trait Real: WithDType + Mul<Output = Self> + AddAssign + Send + Sync {
    /// Φ(t).
    fn cdf(self) -> Self;
    /// φ(t).
    fn pdf(self) -> Self;
    /// From a mask's entry.
    fn of(x: f32) -> Self;
}

impl Real for f32 {
    /// The core's rational approximation (its tests bound the error).
    #[inline(always)]
    fn cdf(self) -> Self {
        let t = (self * std::f32::consts::FRAC_1_SQRT_2).clamp(-4.0, 4.0);
        let t2 = t * t;
        let (mut p, mut q) = (ERF_P[0], ERF_Q[0]);
        for c in &ERF_P[1..] {
            p = p * t2 + c;
        }
        for c in &ERF_Q[1..] {
            q = q * t2 + c;
        }
        0.5 + 0.5 * (t * p / q)
    }

    /// e^(−t²/2)/√2π.
    #[inline(always)]
    fn pdf(self) -> Self {
        0.398_942_3 * exp_negative(0.5 * self * self)
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

impl Real for f64 {
    fn cdf(self) -> Self {
        0.5 * (1.0 + libm::erf(self * std::f64::consts::FRAC_1_SQRT_2))
    }

    fn pdf(self) -> Self {
        0.398_942_280_401_432_7 * (-0.5 * self * self).exp()
    }

    fn of(x: f32) -> Self {
        f64::from(x)
    }
}

/// e^(−y), y ≥ 0, by range reduction to |r| ≤ ln2/2 and a polynomial.
#[inline(always)]
pub fn exp_negative(y: f32) -> f32 {
    let y = y.min(87.0);
    // Adding and taking away 1.5·2^23 rounds to the nearest whole number; the sum's low bits are
    // that number.
    let magic = 12_582_912.0_f32;
    let sum = y * -std::f32::consts::LOG2_E + magic;
    let n = sum - magic;
    let r = (-y - n * 0.693_145_75) - n * 1.428_606_8e-6;
    let mut p = 1.0 / 720.0_f32;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let scale =
        f32::from_bits((sum.to_bits().wrapping_sub(magic.to_bits()).wrapping_add(127)) << 23);
    p * scale
}
