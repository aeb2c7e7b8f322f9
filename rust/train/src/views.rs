//! What the networks look at: the queries, or jittered copies of them.
//!
//! In: standardised embeddings, answers, the rows to learn from and those held out. Out: [`View`]s.
//! There can be any number of copies, since the smoother has a probability for a query that nobody
//! asked.

use candle_core::{Result as TensorResult, Tensor};
use rand::Rng;

use crate::config::FitConfig;
use crate::data::Split;
use crate::error::Result;
use crate::ops::nn::{self, Stream};
use crate::progress::{Progress, Report};
use crate::smoother::Smoother;

/// About how many jittered rows there are in all copies together.
const ROWS: usize = 65_536;

/// Rows as an epoch sees them.
pub struct View {
    /// Standardised embeddings (V, d).
    pub x: Tensor,
    /// What is believed of each model on them, (V, M) in [0, 1].
    pub y: Tensor,
    /// The training rows behind them.
    pub rows: Vec<u32>,
}

impl View {
    fn of(x: &Tensor, y: &Tensor, rows: &[u32]) -> TensorResult<Self> {
        let index = Tensor::new(rows, &nn::CPU)?;
        Ok(Self { x: x.index_select(&index, 0)?, y: y.index_select(&index, 0)?, rows: rows.into() })
    }
}

/// The views to learn from, and the one to choose checkpoints on. A gate that learns from a frozen
/// teacher needs no smoother: the teacher knows what to say of the copies.
pub fn make(
    x: &Tensor,
    y: &Tensor,
    split: &Split,
    config: &FitConfig,
    frozen: bool,
    report: Report,
) -> Result<(Vec<View>, View)> {
    let train = split.train();
    let (plain, mut held) = (View::of(x, y, train)?, View::of(x, y, split.holdout())?);
    if !config.smoothing {
        return Ok((vec![plain], held));
    }
    let smoother = if frozen {
        None
    } else {
        let smoother = Smoother::fit(&plain.x, &plain.y, config, report)?;
        held.y = smoother.predict(&held.x)?;
        Some(smoother)
    };
    let rows = train.len().min(ROWS);
    let total = (ROWS / rows).min(config.copies);
    let mut views = Vec::with_capacity(total);
    for copy in 0..total {
        report(Progress { stage: "copies", done: copy as f64, total, loss: 0.0 })?;
        let rng = &mut nn::stream(config.seed, Stream::Copy(copy));
        // Training rows are in random order already, so a part of them is a sample.
        let base = plain.x.narrow(0, 0, rows)?;
        let x = nn::standardize(&(&base + uniform_noise(rng, &base, config.jitter)?)?)?;
        let y = match &smoother {
            Some(smoother) => smoother.predict(&x)?,
            None => plain.y.narrow(0, 0, rows)?,
        };
        views.push(View { x, y, rows: train[..rows].into() });
    }
    report(Progress { stage: "copies", done: total as f64, total, loss: 0.0 })?;
    Ok((views, held))
}

/// Independent entries of mean 0 and standard deviation `sd`. Uniform ones: what the networks see
/// are sums over hundreds of them.
fn uniform_noise(rng: &mut impl Rng, like: &Tensor, sd: f64) -> TensorResult<Tensor> {
    let half = (sd * 3.0_f64.sqrt()) as f32;
    let values = (0..like.elem_count()).map(|_| (2.0 * rng.random::<f32>() - 1.0) * half);
    Tensor::from_vec(values.collect(), like.shape(), &nn::CPU)
}
