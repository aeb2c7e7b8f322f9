//! What the networks look at: the queries, or jittered copies of them.
//!
//! In: embeddings, answers, the rows to learn from and those held out. Out: [`View`]s that epochs take
//! turns in. There can be any number of copies, since the smoother has a probability for a query that
//! nobody asked.
//!
//! There are as many copies of the training rows as come to [`Limits::rows`]. Of more training rows,
//! each copy takes a part of that size, and the smoother learns all parts; `copies` bounds their number,
//! so neither time nor memory grows with the split. Only what is small is kept standardised: else an
//! epoch makes its copy again, and a batch of plain rows is standardised when its turn comes.

use candle_core::{Result as TensorResult, Tensor};
use rand::Rng;

use crate::config::FitConfig;
use crate::data::{Split, TrainData};
use crate::error::Result;
use crate::ops::nn::{self, Stream};
use crate::progress::{Progress, Report};
use crate::smoother::{BLOCK, Smoother};
use cr2fast_core::SmootherWeights;

/// Rows that are standardised at a time for the smoother.
const STRIP: usize = 2048;

/// What bounds the work on a large split.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Rows that an epoch goes through in a jittered copy.
    pub rows: usize,
    /// Centres of the smoother when there are more than `rows` to learn from.
    pub centres: usize,
    /// Held-out rows that choose checkpoints when there are more than `rows` to learn from.
    pub held: usize,
}

impl Limits {
    /// For epochs of this many rows: an eighth of it for centres and held-out rows.
    pub fn of(rows: usize) -> Self {
        let part = (rows / 8).clamp(1, BLOCK);
        Self { rows, centres: part, held: part }
    }
}

/// How a view's rows come from the split's.
#[derive(Clone, Copy)]
enum Look {
    /// Standardised.
    Plain,
    /// Standardised, moved by noise of this standard deviation, and standardised again.
    Jittered { sd: f64, seed: u64, copy: usize },
}

/// Rows as an epoch sees them.
pub struct View<'a> {
    data: TrainData<'a>,
    look: Look,
    kept: Option<Tensor>,
    /// What is believed of each model on them, (V, M) in [0, 1].
    pub y: Tensor,
    /// The split's rows behind them.
    pub rows: &'a [u32],
}

impl<'a> View<'a> {
    fn plain(data: TrainData<'a>, rows: &'a [u32], keep: bool) -> TensorResult<Self> {
        let kept = if keep { Some(standardized(&data, rows)?) } else { None };
        Ok(Self { data, look: Look::Plain, kept, y: answers(&data, rows)?, rows })
    }

    /// All of it: standardised embeddings (V, d).
    pub fn x(&self) -> TensorResult<Tensor> {
        if let Some(x) = &self.kept {
            return Ok(x.clone());
        }
        let base = standardized(&self.data, self.rows)?;
        match self.look {
            Look::Plain => Ok(base),
            Look::Jittered { sd, seed, copy } => {
                let rng = &mut nn::stream(seed, Stream::Copy(copy));
                nn::standardize(&(&base + uniform_noise(rng, &base, sd)?)?)
            }
        }
    }

    /// All of it in pieces, in order, to `f`.
    pub fn pieces(&self, limit: usize, mut f: impl FnMut(&Tensor) -> Result<()>) -> Result<()> {
        if self.is_read_by_rows() {
            for rows in self.rows.chunks(limit) {
                f(&standardized(&self.data, rows)?)?;
            }
            return Ok(());
        }
        f(&self.x()?)
    }

    /// Whether a batch's rows are made from the split when they are needed.
    fn is_read_by_rows(&self) -> bool {
        self.kept.is_none() && matches!(self.look, Look::Plain)
    }
}

/// Views in turn, an epoch each.
pub struct Turns<'v, 'a> {
    views: &'v [View<'a>],
    now: Option<(usize, Option<Tensor>)>,
}

