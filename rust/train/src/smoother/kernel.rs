//! The Laplace kernel k(x, x') = exp(−s·‖x − x'‖) between many rows and many.
//!
//! In: standardised rows, which come to unit length over √d. Out: rows of the kernel, and the median
//! distance that its scale s is in units of.

// Loops are inlined into the functions that enable instructions.
#![allow(clippy::inline_always)]

use candle_core::Tensor;
use cr2fast_core::Simd;
use rand::Rng;
use rayon::prelude::*;

use crate::error::{Result, TrainError};
use crate::ops::isa::{self, Loop};
use crate::ops::nn::{self, Stream};
use crate::ops::real::{LANES, exp_negative};

/// Rows of the kernel made at a time.
pub const STRIP: usize = 256;
/// Pairs behind the median distance.
const PAIRS: usize = 4096;

/// Rows and what is known of their distances.
pub struct Points {
    /// (d, n): rows over √d, transposed for the product.
    transposed: Tensor,
    /// Squared norms (n,).
    pub squares: Vec<f32>,
}

impl Points {
    /// Of standardised rows (n, d).
    pub fn new(x: &Tensor) -> Result<Self> {
        let scaled = scaled(x)?;
        let squares = scaled.sqr()?.sum(1)?.to_vec1()?;
        Ok(Self { transposed: scaled.t()?.contiguous()?, squares })
    }

    /// The rows (n, d), over √d.
    pub fn rows(&self) -> Result<Tensor> {
        Ok(self.transposed.t()?.contiguous()?)
    }

    /// k(x, x_i) (B, n) of rows (B, d), scaled already.
    pub fn kernel(&self, x: &Tensor, scale: f32) -> Result<Vec<f32>> {
        let squares: Vec<f32> = x.sqr()?.sum(1)?.to_vec1()?;
        let mut k: Vec<f32> = x.matmul(&self.transposed)?.flatten_all()?.to_vec1()?;
        let simd = Simd::best()?;
        k.par_chunks_mut(self.squares.len()).zip(&squares).for_each(|(row, a)| {
            isa::run(simd, Laplace { row, square: *a, squares: &self.squares, scale });
        });
        Ok(k)
    }
}

/// Rows over √d: standardised ones come to unit length.
pub fn scaled(x: &Tensor) -> Result<Tensor> {
    Ok((x * (1.0 / (x.dim(1)? as f64).sqrt()))?)
}

/// A row of products x·x_i becomes a row of k(x, x_i).
struct Laplace<'a> {
    row: &'a mut [f32],
    square: f32,
    squares: &'a [f32],
    scale: f32,
}

impl Loop for Laplace<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for (k, b) in self.row.iter_mut().zip(self.squares) {
            *k = exp_negative(self.scale * (self.square + b - 2.0 * *k).max(0.0).sqrt());
        }
    }
}

/// a·b.
pub struct Dot<'a> {
    /// Any length.
    pub a: &'a [f32],
    /// As long as a.
    pub b: &'a [f32],
}

impl Loop for Dot<'_> {
    type Out = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let Self { a, b } = self;
        let mut acc = [0.0_f32; LANES];
        let (whole, rest) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let tail: f32 = whole.remainder().iter().zip(rest.remainder()).map(|(x, y)| x * y).sum();
        for (a, b) in whole.zip(rest) {
            for (acc, (a, b)) in acc.iter_mut().zip(a.iter().zip(b)) {
                *acc += a * b;
            }
        }
        acc.into_iter().sum::<f32>() + tail
    }
}

/// K (n, n) of a block's rows.
pub fn gram(x: &Tensor, points: &Points, scale: f32) -> Result<Vec<f32>> {
    let n = points.squares.len();
    let scaled = scaled(x)?;
    let mut k = Vec::with_capacity(n * n);
    for start in (0..n).step_by(STRIP) {
        k.extend(points.kernel(&scaled.narrow(0, start, STRIP.min(n - start))?, scale)?);
    }
    Ok(k)
}

/// The median distance between rows, over √d; 1 where most rows are the same.
pub fn median_distance(x: &Tensor, seed: u64) -> Result<f64> {
    let n = x.dim(0)?;
    let rng = &mut nn::stream(seed, Stream::Distances);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (i, step) = (rng.random_range(0..n), rng.random_range(1..n));
        a.push(i as u32);
        b.push(((i + step) % n) as u32);
    }
    let pick =
        |rows: Vec<u32>| Ok::<_, TrainError>(x.index_select(&Tensor::new(rows, &nn::CPU)?, 0)?);
    let gaps = scaled(&(pick(a)? - pick(b)?)?)?;
    let mut distances: Vec<f32> = gaps.sqr()?.sum(1)?.sqrt()?.to_vec1()?;
    distances.sort_by(f32::total_cmp);
    let median = f64::from(distances[PAIRS / 2]);
    Ok(if median > 1e-6 { median } else { 1.0 })
}
