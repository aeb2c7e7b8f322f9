//! The bottom of both networks as one fused operation: LayerNorm's affine and the first layer.
//!
//! In: standardised rows x (B, d), which do not learn; weights w (d, M·h), gains g (d, M) and offsets
//! a (M, d) of M heads. Out: (B, M·h) with
//!
//! out[b, m·h + k] = Σ_i (g_im·x_bi + a_mi)·w_i,mk
//!
//! From the library's own operations the folding g⊙w and its gradients are a dozen passes over w, and
//! a product's backward pass makes a gradient of x that nobody wants: a third of the arithmetic.
//! Partial sums are added in a fixed order, whatever the number of threads.

// As in heads.rs.
#![allow(clippy::inline_always)]

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::ops::heads::has_avx2;
use crate::ops::heads::{Real, slice, with_values};

/// Rows of w that a task takes.
const ROWS: usize = 16;
/// Partial sums of a dot product, so that it vectorises.
const LANES: usize = 16;

struct Trunk {
    x: Tensor,
    /// M.
    groups: usize,
}

/// Apply it. `w` may have any shape of d·M·h entries with d first; the others' entries as above.
pub fn trunk(x: &Tensor, w: &Tensor, gain: &Tensor, offset: &Tensor) -> Result<Tensor> {
    let op = Trunk { x: x.contiguous()?.detach(), groups: offset.dim(0)? };
    w.contiguous()?.apply_op3(&gain.contiguous()?, &offset.contiguous()?, op)
}

/// dst (m, n) += lhs (m, k) · rhs (k, n), row-major; `transposed`: lhs is stored as (k, m).
fn multiply<T: Real>(
    (m, k, n): (usize, usize, usize),
    lhs: &[T],
    transposed: bool,
    rhs: &[T],
    dst: &mut [T],
) {
    assert!(lhs.len() == m * k && rhs.len() == k * n && dst.len() == m * n);
    let (cs, rs) = if transposed { (m, 1) } else { (1, k) };
    let stride = |s: usize| s.cast_signed();
    // SAFETY: the three buffers have the sizes that the strides address, and dst is ours alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            stride(n),
            true,
            lhs.as_ptr(),
            stride(cs),
            stride(rs),
            rhs.as_ptr(),
            1,
            stride(n),
            T::one(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

/// One row of w at input i, head m: `folded` = g·w, and `shift` += a·w.
#[inline(always)]
fn fold<T: Real>(w: &[T], gain: T, offset: T, folded: &mut [T], shift: &mut [T]) {
    for ((w, f), s) in w.iter().zip(folded).zip(shift) {
        *f = gain * *w;
        *s += offset * *w;
    }
}

/// The gradients at input i, head m. `grad` holds the folded weights' gradient and becomes w's; the
/// return value is that of the gain and that of the offset. `sums` are the columns' sums.
#[inline(always)]
fn unfold<T: Real>(w: &[T], gain: T, offset: T, sums: &[T], grad: &mut [T]) -> (T, T) {
    let (mut by_gain, mut by_offset) = ([T::zero(); LANES], [T::zero(); LANES]);
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fold_avx2<T: Real>(w: &[T], gain: T, offset: T, folded: &mut [T], shift: &mut [T]) {
    fold(w, gain, offset, folded, shift);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn unfold_avx2<T: Real>(w: &[T], gain: T, offset: T, sums: &[T], grad: &mut [T]) -> (T, T) {
    unfold(w, gain, offset, sums, grad)
}

/// [`fold`] with the best instructions at hand.
fn fold_row<T: Real>(w: &[T], gain: T, offset: T, folded: &mut [T], shift: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the instructions.
        return unsafe { fold_avx2(w, gain, offset, folded, shift) };
    }
    fold(w, gain, offset, folded, shift);
}

/// [`unfold`], likewise.
fn unfold_row<T: Real>(w: &[T], gain: T, offset: T, sums: &[T], grad: &mut [T]) -> (T, T) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the instructions.
        return unsafe { unfold_avx2(w, gain, offset, sums, grad) };
    }
    unfold(w, gain, offset, sums, grad)
}

/// The operands as slices, and their sizes.
struct Operands<'a, T> {
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
                        fold_row(&w[span], gain, offset, folded, shift);
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
        multiply((rows, d, width), self.x, false, &folded, &mut out);
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
        multiply((d, rows, width), self.x, true, upstream, &mut grad);
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
                    (gain[m], offset[m]) = unfold_row(&w[span], g, a, sums, grad);
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
        (w, gain, offset): (&'a [T], &'a [T], &'a [T]),
    ) -> Result<Operands<'a, T>> {
        let (rows, d) = self.x.dims2()?;
        let heads = self.groups;
        let h = w.len() / (d * heads);
        let fits =
            w.len() == d * heads * h && gain.len() == d * heads && gain.len() == offset.len();
        if !fits {
            bail!("trunk: expected x (B, d), w (d, M·h), gain (d, M), offset (M, d)");
        }
        Ok(Operands { x, w, gain, offset, sizes: (rows, d, heads, h) })
    }

    fn forward<T: Real>(&self, args: (&[T], &[T], &[T])) -> Result<(Vec<T>, Shape)> {
        with_values(&self.x, |x| {
            let operands = self.operands(x, args)?;
            let (rows, _, heads, h) = operands.sizes;
            Ok((operands.forward(), Shape::from((rows, heads * h))))
        })
    }

    fn gradients<T: Real>(&self, args: [&Tensor; 3], upstream: &Tensor) -> Result<[Tensor; 3]> {
        let [w, gain, offset] = args;
        let [a, b, c] = with_values(&self.x, |x: &[T]| {
            with_values(w, |wv| {
                with_values(gain, |g| {
                    with_values(offset, |o| {
                        with_values(upstream, |u| Ok(self.operands(x, (wv, g, o))?.backward(u)))
                    })
                })
            })
        })?;
        let tensor = |v: Vec<T>, like: &Tensor| Tensor::from_vec(v, like.shape(), like.device());
        Ok([tensor(a, w)?, tensor(b, gain)?, tensor(c, offset)?])
    }
}

fn storage<T: WithDType>((values, shape): (Vec<T>, Shape)) -> (CpuStorage, Shape) {
    (T::to_cpu_storage_owned(values), shape)
}

impl CustomOp3 for Trunk {
    fn name(&self) -> &'static str {
        "trunk"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match s1 {
            CpuStorage::F32(_) => {
                let args = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
                Ok(storage(self.forward::<f32>(args)?))
            }
            CpuStorage::F64(_) => {
                let args = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
                Ok(storage(self.forward::<f64>(args)?))
            }
            _ => bail!("trunk: expected f32 or f64"),
        }
    }

    fn bwd(
        &self,
        w: &Tensor,
        gain: &Tensor,
        offset: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let [a, b, c] = match w.dtype() {
            DType::F32 => self.gradients::<f32>([w, gain, offset], &grad)?,
            _ => self.gradients::<f64>([w, gain, offset], &grad)?,
        };
        Ok((Some(a), Some(b), Some(c)))
    }
}
