//! The top of both networks as one fused operation of the tensor library, with its backward pass.
//!
//! In: trunk outputs h (B, H), FiLM rows (J, 2H) holding γ then β, output weights w2 (H,), a dropout
//! mask (J, B, H) or none (empty), and M groups of H/M hidden units. Out: (J, B, M) with
//!
//! out[j, b, m] = Σ_{o in group m} w2_o · mask_jbo · GELU(γ_jo·h_bo + β_jo)
//!
//! The gate is M = 1 with J cost weights; the teacher is J = 1 with γ = 1, β = bias and M heads. Built
//! from the library's own operations this takes most of a step: its GELU works in double precision,
//! and every intermediate and broadcast gradient is a pass over (J, B, H). Here a pass is a pass.
//! Rows are cut into chunks of fixed size and partial sums are added in order, so the result does not
//! depend on the number of threads.

// Loops must be inlined into the functions that enable their instructions.
#![allow(clippy::inline_always)]

use std::ops::{AddAssign, Mul};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Rows a task takes.
const ROWS: usize = 16;
/// Partial sums of a dot product, so that it vectorises.
const LANES: usize = 16;

/// What the loops need of a number.
pub trait Real: WithDType + Mul<Output = Self> + AddAssign + Send + Sync {
    /// Φ(t).
    fn cdf(self) -> Self;
    /// φ(t).
    fn pdf(self) -> Self;
    /// From a mask's entry.
    fn of(x: f32) -> Self;
}

impl Real for f32 {
    /// The core's rational approximation (its tests bound the error).
    #[inline(always)]
    fn cdf(self) -> Self {
        let t = (self * std::f32::consts::FRAC_1_SQRT_2).clamp(-4.0, 4.0);
        let t2 = t * t;
        let (mut p, mut q) = (cr2fast_core::kernel::ERF_P[0], cr2fast_core::kernel::ERF_Q[0]);
        for c in &cr2fast_core::kernel::ERF_P[1..] {
            p = p * t2 + c;
        }
        for c in &cr2fast_core::kernel::ERF_Q[1..] {
            q = q * t2 + c;
        }
        0.5 + 0.5 * (t * p / q)
    }

    /// e^(−t²/2)/√2π.
    #[inline(always)]
    fn pdf(self) -> Self {
        0.398_942_3 * exp_negative(0.5 * self * self)
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

/// e^(−y), y ≥ 0, by range reduction to |r| ≤ ln2/2 and a polynomial: vectorises, no libm call.
#[inline(always)]
pub fn exp_negative(y: f32) -> f32 {
    let y = y.min(87.0);
    // Adding and taking away 1.5·2^23 rounds to the nearest whole number; the sum's low bits are
    // that number.
    let magic = 12_582_912.0_f32;
    let sum = y * -std::f32::consts::LOG2_E + magic;
    let n = sum - magic;
    let r = (-y - n * 0.693_145_75) - n * 1.428_606_8e-6;
    let mut p = 1.0 / 720.0_f32;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let scale =
        f32::from_bits((sum.to_bits().wrapping_sub(magic.to_bits()).wrapping_add(127)) << 23);
    p * scale
}

impl Real for f64 {
    fn cdf(self) -> Self {
        0.5 * (1.0 + libm::erf(self * std::f64::consts::FRAC_1_SQRT_2))
    }

    fn pdf(self) -> Self {
        0.398_942_280_401_432_7 * (-0.5 * self * self).exp()
    }

    fn of(x: f32) -> Self {
        f64::from(x)
    }
}

/// The operation; what does not learn is in here.
pub struct Heads {
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
    let op = Heads { groups, mask };
    h.contiguous()?.apply_op3(&film.contiguous()?, &w2.contiguous()?, op)
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

#[inline(always)]
fn forward<T: Real>(row: &Row<T>, out: &mut [T]) {
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

#[inline(always)]
fn backward<T: Real>(row: &Row<T>, upstream: &[T], grad: &mut RowGrad<T>) {
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn forward_avx2<T: Real>(row: &Row<T>, out: &mut [T]) {
    forward(row, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn backward_avx2<T: Real>(row: &Row<T>, upstream: &[T], grad: &mut RowGrad<T>) {
    backward(row, upstream, grad);
}

/// Whether the processor has the instructions of the functions above.
#[cfg(target_arch = "x86_64")]
pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// The forward pass of a row with the best instructions at hand.
fn forward_row<T: Real>(row: &Row<T>, out: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the instructions.
        return unsafe { forward_avx2(row, out) };
    }
    forward(row, out);
}

/// The backward pass of a row, likewise.
fn backward_row<T: Real>(row: &Row<T>, upstream: &[T], grad: &mut RowGrad<T>) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the instructions.
        return unsafe { backward_avx2(row, upstream, grad) };
    }
    backward(row, upstream, grad);
}

/// The operands as slices, and their sizes.
struct Operands<'a, T> {
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

    fn forward(&self, groups: usize) -> Vec<T> {
        let (rows, _, count) = self.sizes;
        let mut out = vec![T::zero(); count * rows * groups];
        out.par_chunks_mut(ROWS * groups).enumerate().for_each(|(chunk, out)| {
            for (i, out) in out.chunks_exact_mut(groups).enumerate() {
                let at = chunk * ROWS + i;
                forward_row(&self.row(at / rows, at % rows), out);
            }
        });
        out
    }

    /// Gradients of h, film and w2 for an upstream gradient (J, B, M).
    fn backward(&self, upstream: &[T], groups: usize) -> (Vec<T>, Vec<T>, Vec<T>) {
        let (rows, width, count) = self.sizes;
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
                        let mut grad = RowGrad { h: &mut *h, gamma, beta, w2: &mut w2 };
                        let at = (j * rows + b) * groups;
                        backward_row(&self.row(j, b), &upstream[at..at + groups], &mut grad);
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
        (grad_h, film, w2)
    }
}

/// The values of contiguous storage.
pub fn slice<'a, T: WithDType>(s: &'a CpuStorage, l: &Layout) -> Result<&'a [T]> {
    match l.contiguous_offsets() {
        Some((a, b)) => Ok(&s.as_slice::<T>()?[a..b]),
        None => bail!("expected contiguous tensors"),
    }
}

/// The values of a contiguous tensor on the CPU, in `f`.
pub fn with_values<T: WithDType, R>(t: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => f(slice(s, layout)?),
        _ => bail!("expected tensors on the CPU"),
    }
}

