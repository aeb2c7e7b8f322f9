//! cr2fast-train: fits a router on the CPU, in Rust alone.
//!
//! In: a training split (embeddings, correctness, token counts) and a cost table. Out: the weights of
//! teacher, length predictor and gate, and a record of how they came to be. One direction: a part of
//! the split is held out; a kernel smoother learns the rest (or, in the paper's recipe, nothing does);
//! [`mod@teacher`] learns the smoother on jittered copies of the queries, [`mod@length`] the lengths; they
//! grade and price every query; [`mod@gate`] learns that margin. Checkpoints are chosen on the held-out
//! part.
//!
//! Automatic differentiation is candle's; the networks' layers and AdamW are fused here. The same seed,
//! machine and number of threads give the same weights.

pub mod config;
pub mod error;
pub mod losses;
pub mod networks;
mod ops;
mod schedule;
mod smoother;
mod views;

use candle_core::Tensor;
use cr2fast_core::cost::{CostTable, check_tokens};
use cr2fast_core::error::{check_finite, check_len};
use cr2fast_core::gate::{Gate, GateWeights, MAX_WIDTH};
use cr2fast_core::length::{LengthPredictor, LengthWeights};
use cr2fast_core::teacher::{Teacher, TeacherWeights};
use rand::seq::SliceRandom;
use serde::Serialize;

pub use config::{FitConfig, Lengths, Recipe};
pub use error::{Result, TrainError};
use networks::{gate, length, teacher};
use ops::nn;
use views::View;

/// A frozen teacher and its length predictor.
pub type Frozen = (TeacherWeights, LengthWeights);

/// How far a fit has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// "smoother", "copies", "teacher" or "gate".
    pub stage: &'static str,
    /// Epochs (of the smoother: blocks; of copies: copies) done, with the running one's fraction.
    pub done: f64,
    /// Epochs in all.
    pub total: usize,
    /// Mean training loss of the running epoch; the smoother's relative residual.
    pub loss: f64,
}

/// Called after every step; an error stops the fit.
pub type Report<'a> = &'a (dyn Fn(Progress) -> Result<()> + Sync);

/// Losses by epoch, and the epoch that was kept.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Mean training loss.
    pub loss: Vec<f64>,
    /// Loss on the held-out rows.
    pub held_out: Vec<f64>,
    /// Epoch kept, from 1.
    pub best_epoch: usize,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self { loss: Vec::new(), held_out: Vec::new(), best_epoch: 0 }
    }

    /// Add an epoch; whether it is the best so far.
    pub(crate) fn push(&mut self, loss: f64, held_out: f64) -> bool {
        let best = self.held_out.iter().all(|h| held_out < *h);
        self.loss.push(loss);
        self.held_out.push(held_out);
        if best {
            self.best_epoch = self.held_out.len();
        }
        best
    }
}

/// The training split.
#[derive(Clone, Copy, Debug)]
pub struct TrainData<'a> {
    /// Embedding width.
    pub d: usize,
    /// (N, d).
    pub embeddings: &'a [f32],
    /// (N, M), the device's model first.
    pub correct: &'a [bool],
    /// (N,) L_in.
    pub n_input: &'a [f64],
    /// (N, M) L_out.
    pub n_output: &'a [f64],
}

/// What a fit leaves.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The gate.
    pub gate: GateWeights,
    /// The heads.
    pub teacher: TeacherWeights,
    /// The length heads.
    pub length: LengthWeights,
    /// Hyperparameters, losses, checks: JSON.
    pub record: String,
}

/// Sets training's link states apart from those of the caller's small seeds.
const STATES: u64 = 0x7374_6174_6573;
/// Fewest rows worth fitting on.
const MIN_ROWS: usize = 20;

fn check(data: &TrainData, costs: &CostTable) -> Result<(usize, usize)> {
    let (n, m) = (data.n_input.len(), costs.models().len());
    if n < MIN_ROWS {
        return Err(TrainError::argument(
            "training split",
            &format!("at least {MIN_ROWS} queries"),
            n,
        ));
    }
    check_len("embeddings (N·d values)", n * data.d, data.embeddings.len())?;
    check_len("correct (N·M values)", n * m, data.correct.len())?;
    check_len("n_output_tokens (N·M values)", n * m, data.n_output.len())?;
    if !(1..=MAX_WIDTH).contains(&data.d) {
        return Err(TrainError::argument("embedding width", &format!("1 to {MAX_WIDTH}"), data.d));
    }
    check_finite("embeddings", data.embeddings)?;
    check_tokens("n_input_tokens", data.n_input)?;
    check_tokens("n_output_tokens", data.n_output)?;
    Ok((n, m))
}

