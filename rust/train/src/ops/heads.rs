//! The top of both networks as one fused layer: FiLM, GELU, dropout and the output products.
//!
//! In: trunk outputs h (B, H), FiLM rows (J, 2H) holding γ then β, output weights w2 (H,), a dropout
//! mask (J, B, H) or none (empty), and M groups of H/M hidden units. Out: (J, B, M) with
//!
//! out[j, b, m] = Σ_{o in group m} w2_o · mask_jbo · GELU(γ_jo·h_bo + β_jo)
//!
//! The gate is M = 1 with J cost weights (eqs. 49–55 of arXiv 2605.12001); the teacher is J = 1 with
//! γ = 1, β = bias and M heads. From the library's own operations this layer would take most of a step:
//! their GELU works in double precision, and every intermediate result and broadcast gradient is a
//! pass over (J, B, H). Here there is one pass forward and one backward. Rows are cut into chunks of
//! fixed size and partial sums are added in order, so the result does not depend on the number of
//! threads.

// Loops are inlined into the functions that enable instructions.
#![allow(clippy::inline_always)]

use candle_core::{Result, Shape, Tensor, bail};
use cr2fast_core::Simd;
use rayon::prelude::*;

use crate::ops::fused::{self, Fused};
use crate::ops::isa::{self, Loop};
use crate::ops::real::{LANES, Real};

/// Rows per task.
const ROWS: usize = 16;

/// The layer; what does not learn is in here.
struct Heads {
    simd: Simd,
    groups: usize,
    mask: Vec<f32>,
}

/// Apply it. `mask` has J·B·H entries, or none.
pub fn heads(
    h: &Tensor,
    film: &Tensor,
    w2: &Tensor,
    groups: usize,
    mask: Vec<f32>,
) -> Result<Tensor> {
    fused::apply(
        Heads { simd: Simd::best().map_err(candle_core::Error::wrap)?, groups, mask },
        [h, film, w2],
    )
}

/// One row of one j: everything of length H, cut into groups of `size`.
struct Row<'a, T> {
    h: &'a [T],
    gamma: &'a [T],
    beta: &'a [T],
    w2: &'a [T],
    mask: &'a [f32],
}

impl<T: Real> Row<'_, T> {
    /// w2_o · mask_o · GELU(γ_o·h_o + β_o).
    #[inline(always)]
    fn term(&self, o: usize) -> T {
        let t = self.gamma[o] * self.h[o] + self.beta[o];
        self.w2[o] * T::of(self.mask[o]) * (t * t.cdf())
    }

    /// The units from `start` on, `size` of them.
    #[inline(always)]
    fn part(&self, start: usize, size: usize) -> Row<'_, T> {
        Row {
            h: &self.h[start..start + size],
            gamma: &self.gamma[start..start + size],
            beta: &self.beta[start..start + size],
            w2: &self.w2[start..start + size],
            mask: &self.mask[start..start + size],
        }
    }
}

/// Where a row's gradients are added.
struct RowGrad<'a, T> {
    h: &'a mut [T],
    gamma: &'a mut [T],
    beta: &'a mut [T],
    w2: &'a mut [T],
}

/// The values of a row, one for each group.
struct Forward<'a, T> {
    row: &'a Row<'a, T>,
    out: &'a mut [T],
}

impl<T: Real> Loop for Forward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { row, out } = self;
        let size = row.h.len() / out.len();
        for (m, out) in out.iter_mut().enumerate() {
            let group = row.part(m * size, size);
            let mut acc = [T::zero(); LANES];
            let whole = size / LANES * LANES;
            for base in (0..whole).step_by(LANES) {
                let block = group.part(base, LANES);
                for (lane, acc) in acc.iter_mut().enumerate() {
                    *acc += block.term(lane);
                }
            }
            for o in whole..size {
                acc[o - whole] += group.term(o);
            }
            *out = acc.into_iter().fold(T::zero(), |a, b| a + b);
        }
    }
}

/// The gradients of a row, for an upstream gradient of each group.
struct Backward<'a, T> {
    row: &'a Row<'a, T>,
    upstream: &'a [T],
    grad: RowGrad<'a, T>,
}

impl<T: Real> Loop for Backward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { row, upstream, grad } = self;
        let size = row.h.len() / upstream.len();
        for (m, g) in upstream.iter().enumerate() {
            let span = m * size..(m + 1) * size;
            let Row { h, gamma, beta, w2, mask } = row.part(m * size, size);
            let (grad_h, grad_gamma) = (&mut grad.h[span.clone()], &mut grad.gamma[span.clone()]);
            let (grad_beta, grad_w2) = (&mut grad.beta[span.clone()], &mut grad.w2[span]);
            for o in 0..size {
                let t = gamma[o] * h[o] + beta[o];
                let (cdf, kept) = (t.cdf(), *g * T::of(mask[o]));
                grad_w2[o] += kept * (t * cdf);
                let s = kept * w2[o] * (cdf + t * t.pdf());
                grad_beta[o] += s;
                grad_gamma[o] += s * h[o];
                grad_h[o] += s * gamma[o];
            }
        }
    }
}

