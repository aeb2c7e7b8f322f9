//! What a router tells of its training: hyperparameters, losses, checks, as JSON.
//!
//! In: the fit's results. Out: the `training` part of a router's metadata.

use crate::config::FitConfig;
use crate::data::Split;
use crate::lams::LamRange;
use crate::progress::Record;

/// Of (query, edge model) pairs, those in which the local model costs more: where there are many,
/// the margin need not rise with λ (eq. 48), and the monotone penalty would teach what is not so.
#[derive(Clone, Copy)]
pub struct Monotone {
    /// The fraction of such pairs.
    pub pairs_with_dearer_local: f64,
    /// The penalty's factor in the gate's loss.
    pub w_mono: f64,
}

impl Monotone {
    /// From c (N, M).
    pub fn new(c: &[f32], models: usize, config: &FitConfig) -> Self {
        let dearer = c.chunks_exact(models).flat_map(|c| c[1..].iter().map(|edge| c[0] > *edge));
        let pairs = c.len() / models * (models - 1);
        let part = dearer.filter(|d| *d).count() as f64 / pairs as f64;
        let w_mono = if part > config.mono_tolerance { 0.0 } else { config.w_mono };
        Self { pairs_with_dearer_local: part, w_mono }
    }

    fn json(self, tolerance: f64) -> serde_json::Value {
        serde_json::json!({
            "pairs_with_dearer_local": self.pairs_with_dearer_local,
            "tolerance": tolerance,
            "w_mono_used": self.w_mono,
        })
    }
}

/// What the record is made of.
pub struct Summary<'a> {
    /// Hyperparameters.
    pub config: &'a FitConfig,
    /// The cost weights that the gate learned, and why these.
    pub lams: &'a LamRange,
    /// Rows.
    pub split: &'a Split,
    /// How many views the networks took turns in.
    pub views: usize,
    /// The teacher's losses, unless it was frozen before.
    pub teacher: Option<Record>,
    /// The gate's.
    pub gate: Record,
    /// The gate's T.
    pub temperature: f64,
    /// Parameters of the teacher, and of the gate.
    pub parameters: (usize, usize),
    /// Whether the gate was told to be monotone.
    pub monotone: Monotone,
    /// Lengths predicted, and recorded (N, M).
    pub lengths: (&'a [f64], &'a [f64]),
    /// M.
    pub models: usize,
}

impl Summary<'_> {
    /// As JSON.
    pub fn json(&self) -> String {
        let holdout = self.split.holdout();
        let record = serde_json::json!({
            "config": self.config,
            "lam_range": self.lams,
            "n_train": self.split.train().len(),
            "n_holdout": holdout.len(),
            "views": self.views,
            "teacher": self.teacher,
            "gate": self.gate,
            "temperature": self.temperature,
            "parameters": { "teacher": self.parameters.0, "gate": self.parameters.1 },
            "monotone": self.monotone.json(self.config.mono_tolerance),
            "length": lengths(self.lengths.0, self.lengths.1, holdout, self.models),
        });
        record.to_string()
    }
}

/// How well the lengths of held-out rows are predicted, for each model.
fn lengths(predicted: &[f64], truth: &[f64], rows: &[u32], m: usize) -> serde_json::Value {
    let n = rows.len() as f64;
    let at = |xs: &[f64], r: u32, j: usize| xs[r as usize * m + j];
    let mean = |f: &dyn Fn(u32) -> f64| rows.iter().map(|r| f(*r)).sum::<f64>() / n;
    let by_model: Vec<serde_json::Value> = (0..m)
        .map(|j| {
            let log = |xs: &[f64], r| libm::log1p(at(xs, r, j));
            let mean_log = mean(&|r| log(truth, r));
            let total = mean(&|r| (log(truth, r) - mean_log).powi(2));
            // The smearing factor moves all log predictions by a constant: take it out again.
            let shift = mean(&|r| log(predicted, r)) - mean_log;
            let left = mean(&|r| (log(truth, r) - log(predicted, r) + shift).powi(2));
            serde_json::json!({
                "r2_log": 1.0 - left / total,
                "mean_tokens": mean(&|r| at(truth, r, j)),
                "mean_predicted": mean(&|r| at(predicted, r, j)),
            })
        })
        .collect();
    serde_json::json!({ "held_out": by_model })
}