impl<'v, 'a> Turns<'v, 'a> {
    /// No view has had its turn.
    pub fn new(views: &'v [View<'a>]) -> Self {
        Self { views, now: None }
    }

    /// The number of the view whose turn it is.
    pub fn number(&self, epoch: usize) -> usize {
        epoch % self.views.len()
    }

    /// What an epoch's batch sees: embeddings (B, d) of the view's `rows`, and what is believed of
    /// each model (B, M).
    pub fn batch(&mut self, epoch: usize, rows: &[u32]) -> TensorResult<(Tensor, Tensor)> {
        let number = self.number(epoch);
        let view = &self.views[number];
        if self.now.as_ref().is_none_or(|(now, _)| *now != number) {
            self.now = None;
            let whole = if view.is_read_by_rows() { None } else { Some(view.x()?) };
            self.now = Some((number, whole));
        }
        let index = Tensor::new(rows, &nn::CPU)?;
        let x = if let Some((_, Some(whole))) = &self.now {
            whole.index_select(&index, 0)?
        } else {
            let rows: Vec<u32> = rows.iter().map(|i| view.rows[*i as usize]).collect();
            standardized(&view.data, &rows)?
        };
        Ok((x, view.y.index_select(&index, 0)?))
    }
}

/// The views to learn from, of one size, the one to choose checkpoints on, and the teacher's smoother
/// where it has one.
pub type Made<'a> = (Vec<View<'a>>, View<'a>, Option<SmootherWeights>);

/// Make the views. A gate that learns from a frozen teacher needs no smoother: the teacher has a
/// probability for each copy.
pub fn make<'a>(
    data: TrainData<'a>,
    split: &'a Split,
    config: &FitConfig,
    frozen: bool,
    limits: Limits,
    report: Report,
) -> Result<Made<'a>> {
    let (train, mut holdout) = (split.train(), split.holdout());
    let is_large = train.len() > limits.rows;
    if is_large {
        holdout = &holdout[..holdout.len().min(limits.held)];
    }
    let mut held = View::plain(data, holdout, true)?;
    if !config.smoothing {
        return Ok((vec![View::plain(data, train, !is_large)?], held, None));
    }
    // Training rows are in random order already, so a part of them is a sample.
    let parts = train.len().div_ceil(limits.rows).min(config.copies);
    let rows = (train.len() / parts).min(limits.rows);
    let copies = if is_large { parts } else { (limits.rows / rows).min(config.copies) };
    let smoother = if frozen {
        None
    } else if is_large {
        let centres = standardized(&data, &train[..limits.centres.min(train.len())])?;
        let strips = train[..parts * rows]
            .chunks(STRIP)
            .map(|rows| Ok((standardized(&data, rows)?, answers(&data, rows)?)));
        let models = held.y.dim(1)?;
        Some(Smoother::fit_on_centres(&centres, strips, models, config, report)?)
    } else {
        let (x, y) = (standardized(&data, train)?, answers(&data, train)?);
        Some(Smoother::fit(&x, &y, config, report)?)
    };
    let mut serving = None;
    if let Some(smoother) = &smoother {
        held.y = smoother.predict(&held.x()?)?;
        if config.smoother_share > 0.0 {
            serving = Some(serving_smoother(&data, train, smoother, config, report)?);
        }
    }
    let mut views = Vec::with_capacity(copies);
    for copy in 0..copies {
        report(Progress { stage: "copies", done: copy as f64, total: copies, loss: 0.0 })?;
        let rows = &train[if is_large { copy * rows } else { 0 }..][..rows];
        let look = Look::Jittered { sd: config.jitter, seed: config.seed, copy };
        let mut view = View { data, look, kept: None, y: answers(&data, rows)?, rows };
        let x = view.x()?;
        if let Some(smoother) = &smoother {
            view.y = smoother.predict(&x)?;
        }
        view.kept = (!is_large).then_some(x);
        views.push(view);
    }
    report(Progress { stage: "copies", done: copies as f64, total: copies, loss: 0.0 })?;
    Ok((views, held, serving))
}

/// The smoother that serves: the one that was learned from or, where that has too many centres or is a
/// mean of several, one with fewer centres on all rows.
fn serving_smoother(
    data: &TrainData,
    train: &[u32],
    smoother: &Smoother,
    config: &FitConfig,
    report: Report,
) -> Result<SmootherWeights> {
    if smoother.centres().is_some_and(|n| n <= config.smoother_centres) {
        return smoother.weights(config.smoother_share);
    }
    let centres = standardized(data, &train[..config.smoother_centres.min(train.len())])?;
    let strips =
        train.chunks(STRIP).map(|rows| Ok((standardized(data, rows)?, answers(data, rows)?)));
    let models = data.correct.len() / data.rows();
    Smoother::fit_on_centres(&centres, strips, models, config, report)?
        .weights(config.smoother_share)
}

