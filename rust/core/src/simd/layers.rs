//! The SIMD inner loops, alone.
//!
//! In: rows of embeddings, packed weights. Out: the same 32 bits whatever the instruction set, the
//! batch size or the thread. Three rules make it so:
//!
//! 1. loops vectorise over *outputs*; every output accumulates over its inputs in one order, each
//!    step one fused multiply-add, so the width of a register cannot change a sum;
//! 2. sums over a vector use sixteen virtual lanes and one fixed tree, on every instruction set;
//! 3. GELU and the logistic function are our own polynomials: no libm on the path.
//!
//! The generic loops below are instantiated once for each instruction set (see `dispatch.rs`), inside functions
//! compiled for that instruction set.

// Loops must be inlined into the functions that enable their instructions; a tile is indexed by row
// and block.
#![allow(clippy::inline_always, clippy::needless_range_loop)]

use crate::simd::lanes::{LANES, Lanes};
use crate::simd::packed::{Packed, PaddedVec, Stored};

/// ε of LayerNorm, as the paper's framework has it.
pub const LAYER_NORM_EPS: f32 = 1e-5;

/// Centre a row; the return value is 1/σ of LayerNorm, two-pass.
#[inline(always)]
pub(super) unsafe fn center<V: Lanes>(x: &[f32], out: &mut [f32]) -> f32 {
    let n = x.len();
    let whole = n - n % LANES;
    // SAFETY: every access stays under `whole`, or under `n` for the tail.
    unsafe {
        let mut acc = V::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            acc = acc.add(V::load(x.as_ptr().add(i)));
        }
        let mean = acc.sum_with_tail(&x[whole..], |t| t) / n as f32;
        let (mut acc, m) = (V::splat(0.0), V::splat(mean));
        for i in (0..whole).step_by(LANES) {
            let c = V::load(x.as_ptr().add(i)).sub(m);
            c.store(out.as_mut_ptr().add(i));
            acc = c.fma(c, acc);
        }
        for i in whole..n {
            out[i] = x[i] - mean;
        }
        let var = acc.sum_with_tail(&out[whole..n], |t| t * t) / n as f32;
        let scale = 1.0 / (var + LAYER_NORM_EPS).sqrt();
        // A variance that overflows must not pass as a row of zeros: NaN is refused further on.
        if scale > 0.0 { scale } else { f32::NAN }
    }
}

/// `R` rows times `B` output blocks: the register tile. Weights of an input are `step` words from
/// those of the next; `out` rows are `stride` apart.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<V: Lanes, W: Stored, const R: usize, const B: usize>(
    w: *const W,
    step: usize,
    d: usize,
    x: *const f32,
    scale: *const f32,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller passes R rows of d inputs, R scales, B·d weight blocks, R rows of output.
    unsafe {
        let mut acc = [[V::splat(0.0); B]; R];
        for i in 0..d {
            let wv: [V; B] = W::load(w.add(i * step));
            for r in 0..R {
                let xi = V::splat(*x.add(r * d + i));
                for b in 0..B {
                    acc[r][b] = wv[b].fma(xi, acc[r][b]);
                }
            }
        }
        for r in 0..R {
            let s = V::splat(*scale.add(r));
            for b in 0..B {
                acc[r][b].mul(s).store(out.add(r * stride + b * LANES));
            }
        }
    }
}

/// `out[r] = scale[r] · W x[r]` for every row, tiled: `R` rows by `B` blocks, a row that is left by
/// `B1`, blocks that are left by `P`, as many as are stored together.
#[inline(always)]
pub(super) unsafe fn dense<
    V: Lanes,
    W: Stored,
    const R: usize,
    const B: usize,
    const B1: usize,
    const P: usize,
