//! Epochs, batches, learning rate, checkpoints: what training either network does around its loss.
//!
//! In: variables, a loss of some rows, a held-out loss. Out: the variables at the epoch of least
//! held-out loss, and the [`Record`] of how they came there.

use candle_core::{Result as TensorResult, Tensor, Var};
use rand_chacha::ChaCha8Rng;

use crate::config::FitConfig;
use crate::error::{Result, TrainError};
use crate::ops::adamw::AdamW;
use crate::ops::nn;
use crate::progress::{Progress, Record, Report};

/// Part of the steps over which the rate rises, under the cosine schedule.
const WARM_UP: f64 = 0.05;
/// Least rate, as part of the highest.
const LEAST: f64 = 0.01;

/// One network's training.
pub struct Schedule<'a> {
    /// "teacher" or "gate".
    pub stage: &'static str,
    /// Passes over `rows`.
    pub epochs: usize,
    /// An epoch goes through the rows 0 to this number, in a new order.
    pub rows: usize,
    /// Batch size and optimiser.
    pub config: &'a FitConfig,
    /// Told after every step.
    pub report: Report<'a>,
}

impl Schedule<'_> {
    /// Train `vars` in place. `loss` gets the epoch (from 1) and a batch's rows.
    pub fn run(
        &self,
        vars: &[Var],
        order: &mut ChaCha8Rng,
        mut loss: impl FnMut(usize, &[u32]) -> Result<Tensor>,
        held_out: impl Fn() -> TensorResult<Tensor>,
    ) -> Result<Record> {
        let mut adam = AdamW::new(vars.to_vec(), self.config.weight_decay, self.config.clip);
        let (mut record, mut best) = (Record::default(), Vec::new());
        let rows: Vec<u32> = (0..self.rows as u32).collect();
        let steps = self.rows.div_ceil(self.config.batch);
        for epoch in 1..=self.epochs {
            let batches = nn::batches(order, &rows, self.config.batch);
            let mut sum = 0.0;
            for (step, rows) in batches.iter().enumerate() {
                let loss = loss(epoch, rows)?;
                let at = ((epoch - 1) * steps + step + 1) as f64 / (self.epochs * steps) as f64;
                adam.step(&loss, self.rate(at))?;
                sum += scalar(&loss)?;
                let steps = (step + 1) as f64;
                (self.report)(Progress {
                    stage: self.stage,
                    done: (epoch - 1) as f64 + steps / batches.len() as f64,
                    total: self.epochs,
                    loss: sum / steps,
                })?;
            }
            let (loss, held) = (sum / batches.len() as f64, scalar(&held_out()?)?);
            if !(loss.is_finite() && held.is_finite()) {
                return Err(TrainError::Diverged { stage: self.stage, epoch, loss });
            }
            if record.push(loss, held) {
                best = nn::snapshot(vars)?;
            }
        }
        nn::restore(vars, &best)?;
        Ok(record)
    }

    /// The learning rate of the step that completes this part of the way, in (0, 1].
    fn rate(&self, at: f64) -> f64 {
        let lr = self.config.lr;
        if !self.config.cosine {
            lr
        } else if at < WARM_UP {
            lr * at / WARM_UP
        } else {
            let turn = (at - WARM_UP) / (1.0 - WARM_UP) * std::f64::consts::PI;
            lr * (LEAST + (1.0 - LEAST) * 0.5 * (1.0 + libm::cos(turn)))
        }
    }
}

fn scalar(loss: &Tensor) -> TensorResult<f64> {
    loss.to_scalar::<f32>().map(f64::from)
}
