//! Kernel ridge regression of the answers on the embeddings: the smooth function that the networks
//! learn in place of single right and wrong answers.
//!
//! In: standardised rows (N, d), answers (N, M). Out: [`Smoother`], f(x) = ȳ + Σ_i a_i·k(x, x_i) with
//! (K + ρI)·a = y − ȳ and the Laplace kernel k = exp(−s·‖x − x'‖ / median distance). A single answer to
//! a query is mostly noise; heads that are fitted to it overfit within a few epochs, and the
//! smoother, which averages over neighbours at every scale, orders queries better (measured in
//! `benches/paper`). What serves stays the network.
//!
//! More than [`BLOCK`] rows are cut into blocks whose smoothers are averaged (Zhang, Duchi &
//! Wainwright, JMLR 16, 2015); of many more rows, [`BLOCK`] are the centres of a smoother that learns
//! all (`centres`). So memory is bounded.

mod centres;
mod kernel;

use candle_core::Tensor;
use cr2fast_core::{Precision, Simd, SmootherWeights};
use rayon::prelude::*;

use crate::config::FitConfig;
use crate::error::Result;
use crate::ops::isa;
use crate::ops::nn;
use crate::progress::{Progress, Report};
use centres::Sums;
use kernel::{Dot, Points, STRIP, gram, median_distance, scaled};

/// Rows whose kernel matrix is held at once: 8192² single-precision entries are 268 MB.
pub const BLOCK: usize = 8192;
/// Conjugate gradients stop at this relative residual, or after this many steps.
const TOLERANCE: f64 = 1e-4;
const STEPS: usize = 200;
/// Predictions are probabilities, kept this far from certain.
const FLOOR: f32 = 0.01;

fn dot64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// One block's solution.
struct Block {
    points: Points,
    /// (M, n).
    coefficients: Vec<Vec<f32>>,
}

/// The fitted function.
pub struct Smoother {
    blocks: Vec<Block>,
    mean: Vec<f32>,
    scale: f32,
}

impl Smoother {
    /// Fit on the rows of `x` (N, d), standardised, and `y` (N, M).
    pub fn fit(x: &Tensor, y: &Tensor, config: &FitConfig, report: Report) -> Result<Self> {
        let n = y.dim(0)?;
        let scale = (config.kernel_scale / median_distance(x, config.seed)?) as f32;
        let mean: Vec<f32> = y.mean(0)?.to_vec1()?;
        let count = n.div_ceil(BLOCK);
        let per = n.div_ceil(count);
        let mut blocks = Vec::with_capacity(count);
        for (i, start) in (0..n).step_by(per).enumerate() {
            let rows = per.min(n - start);
            let (bx, by) = (x.narrow(0, start, rows)?, y.narrow(0, start, rows)?);
            let told = |step: usize, residual: f64| {
                let part = step as f64 / STEPS as f64;
                let done = if residual < TOLERANCE { 1.0 } else { part };
                report(Progress {
                    stage: "smoother",
                    done: i as f64 + done,
                    total: count,
                    loss: residual,
                })
            };
            let targets: Vec<f32> = by.t()?.flatten_all()?.to_vec1()?;
            let targets: Vec<Vec<f32>> = targets
                .chunks_exact(rows)
                .zip(&mean)
                .map(|(y, mean)| y.iter().map(|y| y - mean).collect())
                .collect();
            let points = Points::new(&bx)?;
            let kernel = gram(&bx, &points, scale)?;
            let coefficients = solve(&kernel, config.kernel_ridge as f32, &targets, told)?;
            blocks.push(Block { points, coefficients });
        }
        Ok(Self { blocks, mean, scale })
    }

    /// Fit with the rows of `centres` (m, d), standardised, as centres, on all rows, which
    /// come in strips with their answers.
    pub fn fit_on_centres(
        centres: &Tensor,
        strips: impl ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
        models: usize,
        config: &FitConfig,
        report: Report,
    ) -> Result<Self> {
        let scale = (config.kernel_scale / median_distance(centres, config.seed)?) as f32;
        let mut sums = Sums::new(centres, models, scale)?;
        let total = strips.len();
        for (done, strip) in strips.enumerate() {
            report(Progress { stage: "smoother", done: done as f64, total, loss: 0.0 })?;
            let (x, y) = strip?;
            sums.add(&x, &y)?;
        }
        let (points, coefficients, mean) = sums.solve(config.kernel_ridge)?;
        report(Progress { stage: "smoother", done: total as f64, total, loss: 0.0 })?;
        Ok(Self { blocks: vec![Block { points, coefficients }], mean, scale })
    }