>(
    w: &Packed,
    words: *const W,
    x: &[f32],
    scale: &[f32],
    out: &mut [f32],
) {
    let (d, blocks, stride, rows) = (w.inputs(), w.blocks(), w.padded_outputs(), scale.len());
    let (xp, sp, op) = (x.as_ptr(), scale.as_ptr(), out.as_mut_ptr());
    let mut r = 0;
    while r < rows {
        let wide = rows - r >= R;
        let mut b = 0;
        while b < blocks {
            // A tile stays within a group of blocks.
            let ((at, step), left) = (w.place::<P>(b), w.left(b));
            // SAFETY: offsets address row r, block b of buffers whose sizes the caller checked.
            unsafe {
                let (wb, xr, sr, or) =
                    (words.add(at), xp.add(r * d), sp.add(r), op.add(r * stride + b * LANES));
                macro_rules! next {
                    ($r:expr, $b:expr) => {{
                        tile::<V, W, { $r }, { $b }>(wb, step, d, xr, sr, or, stride);
                        $b
                    }};
                }
                b += match (wide, left) {
                    (true, left) if left >= B => next!(R, B),
                    (true, left) if left >= P => next!(R, P),
                    (true, _) => next!(R, 1),
                    (false, left) if left >= B1 => next!(1, B1),
                    (false, left) if left >= P => next!(1, P),
                    (false, _) => next!(1, 1),
                };
            }
        }
        r += if wide { R } else { 1 };
    }
}

/// Numerator P of erf(x) ≈ x·P(x²)/Q(x²) on |x| ≤ 4: the single-precision coefficients of Eigen and XLA.
pub const ERF_P: [f32; 7] = [
    -2.726_142_3e-10,
    2.770_681_4e-8,
    -2.101_024e-6,
    -5.692_506_5e-5,
    -7.349_906_3e-4,
    -2.954_6e-3,
    -1.609_603_3e-2,
];
/// Its denominator Q.
pub const ERF_Q: [f32; 5] =
    [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2];

/// GELU(x) = x·Φ(x), the exact (erf) form; |error| ≤ 4e-7·max(1, |x|), tested.
#[inline(always)]
unsafe fn gelu<V: Lanes>(x: V) -> V {
    // SAFETY: register arithmetic alone.
    unsafe {
        let t = x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = t.max(V::splat(-4.0)).min(V::splat(4.0));
        let t2 = t.mul(t);
        let mut p = V::splat(ERF_P[0]);
        for c in &ERF_P[1..] {
            p = p.fma(t2, V::splat(*c));
        }
        let mut q = V::splat(ERF_Q[0]);
        for c in &ERF_Q[1..] {
            q = q.fma(t2, V::splat(*c));
        }
        let erf = t.mul(p).div(q);
        let half = x.mul(V::splat(0.5));
        half.fma(erf, half)
    }
}

/// Σ_o w2_o · GELU(γ_o·u_o + δ_o).
#[inline(always)]
pub(super) unsafe fn film_gelu_dot<V: Lanes>(
    u: &[f32],
    gamma: &PaddedVec,
    shift: &PaddedVec,
    w2: &PaddedVec,
) -> f32 {
    // SAFETY: the four buffers hold the same number of whole blocks, which the caller checked.
    unsafe {
        let mut acc = V::splat(0.0);
        for i in (0..u.len()).step_by(LANES) {
            let h = V::load(gamma.ptr().add(i))
                .fma(V::load(u.as_ptr().add(i)), V::load(shift.ptr().add(i)));
            acc = gelu(h).fma(V::load(w2.ptr().add(i)), acc);
        }
        acc.sum_with_tail(&[], |t| t)
    }
}

/// Blocks of a row that lie in one line of the cache.
const LINE: usize = 4;

/// Add the tokens' scaled rows to `B` blocks of `out`, at `at`, which stay in registers meanwhile.
#[inline(always)]
unsafe fn gather<V: Lanes, const B: usize>(
    table: *const i8,
    scales: &[f32],
    tokens: &[u32],
    width: usize,
    at: usize,
    out: *mut f32,
) {
    // SAFETY: rows and `out` are `width` wide, B blocks of that from `at` on, and every token has a row
    // and a scale: the caller checked.
    unsafe {
        let mut acc = [V::splat(0.0); B];
        for b in 0..B {
            acc[b] = V::load(out.add(at + b * LANES));
        }
        for &t in tokens {
            let row = table.add(t as usize * width + at);
            let s = V::splat(*scales.get_unchecked(t as usize));
            for b in 0..B {
                acc[b] = V::load_i8(row.add(b * LANES)).fma(s, acc[b]);
            }
        }
        for b in 0..B {
            acc[b].store(out.add(at + b * LANES));
        }
    }
}

