//! SIMD loops that pick scores out of a row: what lies above a bound, what lies between two.
//!
//! In: scores, a mask, bounds. Out: the scores that pass, in their order, and counts. Comparisons
//! alone, so every instruction set gives the same answer.

// As in the kernels.
#![allow(clippy::inline_always)]

use crate::simd::lanes::{LANES, Lanes, Scalar};

/// Lanes that can be compared and packed together.
pub(super) trait Sift: Lanes {
    /// Bit j: a ≥ b in lane j.
    unsafe fn ge(self, b: Self) -> u32;
    /// Write the lanes whose bits are set, in order, from `p` on; all sixteen places may be written.
    unsafe fn pack(self, bits: u32, p: *mut f32);
}

#[inline(always)]
unsafe fn pack_one_by_one<V: Lanes>(v: V, mut bits: u32, p: *mut f32) {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: `lanes` has sixteen places, and the caller gives as many at `p`.
    unsafe {
        v.store(lanes.as_mut_ptr());
        let mut at = 0;
        while bits != 0 {
            *p.add(at) = lanes[bits.trailing_zeros() as usize % LANES];
            bits &= bits - 1;
            at += 1;
        }
    }
}

// SAFETY (all impls): as in lanes.rs.
impl Sift for Scalar {
    #[inline(always)]
    unsafe fn ge(self, b: Self) -> u32 {
        let (a, b) = (self.0, b.0);
        (0..LANES).fold(0, |bits, j| bits | u32::from(a[j] >= b[j]) << j)
    }
    #[inline(always)]
    unsafe fn pack(self, bits: u32, p: *mut f32) {
        // SAFETY: as the caller promises.
        unsafe { pack_one_by_one(self, bits, p) }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, _CMP_GE_OQ, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps,
        _mm256_load_si256, _mm256_movemask_ps, _mm256_permutevar8x32_epi32, _mm256_storeu_ps,
        _mm512_cmp_ps_mask, _mm512_maskz_compress_ps, _mm512_storeu_ps,
    };

    use super::Sift;
    use crate::simd::lanes::{Avx2, Avx512};

    /// Eight lane numbers, as a register reads them.
    #[derive(Clone, Copy)]
    #[repr(C, align(32))]
    struct Order([u32; 8]);