/// The operands as slices, and their sizes.
struct Operands<'a, T> {
    simd: Simd,
    groups: usize,
    h: &'a [T],
    film: &'a [T],
    w2: &'a [T],
    mask: &'a [f32],
    /// A row of the mask that drops nothing, where there is none.
    ones: Vec<f32>,
    /// B, H, J.
    sizes: (usize, usize, usize),
}

impl<T: Real> Operands<'_, T> {
    fn row(&self, j: usize, b: usize) -> Row<'_, T> {
        let (rows, width, _) = self.sizes;
        let film = &self.film[j * 2 * width..(j + 1) * 2 * width];
        Row {
            h: &self.h[b * width..(b + 1) * width],
            gamma: &film[..width],
            beta: &film[width..],
            w2: self.w2,
            mask: if self.mask.is_empty() {
                &self.ones
            } else {
                &self.mask[(j * rows + b) * width..(j * rows + b + 1) * width]
            },
        }
    }

    fn forward(&self) -> Vec<T> {
        let ((rows, _, count), groups) = (self.sizes, self.groups);
        let mut out = vec![T::zero(); count * rows * groups];
        out.par_chunks_mut(ROWS * groups).enumerate().for_each(|(chunk, out)| {
            for (i, out) in out.chunks_exact_mut(groups).enumerate() {
                let at = chunk * ROWS + i;
                let row = &self.row(at / rows, at % rows);
                isa::run(self.simd, Forward { row, out });
            }
        });
        out
    }

    /// Gradients of h, film and w2 for an upstream gradient (J, B, M).
    fn backward(&self, upstream: &[T]) -> [Vec<T>; 3] {
        let ((rows, width, count), groups) = (self.sizes, self.groups);
        let mut grad_h = vec![T::zero(); rows * width];
        let parts: Vec<(Vec<T>, Vec<T>)> = grad_h
            .par_chunks_mut(ROWS * width)
            .enumerate()
            .map(|(chunk, grad_h)| {
                let mut film = vec![T::zero(); count * 2 * width];
                let mut w2 = vec![T::zero(); width];
                for (i, h) in grad_h.chunks_exact_mut(width).enumerate() {
                    let b = chunk * ROWS + i;
                    for j in 0..count {
                        let (gamma, beta) =
                            film[j * 2 * width..(j + 1) * 2 * width].split_at_mut(width);
                        let grad = RowGrad { h: &mut *h, gamma, beta, w2: &mut w2 };
                        let at = (j * rows + b) * groups;
                        let (row, upstream) = (&self.row(j, b), &upstream[at..at + groups]);
                        isa::run(self.simd, Backward { row, upstream, grad });
                    }
                }
                (film, w2)
            })
            .collect();
        let mut film = vec![T::zero(); count * 2 * width];
        let mut w2 = vec![T::zero(); width];
        for (part_film, part_w2) in parts {
            film.iter_mut().zip(part_film).for_each(|(a, b)| *a += b);
            w2.iter_mut().zip(part_w2).for_each(|(a, b)| *a += b);
        }
        [grad_h, film, w2]
    }
}

impl Heads {
    fn operands<'a, T: Real>(&'a self, [h, film, w2]: [&'a [T]; 3]) -> Result<Operands<'a, T>> {
        let width = w2.len();
        let sizes = (h.len() / width, width, film.len() / (2 * width));
        let fits = h.len() == sizes.0 * width
            && film.len() == sizes.2 * 2 * width
            && width.is_multiple_of(self.groups)
            && (self.mask.is_empty() || self.mask.len() == sizes.0 * sizes.2 * width);
        if !fits {
            bail!("heads: expected h (B, H), film (J, 2H), w2 (H,), mask (J, B, H)");
        }
        let (simd, groups, ones) = (self.simd, self.groups, vec![1.0; width]);
        Ok(Operands { simd, groups, h, film, w2, mask: &self.mask, ones, sizes })
    }
}

impl Fused for Heads {
    const NAME: &'static str = "heads";

    fn forward<T: Real>(&self, args: [&[T]; 3]) -> Result<(Vec<T>, Shape)> {
        let operands = self.operands(args)?;
        let (rows, _, count) = operands.sizes;
        Ok((operands.forward(), Shape::from((count, rows, self.groups))))
    }

    fn backward<T: Real>(&self, args: [&[T]; 3], upstream: &[T]) -> Result<[Vec<T>; 3]> {
        Ok(self.operands(args)?.backward(upstream))
    }
}
