//! Bounds that keep every size, sum and product of the crate in range.

/// Largest embedding and hidden width: it bounds what a decision keeps on the stack.
pub const MAX_WIDTH: usize = 4096;
/// Largest number of models in a table or an artifact.
pub const MAX_MODELS: usize = 1024;

/// Largest number of centres of a smoother.
pub const MAX_CENTRES: usize = 1 << 16;

/// Largest λ: with it and any single-precision cost a utility is still finite.
pub const MAX_LAM: f64 = 1e12;

/// Order statistics kept of the calibration margins at one λ, at most.
pub const QUANTILES: usize = 255;
/// Typicality scores kept of the calibration split, at most.
pub const TYPICAL_SCORES: usize = 1023;
/// Calibration samples, at most: far beyond any, and small enough for exact arithmetic.
/// Where addresses have 32 bits, no slice is longer than this.
pub const MAX_SAMPLES: usize = if usize::BITS > 40 { 1_u64 << 40 } else { 1 << 31 } as usize;
