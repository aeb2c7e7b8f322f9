//! Sixteen virtual lanes of f32, on every instruction set.
//!
//! One trait, four implementations: an array, two AVX2 registers, one AVX-512 register, four NEON
//! registers. All operations are IEEE-exact and lane-wise, so a kernel written against [`Lanes`]
//! gives the same bits on each.

// As in the kernels that use them.
#![allow(clippy::inline_always)]

/// Width of the virtual vector.
pub const LANES: usize = 16;

/// A virtual vector.
pub trait Lanes: Copy {
    /// All lanes the same.
    unsafe fn splat(x: f32) -> Self;
    /// Read sixteen floats, unaligned.
    unsafe fn load(p: *const f32) -> Self;
    /// Write sixteen floats, unaligned.
    unsafe fn store(self, p: *mut f32);
    /// Read sixteen bytes as floats.
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: the caller owns sixteen bytes at p. A loop, which the compiler turns into the
        // caller's instructions.
        unsafe {
            let bytes = p.cast::<[i8; LANES]>().read_unaligned();
            let mut floats = [0.0_f32; LANES];
            for j in 0..LANES {
                floats[j] = f32::from(bytes[j]);
            }
            Self::load(floats.as_ptr())
        }
    }
    /// Read sixteen words that hold two numbers each, in the precision of bfloat16: a float's upper
    /// half. First those in the lower halves, then those in the upper.
    #[inline(always)]
    unsafe fn load_pair(p: *const u32) -> [Self; 2] {
        // SAFETY: the caller owns sixteen words at p. As above.
        unsafe {
            let words = p.cast::<[u32; LANES]>().read_unaligned();
            let (mut low, mut high) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for j in 0..LANES {
                low[j] = f32::from_bits(words[j] << 16);
                high[j] = f32::from_bits(words[j] & 0xffff_0000);
            }
            [Self::load(low.as_ptr()), Self::load(high.as_ptr())]
        }
    }
    /// a + b.
    unsafe fn add(self, b: Self) -> Self;
    /// a − b.
    unsafe fn sub(self, b: Self) -> Self;
    /// a · b.
    unsafe fn mul(self, b: Self) -> Self;
    /// a / b.
    unsafe fn div(self, b: Self) -> Self;
    /// a · b + c, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// Lane-wise minimum (no NaN).
    unsafe fn min(self, b: Self) -> Self;
    /// Lane-wise maximum (no NaN).
    unsafe fn max(self, b: Self) -> Self;

    /// Sum of all lanes after adding `f(tail[j])` to lane j, by one fixed tree.
    #[inline(always)]
    unsafe fn sum_with_tail(self, tail: &[f32], f: impl Fn(f32) -> f32) -> f32 {
        let mut s = [0.0_f32; LANES];
        // SAFETY: s has sixteen places.
        unsafe { self.store(s.as_mut_ptr()) };
        for (s, t) in s.iter_mut().zip(tail) {
            *s += f(*t);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for j in 0..width {
                s[j] += s[j + width];
            }
            width /= 2;
        }
        s[0]
    }
}

/// Portable lanes; `mul_add` is the correctly rounded fused operation on any target.
#[derive(Clone, Copy)]
pub struct Scalar(pub [f32; LANES]);

impl Scalar {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|j| f(self.0[j], b.0[j])))
    }
}

impl Lanes for Scalar {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller owns sixteen floats at p.
        Self(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as for load.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.zip(b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.zip(b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.zip(b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|j| self.0[j].mul_add(b.0[j], c.0[j])))
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        self.zip(b, f32::min)
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.zip(b, f32::max)
    }
}

/// Implement [`Lanes`] over `$n` registers of `$w` floats from a table of intrinsics.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! registers {
    ($(#[$doc:meta])* $name:ident, $reg:ty, $n:literal, $w:literal, $arch:ident,
     $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
     $min:ident, $max:ident, |$a:ident, $b:ident, $c:ident| $fma:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name(pub [$reg; $n]);

        // No closures here: code that is not inlined into the caller loses the caller's instructions.
        // SAFETY (all blocks): callers run inside a function compiled for these instructions, on a
        // processor that has them; pointers address sixteen floats.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Lanes for $name {
            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                unsafe { Self([$arch::$splat(x); $n]) }
            }
            #[inline(always)]
            unsafe fn load(p: *const f32) -> Self {
                let mut out = unsafe { Self::splat(0.0) };
                for j in 0..$n {
                    out.0[j] = unsafe { $arch::$load(p.add(j * $w)) };
                }
                out
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32) {
                for j in 0..$n {
                    unsafe { $arch::$store(p.add(j * $w), self.0[j]) }
                }
            }
            #[inline(always)]
            unsafe fn add(mut self, b: Self) -> Self {
                for j in 0..$n {
                    self.0[j] = unsafe { $arch::$add(self.0[j], b.0[j]) };
                }
                self
            }
            #[inline(always)]
            unsafe fn sub(mut self, b: Self) -> Self {
                for j in 0..$n {
                    self.0[j] = unsafe { $arch::$sub(self.0[j], b.0[j]) };
                }
                self
            }
            #[inline(always)]
            unsafe fn mul(mut self, b: Self) -> Self {
                for j in 0..$n {
                    self.0[j] = unsafe { $arch::$mul(self.0[j], b.0[j]) };
                }
                self
            }
            #[inline(always)]
            unsafe fn div(mut self, b: Self) -> Self {
                for j in 0..$n {
                    self.0[j] = unsafe { $arch::$div(self.0[j], b.0[j]) };
                }
                self
            }
            #[inline(always)]
            unsafe fn fma(mut self, b: Self, c: Self) -> Self {
                for j in 0..$n {
                    let ($a, $b, $c) = (self.0[j], b.0[j], c.0[j]);
                    self.0[j] = unsafe { $fma };
                }
                self
            }
            #[inline(always)]
            unsafe fn min(mut self, b: Self) -> Self {
                for j in 0..$n {
                    self.0[j] = unsafe { $arch::$min(self.0[j], b.0[j]) };
                }
                self
            }
            #[inline(always)]
            unsafe fn max(mut self, b: Self) -> Self {
                for j in 0..$n {
                    self.0[j] = unsafe { $arch::$max(self.0[j], b.0[j]) };
                }
                self
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64;

#[cfg(target_arch = "x86_64")]
registers!(
    /// Two AVX2 registers.
    Avx2, x86_64::__m256, 2, 8, x86_64,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps,
    _mm256_div_ps, _mm256_min_ps, _mm256_max_ps, |a, b, c| x86_64::_mm256_fmadd_ps(a, b, c)
);

#[cfg(target_arch = "x86_64")]
registers!(
    /// One AVX-512 register.
    Avx512, x86_64::__m512, 1, 16, x86_64,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps,
    _mm512_div_ps, _mm512_min_ps, _mm512_max_ps, |a, b, c| x86_64::_mm512_fmadd_ps(a, b, c)
);

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64;

#[cfg(target_arch = "aarch64")]
registers!(
    /// Four NEON registers.
    Neon, aarch64::float32x4_t, 4, 4, aarch64,
    vdupq_n_f32, vld1q_f32, vst1q_f32, vaddq_f32, vsubq_f32, vmulq_f32, vdivq_f32, vminq_f32,
    vmaxq_f32, |a, b, c| aarch64::vfmaq_f32(c, a, b)
);
