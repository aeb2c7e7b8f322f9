//! The bottom of both networks as one fused layer: LayerNorm's gain and offset, and the first product.
//!
//! In: standardised rows x (B, d), which do not learn; weights w (d, M·h), gains g (d, M) and offsets
//! a (M, d) of M heads. Out: (B, M·h) with
//!
//! out[b, m·h + k] = Σ_i (g_im·x_bi + a_mi)·w_i,mk
//!
//! With the library's own operations the folding g⊙w and its gradients would be a dozen passes over w,
//! and the product's backward pass would make a gradient of x that nothing uses, a third of the
//! arithmetic.
//! Partial sums are added in a fixed order, whatever the number of threads.

// As in heads.rs.
#![allow(clippy::inline_always)]

use candle_core::{Result, Shape, Tensor, bail};
use cr2fast_core::Simd;
use rayon::prelude::*;

use crate::ops::fused::{self, Fused, with_values};
use crate::ops::isa::{self, Loop};
use crate::ops::product::{Strided, accumulate};
use crate::ops::real::{LANES, Real};

/// Rows of w per task.
const ROWS: usize = 16;

/// The layer; what does not learn is in here.
struct Trunk {
    simd: Simd,
    x: Tensor,
    /// M.
    groups: usize,
}

/// Apply it. `w` may have any shape of d·M·h entries with d first; the others' entries as above.
pub fn trunk(x: &Tensor, w: &Tensor, gain: &Tensor, offset: &Tensor) -> Result<Tensor> {
    let layer = Trunk {
        simd: Simd::best().map_err(candle_core::Error::wrap)?,
        x: x.contiguous()?.detach(),
        groups: offset.dim(0)?,
    };
    fused::apply(layer, [w, gain, offset])
}

/// One row of w at input i, head m: `folded` = g·w, and `shift` += a·w.
struct Fold<'a, T> {
    w: &'a [T],
    gain: T,
    offset: T,
    folded: &'a mut [T],
    shift: &'a mut [T],
}

impl<T: Real> Loop for Fold<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for ((w, f), s) in self.w.iter().zip(self.folded).zip(self.shift) {
            *f = self.gain * *w;
            *s += self.offset * *w;
        }
    }
}

/// The gradients at input i, head m. `grad` holds the folded weights' gradient and becomes w's; the
/// loop's result is the gradient of the gain and that of the offset. `sums` are the columns' sums.
struct Unfold<'a, T> {
    w: &'a [T],
    gain: T,
    offset: T,
    sums: &'a [T],
    grad: &'a mut [T],
}

impl<T: Real> Loop for Unfold<'_, T> {
    type Out = (T, T);

    #[inline(always)]
    fn run(self) -> (T, T) {
        let (mut by_gain, mut by_offset) = ([T::zero(); LANES], [T::zero(); LANES]);
        let Self { w, gain, offset, sums, grad } = self;
        let parts = w.chunks(LANES).zip(sums.chunks(LANES)).zip(grad.chunks_mut(LANES));
        for ((w, s), g) in parts {
            for (lane, ((w, s), g)) in w.iter().zip(s).zip(g).enumerate() {
                by_gain[lane] += *g * *w;
                by_offset[lane] += *s * *w;
                *g = *g * gain + offset * *s;
            }
        }
        let sum = |xs: [T; LANES]| xs.into_iter().fold(T::zero(), |a, b| a + b);
        (sum(by_gain), sum(by_offset))
    }
}

/// The operands as slices, and their sizes.
struct Operands<'a, T> {
    simd: Simd,
    x: &'a [T],
    w: &'a [T],
    gain: &'a [T],
    offset: &'a [T],
    /// B, d, M, h.
    sizes: (usize, usize, usize, usize),
}