    /// For every eight bits, the indices of those that are set, first.
    static ORDER: [Order; 256] = {
        let mut order = [Order([0; 8]); 256];
        let mut bits = 0;
        while bits < 256 {
            let (mut lane, mut at) = (0, 0);
            while lane < 8 {
                if bits >> lane & 1 == 1 {
                    order[bits].0[at] = lane;
                    at += 1;
                }
                lane += 1;
            }
            bits += 1;
        }
        order
    };

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Sift for Avx2 {
        #[inline(always)]
        unsafe fn ge(self, b: Self) -> u32 {
            let mut bits = 0;
            for j in 0..2 {
                let mask =
                    unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.0[j], b.0[j])) };
                bits |= mask.cast_unsigned() << (8 * j);
            }
            bits
        }
        #[inline(always)]
        unsafe fn pack(self, bits: u32, p: *mut f32) {
            let mut at = 0;
            for j in 0..2 {
                let own = bits >> (8 * j) & 0xff;
                unsafe {
                    let order = (&raw const ORDER[own as usize]).cast::<__m256i>();
                    let packed = _mm256_permutevar8x32_epi32(
                        _mm256_castps_si256(self.0[j]),
                        _mm256_load_si256(order),
                    );
                    _mm256_storeu_ps(p.add(at), _mm256_castsi256_ps(packed));
                }
                at += own.count_ones() as usize;
            }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Sift for Avx512 {
        #[inline(always)]
        unsafe fn ge(self, b: Self) -> u32 {
            u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0[0], b.0[0]) })
        }
        #[inline(always)]
        unsafe fn pack(self, bits: u32, p: *mut f32) {
            // Packed in a register: packing into memory is slow on some processors.
            unsafe { _mm512_storeu_ps(p, _mm512_maskz_compress_ps(bits as u16, self.0[0])) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Sift for crate::simd::lanes::Neon {
    #[inline(always)]
    unsafe fn ge(self, b: Self) -> u32 {
        let (mut x, mut y) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        // SAFETY: both have sixteen places.
        unsafe {
            self.store(x.as_mut_ptr());
            b.store(y.as_mut_ptr());
        }
        (0..LANES).fold(0, |bits, j| bits | u32::from(x[j] >= y[j]) << j)
    }
    #[inline(always)]
    unsafe fn pack(self, bits: u32, p: *mut f32) {
        // SAFETY: as the caller promises.
        unsafe { pack_one_by_one(self, bits, p) }
    }
}

/// Sixteen flags as bits.
#[inline(always)]
fn flags(mask: &[bool; LANES]) -> u32 {
    let half = |m: &[bool]| {
        let bytes = std::array::from_fn(|j| u8::from(m[j]));
        // Each byte's bit moves to a place of its own in the top byte.
        (u64::from_le_bytes(bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
    };
    half(&mask[..8]) | half(&mask[8..]) << 8
}

/// What [`Simd::keep`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Scores written.
    pub kept: usize,
    /// Scores masked in.
    pub masked: usize,
    /// Whether every score, masked in or not, is finite.
    pub finite: bool,
}

/// The last, shorter vector of a row, padded.
#[inline(always)]
fn padded<T: Copy>(tail: &[T], with: T) -> [T; LANES] {
    let mut out = [with; LANES];
    out[..tail.len()].copy_from_slice(tail);
    out
}

#[inline(always)]
pub(super) unsafe fn keep<V: Sift>(
    scores: &[f32],
    mask: &[bool],
    low: f32,
    out: &mut [f32],
) -> Seen {
    // SAFETY: `out` has room for the scores and a vector more, which the caller checked.
    unsafe {
        let (mut kept, mut masked) = (0, 0);
        // 0·x is 0, or NaN where x is not finite.
        let (mut bad, zero, bound) = (V::splat(0.0), V::splat(0.0), V::splat(low));
        let ((xs, x_tail), (ms, m_tail)) = (scores.as_chunks(), mask.as_chunks());
        // The padding is masked out, and finite.
        let (x_tail, m_tail) = ([padded(x_tail, 0.0)], [padded(m_tail, false)]);
        for (x, m) in xs.iter().chain(&x_tail).zip(ms.iter().chain(&m_tail)) {
            let (v, m) = (V::load(x.as_ptr()), flags(m));
            bad = v.fma(zero, bad);
            let bits = v.ge(bound) & m;
            v.pack(bits, out.as_mut_ptr().add(kept));
            kept += bits.count_ones() as usize;
            masked += m.count_ones() as usize;
        }
        Seen { kept, masked, finite: bad.sum_with_tail(&[], |t| t) == 0.0 }
    }
}

/// The `n` scores at `src` that lie in [low, high), low over −∞, to `out`; how many, and how many lie
/// at or above `high`. `out` may be `src`: a vector is read before it is written over.
#[inline(always)]
pub(super) unsafe fn between<V: Sift>(
    src: *const f32,
    n: usize,
    low: f32,
    high: f32,
    out: *mut f32,
) -> (usize, usize) {
    // SAFETY: both are n scores long, `out` a vector more, which the callers checked.
    unsafe {
        let (mut kept, mut above) = (0, 0);
        let (lows, highs) = (V::splat(low), V::splat(high));
        let whole = n - n % LANES;
        // Padding of −∞ is under every bound.
        let last = padded(std::slice::from_raw_parts(src.add(whole), n - whole), f32::NEG_INFINITY);
        for i in (0..n).step_by(LANES) {
            let v = V::load(if i < whole { src.add(i) } else { last.as_ptr() });
            let over = v.ge(highs);
            let bits = v.ge(lows) & !over;
            v.pack(bits, out.add(kept));
            kept += bits.count_ones() as usize;
            above += over.count_ones() as usize;
        }
        (kept, above)
    }
}

/// How many of the scores are ≥ `bound`, which is finite.
#[inline(always)]
pub(super) unsafe fn count<V: Sift>(scores: &[f32], bound: f32) -> usize {
    // SAFETY: whole vectors, and a padded one.
    unsafe {
        let bounds = V::splat(bound);
        let (xs, tail) = scores.as_chunks();
        let last = [padded(tail, f32::NEG_INFINITY)];
        let mut count = 0;
        for x in xs.iter().chain(&last) {
            count += V::load(x.as_ptr()).ge(bounds).count_ones() as usize;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::isa::{Isa, Simd};

    #[test]
    fn every_isa_keeps_what_a_filter_keeps() {
        let scores: Vec<f32> = (0..300_u32).map(|i| ((i * 7919) % 101) as f32 - 50.0).collect();
        let mask: Vec<bool> = (0..300).map(|i| i % 3 != 1).collect();
        for simd in Isa::ALL.into_iter().filter_map(Simd::new) {
            for n in [0, 1, 15, 16, 17, 300] {
                let (s, m) = (&scores[..n], &mask[..n]);
                let mut out = vec![0.0; n + LANES];
                for low in [f32::MIN, -50.0, 0.0, 20.0, 51.0] {
                    let seen = simd.keep(s, m, low, &mut out);
                    let expected: Vec<f32> =
                        s.iter().zip(m).filter(|(s, m)| **m && **s >= low).map(|p| *p.0).collect();
                    assert_eq!(out[..seen.kept], expected, "{simd:?}");
                    assert_eq!(seen.masked, m.iter().filter(|m| **m).count());
                    assert!(seen.finite);
                    let (kept, above) = simd.between(s, low, 30.0, &mut out);
                    let expected: Vec<f32> =
                        s.iter().copied().filter(|s| *s >= low && *s < 30.0).collect();
                    assert_eq!(out[..kept], expected, "{simd:?}");
                    assert_eq!(above, s.iter().filter(|s| **s >= 30.0).count());
                    assert_eq!(above, simd.count(s, 30.0));
                    out[..n].copy_from_slice(s);
                    assert_eq!(simd.sift(&mut out, n, low, 30.0), kept);
                    assert_eq!(out[..kept], expected, "{simd:?}");
                }
            }
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 37, 299] {
                    let (mut s, mut out) = (scores.clone(), vec![0.0; 300 + LANES]);
                    s[at] = bad;
                    assert!(!simd.keep(&s, &mask, 0.0, &mut out).finite, "{simd:?}");
                }
            }
        }
    }
}