/// Standardised embeddings (B, d) of the split's rows.
fn standardized(data: &TrainData, rows: &[u32]) -> TensorResult<Tensor> {
    let d = data.d;
    let mut values = Vec::with_capacity(rows.len() * d);
    for row in rows {
        values.extend_from_slice(&data.embeddings[*row as usize * d..][..d]);
    }
    nn::standardize(&Tensor::from_vec(values, (rows.len(), d), &nn::CPU)?)
}

/// Answers (B, M) of the split's rows: right 1, wrong 0, or grades between.
fn answers(data: &TrainData, rows: &[u32]) -> TensorResult<Tensor> {
    let m = data.correct.len() / data.rows();
    let answers = rows.iter().flat_map(|row| &data.correct[*row as usize * m..][..m]);
    Tensor::from_vec(answers.copied().collect(), (rows.len(), m), &nn::CPU)
}

/// Independent entries of mean 0 and standard deviation `sd`. Uniform ones: what the networks see
/// are sums over hundreds of them.
fn uniform_noise(rng: &mut impl Rng, like: &Tensor, sd: f64) -> TensorResult<Tensor> {
    let half = (sd * 3.0_f64.sqrt()) as f32;
    let values = (0..like.elem_count()).map(|_| (2.0 * rng.random::<f32>() - 1.0) * half);
    Tensor::from_vec(values.collect(), like.shape(), &nn::CPU)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Of more rows than the limit: parts that do not overlap, of one size; and a batch sees of a view
    /// what the view shows of itself.
    #[test]
    fn many_rows_are_seen_part_by_part() -> Result<()> {
        let (n, d, m) = (230, 8, 2);
        let rng = &mut nn::stream(3, Stream::Split);
        let embeddings: Vec<f32> = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
        let correct: Vec<f32> = (0..n * m).map(|_| f32::from(rng.random::<bool>())).collect();
        let (n_input, n_output) = (vec![9.0; n], vec![5.0; n * m]);
        let data = TrainData {
            d,
            embeddings: &embeddings,
            correct: &correct,
            n_input: &n_input,
            n_output: &n_output,
        };
        let limits = Limits { rows: 50, centres: 40, held: 20 };
        for (config, views_expected, rows_expected) in [
            (FitConfig::smoothed(), 5, 41),
            (FitConfig { copies: 2, ..FitConfig::smoothed() }, 2, 50),
            (FitConfig { smoothing: false, ..FitConfig::smoothed() }, 1, 207),
        ] {
            let split = Split::new(n, &config);
            assert_eq!(split.train().len(), 207);
            let (views, held, _) = make(data, &split, &config, false, limits, &|_| Ok(()))?;
            assert_eq!((views.len(), held.rows.len()), (views_expected, 20));
            let mut seen: Vec<u32> = views.iter().flat_map(|v| v.rows.to_vec()).collect();
            assert_eq!(seen.len(), views_expected * rows_expected);
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), views_expected * rows_expected, "no row twice");
            let mut turns = Turns::new(&views);
            for epoch in 1..=views.len() {
                let view = &views[turns.number(epoch)];
                let rows: Vec<u32> = (0..view.rows.len() as u32).rev().collect();
                let (x, y) = turns.batch(epoch, &rows)?;
                let index = Tensor::new(rows, &nn::CPU)?;
                assert_eq!(entries(&x), entries(&view.x()?.index_select(&index, 0)?));
                assert_eq!(entries(&y), entries(&view.y.index_select(&index, 0)?));
                let mut pieces = Vec::new();
                view.pieces(30, |x| {
                    pieces.extend(entries(x));
                    Ok(())
                })?;
                assert_eq!(pieces, entries(&view.x()?));
                assert_eq!(y.dims2()?, (view.rows.len(), m));
                assert!(entries(&view.y).iter().all(|p| (0.0..=1.0).contains(p)));
            }
        }
        Ok(())
    }
}
