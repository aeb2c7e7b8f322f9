//! Fits the teacher: one binary head for each model (eqs. 36–45 of arXiv 2605.12001).
//!
//! In: standardised embeddings (N, d) and what is believed of each model on them (N, M): the answers,
//! or the smoother's probabilities. Out: [`TeacherWeights`] of the epoch with the least held-out
//! cross-entropy. For each model
//!
//! ℓ = w2·Dropout(GELU(W1·LN(e) + b1)) + b2,  p = σ(ℓ),
//!
//! and the loss is w_cls·BCE over all models + w_rank·(the mean softplus of ℓ_wrong − ℓ_right).

use candle_core::{DType, Result as TensorResult, Tensor, Var};
use cr2fast_core::TeacherWeights;

use crate::config::FitConfig;
use crate::error::Result;
use crate::losses::{bce, rank};
use crate::ops::heads::heads;
use crate::ops::nn::{self, Stream};
use crate::ops::trunk::trunk;
use crate::progress::{Record, Report};
use crate::schedule::Schedule;
use crate::views::{Turns, View};

/// All heads, side by side: M heads of h units are M·h columns of one matrix.
pub struct TeacherNet {
    ln_weight: Var, // (d, M, 1)
    ln_bias: Var,   // (M, d)
    w1: Var,        // (d, M, h)
    b1: Var,        // (1, M·h)
    w2: Var,        // (M·h,)
    b2: Var,        // (M,)
}

impl TeacherNet {
    /// Fresh weights of a seed.
    pub fn new(
        models: usize,
        d: usize,
        hidden: usize,
        seed: u64,
        dtype: DType,
    ) -> TensorResult<Self> {
        let rng = &mut nn::stream(seed, Stream::TeacherWeights);
        let width = models * hidden;
        Ok(Self {
            ln_weight: nn::constant(1.0, &[d, models, 1], dtype)?,
            ln_bias: nn::constant(0.0, &[models, d], dtype)?,
            w1: nn::uniform(rng, &[d, models, hidden], d, dtype)?,
            b1: nn::uniform(rng, &[1, width], d, dtype)?,
            w2: nn::uniform(rng, &[width], hidden, dtype)?,
            b2: nn::uniform(rng, &[models], hidden, dtype)?,
        })
    }

    /// Everything that learns.
    pub fn vars(&self) -> Vec<Var> {
        [&self.ln_weight, &self.ln_bias, &self.w1, &self.b1, &self.w2, &self.b2]
            .map(Clone::clone)
            .to_vec()
    }

    /// Standardised rows (B, d) → logits (B, M). LayerNorm's affine goes into weights and bias, so
    /// that all heads are one product.
    pub fn logits(&self, x: &Tensor, mask: Vec<f32>) -> TensorResult<Tensor> {
        let h = trunk(x, &self.w1, &self.ln_weight, &self.ln_bias)?;
        let film = Tensor::cat(&[&self.b1.ones_like()?, self.b1.as_tensor()], 1)?;
        let logits = heads(&h, &film, &self.w2, self.b2.dim(0)?, mask)?.squeeze(0)?;
        logits.broadcast_add(&self.b2)
    }

    /// w_cls·BCE + w_rank·rank.
    pub fn loss(
        &self,
        x: &Tensor,
        y: &Tensor,
        mask: Vec<f32>,
        c: &FitConfig,
    ) -> TensorResult<Tensor> {
        let logits = self.logits(x, mask)?;
        let cls = (bce(&logits, y)? * c.w_cls)?;
        if c.w_rank == 0.0 { Ok(cls) } else { cls + (rank(&logits, y)? * c.w_rank)? }
    }

    fn weights(&self) -> TensorResult<TeacherWeights> {
        let (d, models, hidden) = self.w1.dims3()?;
        Ok(TeacherWeights {
            models,
            d,
            hidden,
            ln_weight: nn::values(&self.ln_weight.squeeze(2)?.t()?.contiguous()?)?,
            ln_bias: nn::values(&self.ln_bias)?,
            w1: nn::values(&self.w1.permute((1, 2, 0))?.contiguous()?)?,
            b1: nn::values(&self.b1)?,
            w2: nn::values(&self.w2)?,
            b2: nn::values(&self.b2)?,
        })
    }
}

/// Train on the views in turn; returns the best checkpoint on `held` and its record.
pub fn fit(
    views: &[View],
    held: &View,
    config: &FitConfig,
    report: Report,
) -> Result<(TeacherWeights, Record)> {
    let held_x = held.x()?;
    let (models, d) = (held.y.dim(1)?, held_x.dim(1)?);
    let mut turns = Turns::new(views);
    let net = TeacherNet::new(models, d, config.hidden, config.seed, DType::F32)?;
    let (order, dropout) = (
        &mut nn::stream(config.seed, Stream::TeacherOrder),
        &mut nn::stream(config.seed, Stream::TeacherDropout),
    );
    let schedule = Schedule {
        stage: "teacher",
        epochs: config.teacher_epochs,
        rows: views[0].rows.len(),
        config,
        report,
    };
    let record = schedule.run(
        &net.vars(),
        order,
        |epoch, rows| {
            let (x, y) = turns.batch(epoch, rows)?;
            let units = rows.len() * models * config.hidden;
            let mask = nn::dropout_mask(dropout, config.dropout, units);
            Ok(net.loss(&x, &y, mask, config)?)
        },
        || bce(&net.logits(&held_x, Vec::new())?, &held.y),
    )?;
    Ok((net.weights()?, record))
}