    /// How many centres it has, where it is one function of its own; `None` for a mean of several.
    pub fn centres(&self) -> Option<usize> {
        match &self.blocks[..] {
            [block] => Some(block.points.squares.len()),
            _ => None,
        }
    }

    /// The numbers that serve, where it is one function of its own.
    pub fn weights(&self, share: f64) -> Result<SmootherWeights> {
        let block = &self.blocks[0];
        let centres = block.points.rows()?;
        Ok(SmootherWeights {
            models: self.mean.len(),
            d: centres.dim(1)?,
            centres: Precision::Bfloat16.rounded("smoother.centres", &nn::values(&centres)?)?,
            coefficients: block.coefficients.concat(),
            mean: self.mean.clone(),
            scale: self.scale,
            share: share as f32,
        })
    }

    /// Probabilities (B, M) of standardised rows (B, d).
    pub fn predict(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, m) = (x.dim(0)?, self.mean.len());
        let mut out = self.mean.repeat(rows);
        let share = 1.0 / self.blocks.len() as f32;
        let scaled = scaled(x)?;
        let simd = Simd::best()?;
        for start in (0..rows).step_by(STRIP) {
            let strip = scaled.narrow(0, start, STRIP.min(rows - start))?;
            for block in &self.blocks {
                let n = block.points.squares.len();
                let kernel = block.points.kernel(&strip, self.scale)?;
                out[start * m..].par_chunks_mut(m).zip(kernel.par_chunks(n)).for_each(
                    |(out, k)| {
                        for (out, a) in out.iter_mut().zip(&block.coefficients) {
                            *out += share * isa::run(simd, Dot { a: k, b: a });
                        }
                    },
                );
            }
        }
        for p in &mut out {
            *p = p.clamp(FLOOR, 1.0 - FLOOR);
        }
        Ok(Tensor::from_vec(out, (rows, m), &nn::CPU)?)
    }
}

