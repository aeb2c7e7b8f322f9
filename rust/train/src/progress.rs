//! How far a fit has come, told while it runs, and how a network's training went, told afterwards.

use serde::Serialize;

use crate::error::Result;

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
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// Mean training loss.
    pub loss: Vec<f64>,
    /// Loss on the held-out rows.
    pub held_out: Vec<f64>,
    /// Epoch kept, from 1.
    pub best_epoch: usize,
}

impl Record {
    /// Add an epoch; whether it is the best so far.
    pub fn push(&mut self, loss: f64, held_out: f64) -> bool {
        let best = self.held_out.iter().all(|h| held_out < *h);
        self.loss.push(loss);
        self.held_out.push(held_out);
        if best {
            self.best_epoch = self.held_out.len();
        }
        best
    }
}
