//! The training split as it comes in, checked, and cut into rows to learn from and rows held out.

use cr2fast_core::{MAX_WIDTH, check_finite, check_len, check_tokens};
use rand::seq::SliceRandom;

use crate::config::FitConfig;
use crate::error::{Result, TrainError};
use crate::ops::nn::{self, Stream};

/// Fewest rows worth fitting on.
const MIN_ROWS: usize = 20;

/// The training split.
#[derive(Clone, Copy, Debug)]
pub struct TrainData<'a> {
    /// Embedding width.
    pub d: usize,
    /// (N, d).
    pub embeddings: &'a [f32],
    /// (N, M), the device's model first: right 1, wrong 0, or a grade between.
    pub correct: &'a [f32],
    /// (N,) L_in.
    pub n_input: &'a [f64],
    /// (N, M) L_out.
    pub n_output: &'a [f64],
}

/// What the networks are to read beside the embeddings.
#[derive(Clone, Debug)]
pub struct FeatureData<'a> {
    /// Whether features of the text come first among them.
    pub text: bool,
    /// Names of the caller's own columns.
    pub columns: Vec<String>,
    /// (N, F).
    pub values: &'a [f32],
}

impl TrainData<'_> {
    /// N.
    pub(crate) fn rows(&self) -> usize {
        self.n_input.len()
    }

    /// Check sizes and values, for M models.
    pub(crate) fn check(&self, models: usize) -> Result<()> {
        let n = self.rows();
        if n < MIN_ROWS {
            let expected = format!("at least {MIN_ROWS} queries");
            return Err(TrainError::argument("training split", &expected, n));
        }
        check_len("embeddings (N·d values)", n * self.d, self.embeddings.len())?;
        check_len("correct (N·M values)", n * models, self.correct.len())?;
        check_len("n_output_tokens (N·M values)", n * models, self.n_output.len())?;
        if !(1..=MAX_WIDTH).contains(&self.d) {
            let expected = format!("1 to {MAX_WIDTH}");
            return Err(TrainError::argument("embedding width", &expected, self.d));
        }
        check_finite("embeddings", self.embeddings)?;
        if let Some(y) = self.correct.iter().find(|y| !(0.0..=1.0).contains(*y)) {
            return Err(TrainError::argument("correct", "answers 0 or 1, or grades between", y));
        }
        check_tokens("n_input_tokens", self.n_input)?;
        check_tokens("n_output_tokens", self.n_output)?;
        Ok(())
    }
}

/// The split's rows in random order: a part chooses checkpoints, the rest is learned from.
pub struct Split {
    rows: Vec<u32>,
    held: usize,
}

impl Split {
    /// Cut `n` rows, at least one on either side.
    pub fn new(n: usize, config: &FitConfig) -> Self {
        let mut rows: Vec<u32> = (0..n as u32).collect();
        rows.shuffle(&mut nn::stream(config.seed, Stream::Split));
        let held = ((n as f64 * config.holdout).round() as usize).clamp(1, n - 1);
        Self { rows, held }
    }

    /// All rows.
    pub fn all(&self) -> &[u32] {
        &self.rows
    }

    /// Rows held out.
    pub fn holdout(&self) -> &[u32] {
        &self.rows[..self.held]
    }

    /// Rows to learn from.
    pub fn train(&self) -> &[u32] {
        &self.rows[self.held..]
    }
}