/// out = Σ_t scale_t·row_t over the tokens in their order, then to unit length; ‖Σ‖² is returned.
#[inline(always)]
pub(super) unsafe fn pool<V: Lanes>(
    table: &[i8],
    scales: &[f32],
    tokens: &[u32],
    out: &mut [f32],
) -> f32 {
    // SAFETY: rows are whole blocks as wide as `out`, and every token has one: the caller checked.
    unsafe {
        let (width, p) = (out.len(), out.as_mut_ptr());
        let mut at = 0;
        while at < width {
            at += if width - at >= LINE * LANES {
                gather::<V, LINE>(table.as_ptr(), scales, tokens, width, at, p);
                LINE * LANES
            } else {
                gather::<V, 1>(table.as_ptr(), scales, tokens, width, at, p);
                LANES
            };
        }
        let mut acc = V::splat(0.0);
        for i in (0..width).step_by(LANES) {
            let x = V::load(p.add(i));
            acc = x.fma(x, acc);
        }
        let norm2 = acc.sum_with_tail(&[], |t| t);
        let scale = V::splat(1.0 / norm2.sqrt());
        for i in (0..width).step_by(LANES) {
            V::load(p.add(i)).mul(scale).store(p.add(i));
        }
        norm2
    }
}

/// Σᵢ aⱼᵢ·xᵢ of four aⱼ, in double precision; `columns` holds them as (d, 4). Products and sums are rounded
/// apart, each sum in one order: the same bits everywhere.
#[inline(always)]
pub(super) fn four_dots(columns: &[[f32; 4]], x: &[f32]) -> [f64; 4] {
    // From −0, as a sum starts.
    let mut dots = [-0.0_f64; 4];
    for (a, x) in columns.iter().zip(x) {
        for (dot, a) in dots.iter_mut().zip(a) {
            *dot += f64::from(*a) * f64::from(*x);
        }
    }
    dots
}

/// Directions whose sums advance together.
pub const TOGETHER: usize = 8;
/// Rows that share a pass over the directions.
pub const ABREAST: usize = 4;

/// Σⱼ (aⱼ·x·s − bⱼ)² of up to [`ABREAST`] rows x with factors s, in double precision; `columns` holds the
/// aⱼ as (m/8, d, 8). Products and sums are rounded apart, each sum in one order: the same bits everywhere.
#[inline(always)]
pub(super) fn squares_off(
    columns: &[[f64; TOGETHER]],
    offsets: &[f32],
    rows: &[(&[f32], f64); ABREAST],
) -> [f64; ABREAST] {
    let d = rows[0].0.len();
    let mut sums = [0.0_f64; ABREAST];
    for (offsets, columns) in offsets.chunks(TOGETHER).zip(columns.chunks_exact(d)) {
        let mut dots = [[0.0_f64; TOGETHER]; ABREAST];
        for (i, a) in columns.iter().enumerate() {
            for (dots, (x, _)) in dots.iter_mut().zip(rows) {
                let x = f64::from(x[i]);
                for (dot, a) in dots.iter_mut().zip(a) {
                    *dot += a * x;
                }
            }
        }
        for ((sum, dots), (_, factor)) in sums.iter_mut().zip(&dots).zip(rows) {
            for (dot, b) in dots.iter().zip(offsets) {
                let off = dot * factor - f64::from(*b);
                *sum += off * off;
            }
        }
    }
    sums
}

/// σ(x) = 1/(1+e^−x) by range reduction and a polynomial: the same bits everywhere.
pub fn sigmoid(x: f32) -> f32 {
    // e^−x by x = n·ln2 + r, |r| ≤ ln2/2, and the Taylor polynomial to r⁷ (error under one ulp).
    let z = (-x).clamp(-87.0, 87.0);
    let n = (z * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_145_75, z);
    let r = n.mul_add(-1.428_606_8e-6, r);
    let mut p = 1.0 / 5040.0_f32;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    let scale = f32::from_bits(((n as i32 + 127) as u32) << 23);
    1.0 / p.mul_add(scale, 1.0)
}
