//! GELU (erf form) with its derivative, as one operation of the tensor library.
//!
//! The library's own works in double precision, element by element, on one thread, and takes most of
//! a step. This one is single precision, compiled for AVX2 where the processor has it, on all
//! threads. For double precision, which gradient checks use, it calls libm.

// Loops must be inlined into the functions that enable their instructions.
#![allow(clippy::inline_always)]

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements a task takes.
const CHUNK: usize = 1 << 14;

/// GELU(x) = x·Φ(x).
pub struct Gelu;
/// g·GELU′(x), the backward pass.
struct GeluGrad;

pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gelu)
}

fn slice<'a, T: candle_core::WithDType>(s: &'a CpuStorage, l: &Layout) -> Result<&'a [T]> {
    match l.contiguous_offsets() {
        Some((a, b)) => Ok(&s.as_slice::<T>()?[a..b]),
        None => bail!("gelu: expected a contiguous tensor"),
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match s {
            CpuStorage::F32(_) => {
                let x: &[f32] = slice(s, l)?;
                let mut out = vec![0.0; x.len()];
                out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(o, x)| forward(x, o));
                CpuStorage::F32(out)
            }
            CpuStorage::F64(_) => {
                let x: &[f64] = slice(s, l)?;
                CpuStorage::F64(x.iter().map(|x| x * phi_cdf(*x)).collect())
            }
            _ => bail!("gelu: expected f32 or f64"),
        };
        Ok((out, l.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(arg.contiguous()?.apply_op2(&grad.contiguous()?, GeluGrad)?))
    }
}

impl CustomOp2 for GeluGrad {
    fn name(&self) -> &'static str {
        "gelu-grad"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match s1 {
            CpuStorage::F32(_) => {
                let (x, g): (&[f32], &[f32]) = (slice(s1, l1)?, slice(s2, l2)?);
                let mut out = vec![0.0; x.len()];
                out.par_chunks_mut(CHUNK)
                    .zip(x.par_chunks(CHUNK).zip(g.par_chunks(CHUNK)))
                    .for_each(|(o, (x, g))| backward(x, g, o));
                CpuStorage::F32(out)
            }
            CpuStorage::F64(_) => {
                let (x, g): (&[f64], &[f64]) = (slice(s1, l1)?, slice(s2, l2)?);
                let slope =
                    |x: f64| phi_cdf(x) + x * 0.398_942_280_401_432_7 * (-0.5 * x * x).exp();
                CpuStorage::F64(x.iter().zip(g).map(|(x, g)| g * slope(*x)).collect())
            }
            _ => bail!("gelu: expected f32 or f64"),
        };
        Ok((out, l1.shape().clone()))
    }
}

fn phi_cdf(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// Φ(x), the core's rational approximation (its tests bound the error).
#[inline(always)]
fn cdf(x: f32) -> f32 {
    let t = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-4.0, 4.0);
    let t2 = t * t;
    let [p, q] = [cr2fast_core::kernel::ERF_P.as_slice(), &cr2fast_core::kernel::ERF_Q]
        .map(|c| c[1..].iter().fold(c[0], |acc, c| acc * t2 + c));
    0.5 + 0.5 * (t * p / q)
}

/// e^−y for y in [0, 87] by range reduction to |r| ≤ ln2/2.
#[inline(always)]
fn exp_neg(y: f32) -> f32 {
    let y = y.min(87.0);
    // Adding and taking away 1.5·2^23 rounds to the nearest whole number without a libm call.
    let magic = 12_582_912.0_f32;
    let n = (y * -std::f32::consts::LOG2_E + magic) - magic;
    let r = (-y - n * 0.693_145_75) - n * 1.428_606_8e-6;
    let p = [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]
        .into_iter()
        .fold(1.0 / 720.0_f32, |acc, c| acc * r + c);
    let scale = f32::from_bits(((n as i32 + 127) as u32) << 23);
    p * scale
}

#[inline(always)]
fn forward_loop(x: &[f32], out: &mut [f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = x * cdf(*x);
    }
}

#[inline(always)]
fn backward_loop(x: &[f32], g: &[f32], out: &mut [f32]) {
    for (o, (x, g)) in out.iter_mut().zip(x.iter().zip(g)) {
        *o = g * (cdf(*x) + x * 0.398_942_3 * exp_neg(0.5 * x * x));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn forward_avx2(x: &[f32], out: &mut [f32]) {
    forward_loop(x, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn backward_avx2(x: &[f32], g: &[f32], out: &mut [f32]) {
    backward_loop(x, g, out);
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

fn forward(x: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the instructions.
        return unsafe { forward_avx2(x, out) };
    }
    forward_loop(x, out);
}

fn backward(x: &[f32], g: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the instructions.
        return unsafe { backward_avx2(x, g, out) };
    }
    backward_loop(x, g, out);
}