impl Heads {
    fn operands<'a, T: Real>(
        &'a self,
        (h, film, w2): (&'a [T], &'a [T], &'a [T]),
    ) -> Result<Operands<'a, T>> {
        let width = w2.len();
        let sizes = (h.len() / width, width, film.len() / (2 * width));
        let fits = h.len() == sizes.0 * width
            && film.len() == sizes.2 * 2 * width
            && width.is_multiple_of(self.groups)
            && (self.mask.is_empty() || self.mask.len() == sizes.0 * sizes.2 * width);
        if !fits {
            bail!("heads: expected h (B, H), film (J, 2H), w2 (H,), mask (J, B, H)");
        }
        Ok(Operands { h, film, w2, mask: &self.mask, ones: vec![1.0; width], sizes })
    }

    fn gradients<T: Real>(&self, args: [&Tensor; 3], upstream: &Tensor) -> Result<[Tensor; 3]> {
        let [h, film, w2] = args;
        let (gh, gfilm, gw2) = with_values(h, |hv: &[T]| {
            with_values(film, |fv| {
                with_values(w2, |wv| {
                    with_values(upstream, |u| {
                        Ok(self.operands((hv, fv, wv))?.backward(u, self.groups))
                    })
                })
            })
        })?;
        let tensor = |v: Vec<T>, like: &Tensor| Tensor::from_vec(v, like.shape(), like.device());
        Ok([tensor(gh, h)?, tensor(gfilm, film)?, tensor(gw2, w2)?])
    }
}

impl CustomOp3 for Heads {
    fn name(&self) -> &'static str {
        "heads"
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
        let (b, j) = (l1.shape().dims()[0], l2.shape().dims()[0]);
        let out = match s1 {
            CpuStorage::F32(_) => {
                let args = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
                CpuStorage::F32(self.operands::<f32>(args)?.forward(self.groups))
            }
            CpuStorage::F64(_) => {
                let args = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
                CpuStorage::F64(self.operands::<f64>(args)?.forward(self.groups))
            }
            _ => bail!("heads: expected f32 or f64"),
        };
        Ok((out, Shape::from((j, b, self.groups))))
    }

    fn bwd(
        &self,
        h: &Tensor,
        film: &Tensor,
        w2: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let [a, b, c] = match h.dtype() {
            candle_core::DType::F32 => self.gradients::<f32>([h, film, w2], &grad)?,
            _ => self.gradients::<f64>([h, film, w2], &grad)?,
        };
        Ok((Some(a), Some(b), Some(c)))
    }
}