impl<T: Real> Operands<'_, T> {
    fn forward(&self) -> Vec<T> {
        let (rows, d, heads, h) = self.sizes;
        let width = heads * h;
        let mut folded = vec![T::zero(); d * width];
        let parts: Vec<Vec<T>> = folded
            .par_chunks_mut(ROWS * width)
            .enumerate()
            .map(|(chunk, folded)| {
                let mut shift = vec![T::zero(); width];
                for (r, folded) in folded.chunks_exact_mut(width).enumerate() {
                    let i = chunk * ROWS + r;
                    let w = &self.w[i * width..(i + 1) * width];
                    for m in 0..heads {
                        let span = m * h..(m + 1) * h;
                        let (gain, offset) = (self.gain[i * heads + m], self.offset[m * d + i]);
                        let (folded, shift) = (&mut folded[span.clone()], &mut shift[span.clone()]);
                        let w = &w[span];
                        isa::run(self.simd, Fold { w, gain, offset, folded, shift });
                    }
                }
                shift
            })
            .collect();
        let mut shift = vec![T::zero(); width];
        for part in parts {
            shift.iter_mut().zip(part).for_each(|(a, b)| *a += b);
        }
        let mut out = shift.repeat(rows);
        let (x, w) = (Strided::new(self.x, d), Strided::new(&folded, width));
        accumulate((rows, d, width), T::one(), x, w, &mut out, width);
        out
    }

    /// Gradients of w, gain and offset for an upstream gradient (B, M·h).
    fn backward(&self, upstream: &[T]) -> [Vec<T>; 3] {
        let (rows, d, heads, h) = self.sizes;
        let width = heads * h;
        let mut sums = vec![T::zero(); width];
        for row in upstream.chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(a, b)| *a += *b);
        }
        let mut grad = vec![T::zero(); d * width];
        let (x, u) = (Strided::new(self.x, d), Strided::new(upstream, width));
        accumulate((d, rows, width), T::one(), x.t(), u, &mut grad, width);
        let (mut gain, mut by_row) = (vec![T::zero(); d * heads], vec![T::zero(); d * heads]);
        grad.par_chunks_mut(width)
            .zip(gain.par_chunks_mut(heads))
            .zip(by_row.par_chunks_mut(heads))
            .with_min_len(ROWS)
            .enumerate()
            .for_each(|(i, ((grad, gain), offset))| {
                let w = &self.w[i * width..(i + 1) * width];
                for m in 0..heads {
                    let span = m * h..(m + 1) * h;
                    let (g, a) = (self.gain[i * heads + m], self.offset[m * d + i]);
                    let (sums, grad) = (&sums[span.clone()], &mut grad[span.clone()]);
                    let body = Unfold { w: &w[span], gain: g, offset: a, sums, grad };
                    (gain[m], offset[m]) = isa::run(self.simd, body);
                }
            });
        let offset = (0..heads * d).map(|at| by_row[at % d * heads + at / d]).collect();
        [grad, gain, offset]
    }
}

impl Trunk {
    fn operands<'a, T: Real>(
        &self,
        x: &'a [T],
        [w, gain, offset]: [&'a [T]; 3],
    ) -> Result<Operands<'a, T>> {
        let (rows, d) = self.x.dims2()?;
        let heads = self.groups;
        let h = w.len() / (d * heads);
        let fits =
            w.len() == d * heads * h && gain.len() == d * heads && gain.len() == offset.len();
        if !fits {
            bail!("trunk: expected x (B, d), w (d, M·h), gain (d, M), offset (M, d)");
        }
        Ok(Operands { simd: self.simd, x, w, gain, offset, sizes: (rows, d, heads, h) })
    }
}

impl Fused for Trunk {
    const NAME: &'static str = "trunk";

    fn forward<T: Real>(&self, args: [&[T]; 3]) -> Result<(Vec<T>, Shape)> {
        with_values(&self.x, |x| {
            let operands = self.operands(x, args)?;
            let (rows, _, heads, h) = operands.sizes;
            Ok((operands.forward(), Shape::from((rows, heads * h))))
        })
    }

    fn backward<T: Real>(&self, args: [&[T]; 3], upstream: &[T]) -> Result<[Vec<T>; 3]> {
        with_values(&self.x, |x| Ok(self.operands(x, args)?.backward(upstream)))
    }
}
