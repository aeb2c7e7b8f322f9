//! How long the features' part of a row is to be: the weight with which a smoother predicts best.
//!
//! In: embeddings, features, answers. Out: one of [`WEIGHTS`], by the squared error of the kernel
//! smoother's probabilities on rows that it did not see, in four folds of at most [`ROWS`] rows. On
//! one pool features tell the easy tasks from the hard, on another next to nothing, where too long a
//! part drowns the embedding.

use candle_core::Tensor;
use cr2fast_core::Features;
use rand::seq::SliceRandom;

use crate::config::FitConfig;
use crate::data::{FeatureData, TrainData};
use crate::error::Result;
use crate::ops::nn::{self, Stream};
use crate::progress::{Progress, Report};
use crate::smoother::Smoother;

/// What is tried.
const WEIGHTS: [f64; 4] = [0.5, 1.0, 1.5, 2.0];
const ROWS: usize = 2048;
const FOLDS: usize = 4;

/// The weight of least error.
pub fn choose(
    data: &TrainData,
    of: &FeatureData,
    config: &FitConfig,
    report: Report,
) -> Result<f64> {
    let (n, m) = (data.n_input.len(), data.correct.len() / data.n_input.len());
    let mut rows: Vec<u32> = (0..n as u32).collect();
    rows.shuffle(&mut nn::stream(config.seed, Stream::Features));
    rows.truncate(ROWS);
    let y = rows.iter().flat_map(|i| &data.correct[*i as usize * m..][..m]);
    let y: Vec<f32> = y.copied().collect();
    let y = Tensor::from_vec(y, (rows.len(), m), &nn::CPU)?;
    // Fewer rows ask for less of a ridge.
    let ridge = config.kernel_ridge / if n > rows.len() { 2.0 } else { 1.0 };
    let config = &FitConfig { kernel_ridge: ridge, ..config.clone() };
    let mut best = (f64::INFINITY, WEIGHTS[0]);
    for (tried, weight) in WEIGHTS.into_iter().enumerate() {
        let told = |loss| {
            report(Progress { stage: "features", done: tried as f64, total: WEIGHTS.len(), loss })
        };
        told(0.0)?;
        let features =
            Features::fit(data.d, of.text, of.columns.clone(), weight as f32, of.values)?;
        let (d, f) = (data.d, features.count());
        let mut x = Vec::with_capacity(rows.len() * features.dim());
        for i in &rows {
            let i = *i as usize;
            x.extend(features.row(&data.embeddings[i * d..][..d], &of.values[i * f..][..f])?);
        }
        let x = Tensor::from_vec(x, (rows.len(), features.dim()), &nn::CPU)?;
        let error = error(&nn::standardize(&x)?, &y, config, &|_| told(0.0))?;
        if error < best.0 {
            best = (error, weight);
        }
    }
    let done = WEIGHTS.len();
    report(Progress { stage: "features", done: done as f64, total: done, loss: best.0 })?;
    Ok(best.1)
}

/// Squared error of what folds left out say of those.
fn error(x: &Tensor, y: &Tensor, config: &FitConfig, report: Report) -> Result<f64> {
    let mut sum = 0.0;
    for fold in 0..FOLDS {
        let part = |inside: bool| -> Result<(Tensor, Tensor)> {
            let rows = (0..y.dim(0)? as u32).filter(|i| (*i as usize % FOLDS == fold) == inside);
            let rows = Tensor::new(rows.collect::<Vec<u32>>(), &nn::CPU)?;
            Ok((x.index_select(&rows, 0)?, y.index_select(&rows, 0)?))
        };
        let ((held_x, held_y), (x, y)) = (part(true)?, part(false)?);
        let p = Smoother::fit(&x, &y, config, report)?.predict(&held_x)?;
        sum += f64::from((p - held_y)?.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    /// Answers that follow a feature ask for more of them than answers that follow the embedding.
    #[test]
    fn telling_features_get_more_weight() -> Result<()> {
        let (n, d, f) = (400, 4, 12);
        let rng = &mut nn::stream(5, Stream::Split);
        let embeddings: Vec<f32> = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
        let values: Vec<f32> = (0..n * f).map(|_| rng.random_range(-1.0..1.0)).collect();
        let columns: Vec<String> = (0..f).map(|i| format!("c{i}")).collect();
        let (n_input, n_output) = (vec![1.0; n], vec![1.0; n]);
        let config = FitConfig::smoothed();
        let mut found = Vec::new();
        for by_feature in [false, true] {
            let own = |i: usize| if by_feature { values[i * f] } else { embeddings[i * d] };
            let correct: Vec<f32> = (0..n).map(|i| f32::from(u8::from(own(i) > 0.0))).collect();
            let data = TrainData {
                d,
                embeddings: &embeddings,
                correct: &correct,
                n_input: &n_input,
                n_output: &n_output,
            };
            let of = FeatureData { text: false, columns: columns.clone(), values: &values };
            found.push(choose(&data, &of, &config, &|_| Ok(()))?);
        }
        assert_eq!(found, [WEIGHTS[0], WEIGHTS[3]]);
        Ok(())
    }
}