/// (K + ρI)·a = r for each of M right sides, by conjugate gradients in step.
fn solve(
    kernel: &[f32],
    ridge: f32,
    right: &[Vec<f32>],
    told: impl Fn(usize, f64) -> Result<()>,
) -> Result<Vec<Vec<f32>>> {
    let n = right[0].len();
    let mut a = vec![vec![0.0_f32; n]; right.len()];
    let (mut residual, mut direction) = (right.to_vec(), right.to_vec());
    let start: Vec<f64> = right.iter().map(|r| dot64(r, r)).collect();
    let mut squared = start.clone();
    let simd = Simd::best()?;
    for step in 0..STEPS {
        let left = squared.iter().zip(&start).map(|(s, s0)| s / s0.max(f64::MIN_POSITIVE));
        let worst = left.fold(0.0, f64::max).sqrt();
        told(step, worst)?;
        if worst < TOLERANCE {
            break;
        }
        let rows: Vec<Vec<f32>> = kernel
            .par_chunks(n)
            .enumerate()
            .map(|(i, row)| {
                let entry = |p: &Vec<f32>| isa::run(simd, Dot { a: row, b: p }) + ridge * p[i];
                direction.iter().map(entry).collect()
            })
            .collect();
        for (m, a) in a.iter_mut().enumerate() {
            let (r, p) = (&mut residual[m], &mut direction[m]);
            let product: Vec<f32> = rows.iter().map(|row| row[m]).collect();
            let curvature = dot64(p, &product);
            if curvature <= 0.0 || squared[m] == 0.0 {
                continue;
            }
            let alpha = (squared[m] / curvature) as f32;
            a.iter_mut().zip(p.iter()).for_each(|(a, p)| *a += alpha * p);
            r.iter_mut().zip(&product).for_each(|(r, q)| *r -= alpha * q);
            let next = dot64(r, r);
            let beta = (next / squared[m]) as f32;
            p.iter_mut().zip(r.iter()).for_each(|(p, r)| *p = r + beta * *p);
            squared[m] = next;
        }
    }
    Ok(a)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::ops::nn::Stream;

    /// Against the same equations by elimination in double precision.
    #[test]
    fn it_solves_its_equations() -> Result<()> {
        let (n, d, m) = (60, 12, 2);
        let rng = &mut nn::stream(1, Stream::Split);
        let values = |rng: &mut rand_chacha::ChaCha8Rng, n: usize| -> Vec<f32> {
            (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        let x = nn::standardize(&Tensor::from_vec(values(rng, n * d), (n, d), &nn::CPU)?)?;
        let y: Vec<f32> =
            values(rng, n * m).iter().map(|v| f32::from(u8::from(*v > 0.0))).collect();
        let y = Tensor::from_vec(y, (n, m), &nn::CPU)?;
        let config = FitConfig { kernel_ridge: 0.5, ..FitConfig::default() };
        let smoother = Smoother::fit(&x, &y, &config, &|_| Ok(()))?;

        let rows: Vec<Vec<f32>> = scaled(&x)?.to_vec2()?;
        let distance = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        let k =
            |i: usize, j: usize| (-f64::from(smoother.scale) * distance(&rows[i], &rows[j])).exp();
        let answers: Vec<Vec<f32>> = y.to_vec2()?;
        let fitted: Vec<Vec<f32>> = smoother.predict(&x)?.to_vec2()?;
        for j in 0..m {
            let mean = answers.iter().map(|y| f64::from(y[j])).sum::<f64>() / n as f64;
            let mut system: Vec<Vec<f64>> = (0..n)
                .map(|i| {
                    let mut row: Vec<f64> =
                        (0..n).map(|c| k(i, c) + if i == c { 0.5 } else { 0.0 }).collect();
                    row.push(f64::from(answers[i][j]) - mean);
                    row
                })
                .collect();
            for p in 0..n {
                for i in 0..n {
                    if i != p {
                        let f = system[i][p] / system[p][p];
                        let pivot = system[p].clone();
                        system[i].iter_mut().zip(&pivot).for_each(|(a, b)| *a -= f * b);
                    }
                }
            }
            let a: Vec<f64> = (0..n).map(|i| system[i][n] / system[i][i]).collect();
            for (i, fitted) in fitted.iter().enumerate() {
                let truth = mean + (0..n).map(|c| k(i, c) * a[c]).sum::<f64>();
                let truth = truth.clamp(f64::from(FLOOR), 1.0 - f64::from(FLOOR));
                assert!((f64::from(fitted[j]) - truth).abs() < 1e-3, "{} not {truth}", fitted[j]);
            }
        }
        Ok(())
    }

    /// With every row a centre, in strips of any size, it is the same function.
    #[test]
    fn centres_at_every_row_change_nothing() -> Result<()> {
        let (n, d, m) = (150, 9, 3);
        let rng = &mut nn::stream(2, Stream::Split);
        let x: Vec<f32> = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
        let x = nn::standardize(&Tensor::from_vec(x, (n, d), &nn::CPU)?)?;
        let y: Vec<f32> = (0..n * m).map(|_| f32::from(u8::from(rng.random::<bool>()))).collect();
        let y = Tensor::from_vec(y, (n, m), &nn::CPU)?;
        let config = FitConfig::default();
        let truth: Vec<Vec<f32>> =
            Smoother::fit(&x, &y, &config, &|_| Ok(()))?.predict(&x)?.to_vec2()?;
        for strip in [1, 64, n] {
            let strips: Vec<_> = (0..n)
                .step_by(strip)
                .map(|at| {
                    let rows = strip.min(n - at);
                    Ok((x.narrow(0, at, rows)?, y.narrow(0, at, rows)?))
                })
                .collect();
            let smoother =
                Smoother::fit_on_centres(&x, strips.into_iter(), m, &config, &|_| Ok(()))?;
            let got: Vec<Vec<f32>> = smoother.predict(&x)?.to_vec2()?;
            for (got, truth) in got.iter().flatten().zip(truth.iter().flatten()) {
                assert!((got - truth).abs() < 5e-3, "{got} not {truth}, strips of {strip}");
            }
        }
        // Every query twice: the equations stay regular.
        let twice = Tensor::cat(&[&x, &x], 0)?;
        let strips = vec![Ok((twice.clone(), Tensor::cat(&[&y, &y], 0)?))];
        let smoother =
            Smoother::fit_on_centres(&twice, strips.into_iter(), m, &config, &|_| Ok(()))?;
        let p: Vec<f32> = smoother.predict(&x)?.flatten_all()?.to_vec1()?;
        assert!(p.iter().all(|p| p.is_finite()));
        Ok(())
    }
}
