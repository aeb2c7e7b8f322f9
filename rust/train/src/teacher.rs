//! Fits the teacher: one binary head a model (cr2.md, section 4).
//!
//! In: standardised embeddings (N, d), correctness (N, M), rows to train on and rows to choose the
//! checkpoint on. Out: [`TeacherWeights`] of the epoch with the least held-out cross-entropy.

use candle_core::{DType, Result as TensorResult, Tensor, Var};
use cr2fast_core::teacher::TeacherWeights;

use crate::adamw::AdamW;
use crate::config::FitConfig;
use crate::error::{Result, TrainError};
use crate::gelu::gelu;
use crate::losses::{bce, rank};
use crate::nn;
use crate::{Progress, Record, Report};

/// All heads, stacked.
pub struct TeacherNet {
    ln_weight: Var, // (M, 1, d)
    ln_bias: Var,   // (M, 1, d)
    w1: Var, // (M, d, h): the transpose of the stored layout, so that batches multiply as they are
    b1: Var, // (M, 1, h)
    w2: Var, // (M, h, 1)
    b2: Var, // (M, 1, 1)
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
        let rng = &mut nn::stream(seed, 1);
        Ok(Self {
            ln_weight: nn::constant(1.0, &[models, 1, d], dtype)?,
            ln_bias: nn::constant(0.0, &[models, 1, d], dtype)?,
            w1: nn::uniform(rng, &[models, d, hidden], d, dtype)?,
            b1: nn::uniform(rng, &[models, 1, hidden], d, dtype)?,
            w2: nn::uniform(rng, &[models, hidden, 1], hidden, dtype)?,
            b2: nn::uniform(rng, &[models, 1, 1], hidden, dtype)?,
        })
    }

    /// Everything that learns.
    pub fn vars(&self) -> Vec<Var> {
        [&self.ln_weight, &self.ln_bias, &self.w1, &self.b1, &self.w2, &self.b2]
            .map(Clone::clone)
            .to_vec()
    }

    /// Standardised rows (B, d) → logits (B, M).
    pub fn logits(&self, x: &Tensor, mask: Option<&Tensor>) -> TensorResult<Tensor> {
        let x = x.unsqueeze(0)?.broadcast_mul(&self.ln_weight)?.broadcast_add(&self.ln_bias)?;
        let h = x.matmul(&self.w1)?.broadcast_add(&self.b1)?;
        let h = nn::masked(gelu(&h)?, mask)?;
        h.matmul(&self.w2)?.broadcast_add(&self.b2)?.squeeze(2)?.t()?.contiguous()
    }

    /// w_cls·BCE + w_rank·rank.
    pub fn loss(
        &self,
        x: &Tensor,
        y: &Tensor,
        mask: Option<&Tensor>,
        c: &FitConfig,
    ) -> TensorResult<Tensor> {
        let logits = self.logits(x, mask)?;
        (bce(&logits, y)? * c.w_cls)? + (rank(&logits, y)? * c.w_rank)?
    }

    fn weights(&self) -> TensorResult<TeacherWeights> {
        let (models, d, hidden) = self.w1.dims3()?;
        Ok(TeacherWeights {
            models,
            d,
            hidden,
            ln_weight: nn::values(&self.ln_weight)?,
            ln_bias: nn::values(&self.ln_bias)?,
            w1: nn::values(&self.w1.transpose(1, 2)?.contiguous()?)?,
            b1: nn::values(&self.b1)?,
            w2: nn::values(&self.w2)?,
            b2: nn::values(&self.b2)?,
        })
    }
}

/// Train; returns the best checkpoint and its record.
pub fn fit(
    x: &Tensor,
    y: &Tensor,
    train: &[u32],
    holdout: &[u32],
    config: &FitConfig,
    report: Report,
) -> Result<(TeacherWeights, Record)> {
    let (models, d) = (y.dim(1)?, x.dim(1)?);
    let net = TeacherNet::new(models, d, config.hidden, config.seed, DType::F32)?;
    let mut adam = AdamW::new(net.vars(), config);
    let (order, dropout) = (&mut nn::stream(config.seed, 2), &mut nn::stream(config.seed, 3));
    let held = Tensor::new(holdout, &nn::CPU)?;
    let (held_x, held_y) = (x.index_select(&held, 0)?, y.index_select(&held, 0)?);
    let mut record = Record::new();
    let mut best = Vec::new();
    for epoch in 1..=config.teacher_epochs {
        let batches = nn::batches(order, train, config.batch);
        let mut sum = 0.0;
        for (step, rows) in batches.iter().enumerate() {
            let index = Tensor::new(rows.as_slice(), &nn::CPU)?;
            let (bx, by) = (x.index_select(&index, 0)?, y.index_select(&index, 0)?);
            let shape = [models, rows.len(), config.hidden];
            let mask = nn::dropout_mask(dropout, config.dropout, &shape, DType::F32)?;
            let loss = net.loss(&bx, &by, mask.as_ref(), config)?;
            adam.step(&loss)?;
            sum += f64::from(loss.to_scalar::<f32>()?);
            let done = (epoch - 1) as f64 + (step + 1) as f64 / batches.len() as f64;
            report(Progress {
                stage: "teacher",
                done,
                total: config.teacher_epochs,
                loss: sum / (step + 1) as f64,
            })?;
        }
        let held_loss = f64::from(bce(&net.logits(&held_x, None)?, &held_y)?.to_scalar::<f32>()?);
        let loss = sum / batches.len() as f64;
        if !(loss.is_finite() && held_loss.is_finite()) {
            return Err(TrainError::Diverged { stage: "teacher", epoch, loss });
        }
        if record.push(loss, held_loss) {
            best = nn::snapshot(&net.vars())?;
        }
    }
    nn::restore(&net.vars(), &best)?;
    Ok((net.weights()?, record))
}