/// The fraction of (query, edge model) pairs in which the local model costs more.
fn dearer_local(c: &[f32], m: usize) -> f64 {
    let dearer = c.chunks_exact(m).flat_map(|c| c[1..].iter().map(|edge| c[0] > *edge));
    let pairs = c.len() / m * (m - 1);
    dearer.filter(|d| *d).count() as f64 / pairs as f64
}

/// Fit teacher, length predictor and gate, or the gate alone for a `frozen` teacher. `costs` has its
/// normalizers set.
pub fn fit(
    data: &TrainData,
    costs: &CostTable,
    config: &FitConfig,
    frozen: Option<Frozen>,
    report: Report,
) -> Result<Fitted> {
    config.check()?;
    let (n, m) = check(data, costs)?;
    if let Some((teacher, _)) = &frozen {
        check_len("embedding width", teacher.d, data.d)?;
        check_len("models", teacher.models, m)?;
    }
    let threads = rayon::current_num_threads();
    let mut rows: Vec<u32> = (0..n as u32).collect();
    rows.shuffle(&mut nn::stream(config.seed, 0));
    let held = ((n as f64 * config.holdout).round() as usize).clamp(1, n - 1);
    let (holdout, train) = rows.split_at(held);

    let x = nn::standardize(&Tensor::from_slice(data.embeddings, (n, data.d), &nn::CPU)?)?;
    let y: Vec<f32> = data.correct.iter().map(|c| f32::from(u8::from(*c))).collect();
    let y = Tensor::from_vec(y, (n, m), &nn::CPU)?;
    let (views, held) = views::make(&x, &y, train, holdout, config, frozen.is_some(), report)?;
    let ((teacher, length), teacher_record) = if let Some(frozen) = frozen {
        (frozen, None)
    } else {
        let (teacher, record) = teacher::fit(&views, &held, config, report)?;
        let length = length::fit(
            data.embeddings,
            data.n_input,
            data.n_output,
            data.d,
            config.ridge,
            train,
            holdout,
        )?;
        ((teacher, length), Some(record))
    };

    // The frozen teacher is the one that will serve: the core's arithmetic, not the trainer's.
    let serving = Teacher::new(teacher.clone())?;
    let accuracies =
        |view: &View| Ok::<_, TrainError>(serving.accuracies(&nn::values(&view.x)?, threads)?);
    let predicted = LengthPredictor::new(length.clone())?.predict(data.embeddings, data.n_input)?;
    let n_output = match config.lengths {
        Lengths::Predicted => predicted.as_slice(),
        Lengths::Known => data.n_output,
    };
    let epoch_costs = |epoch: usize| {
        // States of its own: callers number theirs from 0.
        let seed =
            (config.seed ^ STATES).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(epoch as u64);
        let states = costs.link().sample(n, seed)?;
        Ok(costs.costs(data.n_input, n_output, &states, threads)?)
    };
    let dearer = dearer_local(&epoch_costs(0)?, m);
    let w_mono = if dearer > config.mono_tolerance { 0.0 } else { config.w_mono };
    let targets = gate::Targets {
        models: m,
        views: views.iter().map(|v| Ok((v, accuracies(v)?))).collect::<Result<_>>()?,
        held: (&held, accuracies(&held)?),
        costs: &epoch_costs,
    };
    let (gate, gate_record) = gate::fit(&targets, w_mono, config, report)?;

    let temperature = Gate::new(gate.clone())?.weights().temperature();
    let record = serde_json::json!({
        "config": config,
        "n_train": train.len(),
        "n_holdout": holdout.len(),
        "views": views.len(),
        "teacher": teacher_record,
        "gate": gate_record,
        "temperature": temperature,
        "parameters": {
            "teacher": teacher.parameter_count(),
            "gate": gate.parameter_count(),
        },
        "monotone": {
            "pairs_with_dearer_local": dearer,
            "tolerance": config.mono_tolerance,
            "w_mono_used": w_mono,
        },
        "length": length_record(&predicted, data.n_output, holdout, m),
    });
    Ok(Fitted { gate, teacher, length, record: record.to_string() })
}

/// How well held-out lengths are predicted, a model each.
fn length_record(predicted: &[f64], truth: &[f64], rows: &[u32], m: usize) -> serde_json::Value {
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
