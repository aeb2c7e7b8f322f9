//! Kernel ridge regression of many rows on few centres, in memory that does not grow with the rows.
//!
//! In: centres z_j (m, d), a sample of the rows; all rows (n, d) and answers (n, M), strip by strip.
//! Out: the coefficients of f(x) = ȳ + Σ_j a_j·k(x, z_j), which minimise the same penalised squares as
//! with a centre at every row:
//!
//! (K_mn·K_nm + ρ·(K_mm + εI))·a = K_mn·(y − ȳ)
//!
//! (Nyström's method; Rudi, Camoriano & Rosasco, NeurIPS 2015). With every row a centre this is
//! (K + ρI)·a = y − ȳ, but for ε, which keeps the equations regular where a query comes twice.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::{Result, TrainError};
use crate::ops::cholesky;
use crate::ops::product::{Strided, accumulate};
use crate::smoother::kernel::{Points, STRIP, scaled};

/// ε.
const NUGGET: f64 = 0.01;
/// Columns of K_mn·K_nm made by one product; what is above the diagonal is left out.
const COLUMNS: usize = 1024;
/// Rows that are summed in single precision before their sum is added in double.
const GROUP: usize = 8192;
/// Columns factored at a time.
const PANEL: usize = 256;
/// Centres per task.
const CHUNK: usize = 64;

/// What the rows seen so far leave.
pub struct Sums {
    points: Points,
    scale: f32,
    /// Lower triangle of K_mn·K_nm (m, m): of the running group, and of all groups before.
    group: Vec<f32>,
    gram: Vec<f64>,
    /// K_mn·y, and K_mn·1 in the last column (m, M + 1).
    right: Vec<f64>,
    /// Σ y (M,).
    answers: Vec<f64>,
    rows: usize,
    /// Rows in the running group.
    pending: usize,
}

impl Sums {
    /// For centres (m, d), standardised, and M models.
    pub fn new(centres: &Tensor, models: usize, scale: f32) -> Result<Self> {
        let points = Points::new(centres)?;
        let m = points.squares.len();
        Ok(Self {
            points,
            scale,
            group: vec![0.0; m * m],
            gram: vec![0.0; m * m],
            right: vec![0.0; m * (models + 1)],
            answers: vec![0.0; models],
            rows: 0,
            pending: 0,
        })
    }

    /// Add rows (B, d), standardised, and their answers (B, M).
    pub fn add(&mut self, x: &Tensor, y: &Tensor) -> Result<()> {
        let (b, m, models) = (y.dim(0)?, self.points.squares.len(), self.answers.len());
        let k = self.points.kernel(&scaled(x)?, self.scale)?;
        for first in (0..m).step_by(COLUMNS) {
            let part = Strided::new(&k[first..], m);
            let sizes = (m - first, b, COLUMNS.min(m - first));
            accumulate(sizes, 1.0, part.t(), part, &mut self.group[first * m + first..], m);
        }
        let y: Vec<f32> = y.flatten_all()?.to_vec1()?;
        let width = models + 1;
        self.right.par_chunks_mut(CHUNK * width).enumerate().for_each(|(chunk, right)| {
            for (k, y) in k.chunks_exact(m).zip(y.chunks_exact(models)) {
                for (right, k) in right.chunks_exact_mut(width).zip(&k[chunk * CHUNK..]) {
                    let k = f64::from(*k);
                    right.iter_mut().zip(y).for_each(|(r, y)| *r += k * f64::from(*y));
                    right[models] += k;
                }
            }
        });
        for y in y.chunks_exact(models) {
            self.answers.iter_mut().zip(y).for_each(|(sum, y)| *sum += f64::from(*y));
        }
        self.rows += b;
        self.pending += b;
        if self.pending >= GROUP {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.gram.par_iter_mut().zip(&mut self.group).for_each(|(sum, part)| {
            *sum += f64::from(*part);
            *part = 0.0;
        });
        self.pending = 0;
    }

    /// The centres, their coefficients (M, m), and ȳ.
    pub fn solve(mut self, ridge: f64) -> Result<(Points, Vec<Vec<f32>>, Vec<f32>)> {
        self.flush();
        drop(std::mem::take(&mut self.group));
        let (m, models) = (self.points.squares.len(), self.answers.len());
        let centres = self.points.rows()?;
        for start in (0..m).step_by(STRIP) {
            let strip = centres.narrow(0, start, STRIP.min(m - start))?;
            let k = self.points.kernel(&strip, self.scale)?;
            let sums = self.gram[start * m..].iter_mut();
            sums.zip(k).for_each(|(sum, k)| *sum += ridge * f64::from(k));
        }
        (0..m).for_each(|i| self.gram[i * m + i] += ridge * NUGGET);
        let mean: Vec<f64> = self.answers.iter().map(|sum| sum / self.rows as f64).collect();
        let right = self.right.chunks_exact(models + 1);
        let mut b: Vec<f64> = right
            .flat_map(|r| mean.iter().zip(r).map(|(mean, ky)| ky - mean * r[models]))
            .collect();
        if !cholesky::solve(&mut self.gram, &mut b, (m, models), PANEL) {
            return Err(TrainError::argument(
                "kernel_ridge",
                "a ridge that keeps the smoother's equations regular, such as 2",
                ridge,
            ));
        }
        let of = |j: usize| b.iter().skip(j).step_by(models).map(|a| *a as f32).collect();
        Ok((self.points, (0..models).map(of).collect(), mean.iter().map(|v| *v as f32).collect()))
    }
}
