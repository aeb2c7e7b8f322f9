//! Fits the length predictor: ridge regression of log(1 + L_out) on (unit embedding, log(1 + L_in)).
//! The paper prices with recorded lengths, which no edge server has in time.
//!
//! In: embeddings (N, d), L_in (N,), L_out (N, M), rows to fit on and rows that price the smearing
//! factor. Out: [`LengthWeights`]. It is in closed form, so it has no seed;
//! on this kind of data a network explains no more.

use cr2fast_core::{LENGTH_SCALARS, LengthPredictor, LengthWeights, inverse_norm};
use rayon::prelude::*;

use crate::data::{Split, TrainData};
use crate::error::{Result, TrainError};
use crate::ops::cholesky;

/// Rows whose features are held at once.
const STRIP: usize = 256;

/// Fit on the rows to learn from; those held out give the smearing factor.
pub fn fit(data: &TrainData, split: &Split, ridge: f64) -> Result<LengthWeights> {
    let TrainData { d, embeddings, n_input, n_output, .. } = *data;
    let (m, k, train) = (n_output.len() / n_input.len(), d + 1, split.train());
    let features = |row: u32, out: &mut [f64]| {
        let r = row as usize;
        let x = &embeddings[r * d..(r + 1) * d];
        let inverse = inverse_norm(x);
        for (o, x) in out.iter_mut().zip(x) {
            *o = f64::from(*x) * inverse;
        }
        out[d] = libm::log1p(n_input[r]);
    };
    let target = |row: u32, j: usize| libm::log1p(n_output[row as usize * m + j]);
    let n = train.len() as f64;
    let mut f = vec![0.0; k];
    let (mut mean_f, mut mean_t) = (vec![0.0; k], vec![0.0; m]);
    for row in train {
        features(*row, &mut f);
        mean_f.iter_mut().zip(&f).for_each(|(s, x)| *s += x / n);
        mean_t.iter_mut().enumerate().for_each(|(j, s)| *s += target(*row, j) / n);
    }
    let (mut a, mut b) = (vec![0.0; k * k], vec![0.0; k * m]);
    let mut strip = vec![0.0; STRIP * (k + m)];
    for rows in train.chunks(STRIP) {
        // A row: its centred features, then its centred targets.
        let strip = &mut strip[..rows.len() * (k + m)];
        strip.par_chunks_mut(k + m).zip(rows).for_each(|(f, row)| {
            features(*row, f);
            f[..k].iter_mut().zip(&mean_f).for_each(|(x, mean)| *x -= mean);
            f[k..].iter_mut().enumerate().for_each(|(j, t)| *t = target(*row, j) - mean_t[j]);
        });
        a.par_chunks_mut(k).zip(b.par_chunks_mut(m)).enumerate().for_each(|(i, (a, b))| {
            for f in strip.chunks_exact(k + m) {
                a[..=i].iter_mut().zip(f).for_each(|(a, x)| *a += f[i] * x);
                b.iter_mut().zip(&f[k..]).for_each(|(b, t)| *b += f[i] * t);
            }
        });
    }
    (0..k).for_each(|i| a[i * k + i] += ridge);
    if !cholesky::solve(&mut a, &mut b, (k, m), k) {
        let expected = "a ridge that keeps the length predictor's equations regular, such as 1";
        return Err(TrainError::argument("ridge", expected, ridge));
    }

    let mut w = LengthWeights {
        models: m,
        d,
        weight: vec![0.0; m * d],
        scalars: vec![0.0; m * LENGTH_SCALARS],
    };
    for j in 0..m {
        for i in 0..d {
            w.weight[j * d + i] = b[i * m + j] as f32;
        }
        let dot: f64 = (0..d).map(|i| f64::from(w.weight[j * d + i]) * mean_f[i]).sum();
        let slope = b[d * m + j];
        let longest = train.iter().map(|r| n_output[*r as usize * m + j]).fold(0.0, f64::max);
        w.scalars[j * LENGTH_SCALARS..][..LENGTH_SCALARS].copy_from_slice(&[
            slope,
            mean_t[j] - dot - slope * mean_f[d],
            0.0,
            longest,
        ]);
    }
    smear(&mut w, data, split.holdout())?;
    Ok(w)
}

/// Duan's factor: with it, 1 + prediction has the mean of 1 + L on rows the fit did not see.
fn smear(w: &mut LengthWeights, data: &TrainData, rows: &[u32]) -> Result<()> {
    let (m, d) = (w.models, w.d);
    let plain = LengthPredictor::new(w.clone())?;
    let (mut truth, mut guess, mut out) = (vec![0.0; m], vec![0.0; m], vec![0.0; m]);
    for row in rows {
        let r = *row as usize;
        let x = &data.embeddings[r * d..(r + 1) * d];
        plain.predict_into(x, data.n_input[r], &mut out);
        for j in 0..m {
            truth[j] += 1.0 + data.n_output[r * m + j];
            guess[j] += 1.0 + out[j];
        }
    }
    for j in 0..m {
        w.scalars[j * LENGTH_SCALARS + 2] = libm::log(truth[j] / guess[j]);
    }
    Ok(())
}
