//! How long an answer gets, at most: upper bounds of predicted output lengths.
//!
//! In: predicted and recorded lengths of the calibration split. Out: for each model the conformal
//! quantile of (L + 1) / (L̂ + 1), which makes a bound of a prediction: for queries exchangeable with
//! the split's, at most [`OVERRUN`] of a model's answers are longer, on average over such splits.

/// Share of a model's answers that may be longer than its bound.
pub const OVERRUN: f64 = 0.05;

/// Upper bounds of output lengths.
pub fn longest(predicted: &[f64], factors: &[f64], out: &mut [f64]) {
    for ((out, l), f) in out.iter_mut().zip(predicted).zip(factors) {
        *out = ((l + 1.0) * f - 1.0).max(0.0);
    }
}

/// Conformal quantiles (M,) of (L + 1) / (L̂ + 1); none where the split is too small for any.
pub fn factors(predicted: &[f64], observed: &[f64], models: usize) -> Vec<f64> {
    let n = observed.len() / models;
    // ⌈(n + 1)(1 − OVERRUN)⌉, in whole numbers.
    let rank = ((n + 1) * 19).div_ceil(20);
    if rank > n {
        return Vec::new();
    }
    let column = |m: usize| {
        let mut ratios: Vec<f64> = (0..n)
            .map(|i| (observed[i * models + m] + 1.0) / (predicted[i * models + m] + 1.0))
            .collect();
        *ratios.select_nth_unstable_by(rank - 1, f64::total_cmp).1
    };
    (0..models).map(column).collect()
}
