//! The one dispatch: from a [`Simd`] to the loops compiled for its instruction set.
//!
//! In: arguments, checked here. Out: the answer of the generic loop in `layers.rs` or `filter.rs`, which is
//! the same bits on every instruction set.

use super::filter::{self, Seen};
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_imports))]
use super::isa::Isa;
use super::isa::Simd;
use super::lanes::{self, LANES};
use super::layers::{self, ABREAST, TOGETHER};
use super::packed::{Data, Packed, PaddedVec};

/// Instantiate the generic loops for one instruction set, with tiles of rows by blocks for weights stored
/// one by one and in pairs, and the blocks that a single row takes at once.
macro_rules! instances {
    ($name:ident, $lanes:ty, [$($features:literal)?], [$r:literal, $b:literal], [$pr:literal, $pb:literal], $b1:literal) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $features)])?
            pub fn center(x: &[f32], out: &mut [f32]) -> f32 {
                // SAFETY: this function is compiled for the instructions it uses.
                unsafe { layers::center::<$lanes>(x, out) }
            }
            $(#[target_feature(enable = $features)])?
            pub fn dense(w: &Packed, x: &[f32], scale: &[f32], out: &mut [f32]) {
                // SAFETY: as above; sizes were checked by the safe wrapper.
                unsafe {
                    match w.data() {
                        Data::Single(p) => {
                            layers::dense::<$lanes, f32, $r, $b, $b1, 1>(w, p, x, scale, out);
                        }
                        Data::Paired(p) => {
                            layers::dense::<$lanes, u32, $pr, $pb, $b1, 2>(w, p, x, scale, out);
                        }
                    }
                }
            }
            $(#[target_feature(enable = $features)])?
            pub fn film_gelu_dot(u: &[f32], g: &PaddedVec, s: &PaddedVec, w2: &PaddedVec) -> f32 {
                // SAFETY: as above.
                unsafe { layers::film_gelu_dot::<$lanes>(u, g, s, w2) }
            }
            $(#[target_feature(enable = $features)])?
            pub fn pool(table: &[i8], scales: &[f32], tokens: &[u32], out: &mut [f32]) -> f32 {
                // SAFETY: as above.
                unsafe { layers::pool::<$lanes>(table, scales, tokens, out) }
            }
            $(#[target_feature(enable = $features)])?
            pub fn four_dots(columns: &[[f32; 4]], x: &[f32]) -> [f64; 4] {
                layers::four_dots(columns, x)
            }
            $(#[target_feature(enable = $features)])?
            pub fn squares_off(
                columns: &[[f64; TOGETHER]],
                offsets: &[f32],
                rows: &[(&[f32], f64); ABREAST],
            ) -> [f64; ABREAST] {
                layers::squares_off(columns, offsets, rows)
            }
            $(#[target_feature(enable = $features)])?
            pub fn keep(scores: &[f32], mask: &[bool], low: f32, out: &mut [f32]) -> Seen {
                // SAFETY: as above.
                unsafe { filter::keep::<$lanes>(scores, mask, low, out) }
            }
            /// # Safety
            ///
            /// `src` holds `n` scores, `out` a vector more; they may be one buffer.
            $(#[target_feature(enable = $features)])?
            pub unsafe fn between(
                src: *const f32,
                n: usize,
                low: f32,
                high: f32,
                out: *mut f32,
            ) -> (usize, usize) {
                // SAFETY: as above, and as the caller promises.
                unsafe { filter::between::<$lanes>(src, n, low, high, out) }
            }
            $(#[target_feature(enable = $features)])?
            pub fn count(scores: &[f32], bound: f32) -> usize {
                // SAFETY: as above.
                unsafe { filter::count::<$lanes>(scores, bound) }
            }
        }
    };
}

instances!(scalar, lanes::Scalar, [], [1, 1], [1, 2], 2);
#[cfg(target_arch = "x86_64")]
instances!(avx2, lanes::Avx2, ["avx2,fma,popcnt"], [6, 1], [2, 2], 4);
#[cfg(target_arch = "x86_64")]
instances!(avx512, lanes::Avx512, ["avx512f,popcnt"], [6, 4], [6, 4], 4);
#[cfg(target_arch = "aarch64")]
instances!(neon, lanes::Neon, ["neon"], [4, 1], [2, 2], 4);

/// The portable instance; of its loops one alone is unsafe to call.
macro_rules! portable {
    (between, $args:tt) => {
        unsafe { scalar::between $args }
    };
    ($kernel:ident, $args:tt) => {
        scalar::$kernel $args
    };
}

/// Call the instance of a loop that belongs to the processor's instruction set.
macro_rules! dispatch {
    ($simd:expr, $kernel:ident, ($($arg:expr),*)) => {
        // SAFETY (all arms): a `Simd` exists only for an instruction set that the processor runs; sizes
        // were checked by the caller of this macro.
        match $simd.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::$kernel($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::$kernel($($arg),*) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::$kernel($($arg),*) },
            _ => portable!($kernel, ($($arg),*)),
        }
    };
}

#[allow(clippy::undocumented_unsafe_blocks)] // Each stands in `dispatch!`, which documents them.
impl Simd {
    /// Centre a row into `out` and return LayerNorm's 1/σ.
    pub fn center(self, x: &[f32], out: &mut [f32]) -> f32 {
        assert!(!x.is_empty() && out.len() >= x.len());
        dispatch!(self, center, (x, out))
    }

    /// `out[r] = scale[r] · W x[r]` for each of `scale.len()` rows.
    pub fn dense(self, w: &Packed, x: &[f32], scale: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), scale.len() * w.inputs());
        assert_eq!(out.len(), scale.len() * w.padded_outputs());
        dispatch!(self, dense, (w, x, scale, out));
    }

    /// Σ_o w2_o · GELU(γ_o·u_o + δ_o) over whole blocks; padding has w2 = 0.
    pub fn film_gelu_dot(
        self,
        u: &[f32],
        gamma: &PaddedVec,
        shift: &PaddedVec,
        w2: &PaddedVec,
    ) -> f32 {
        assert_eq!(u.len(), gamma.blocks() * LANES);
        assert!(gamma.blocks() == shift.blocks() && gamma.blocks() == w2.blocks());
        dispatch!(self, film_gelu_dot, (u, gamma, shift, w2))
    }

    /// Add the tokens' scaled rows of `table` to `out` (zeros before), make it unit length, and
    /// return the square of its length before. A row is as wide as `out`, in whole blocks.
    pub fn pool(self, table: &[i8], scales: &[f32], tokens: &[u32], out: &mut [f32]) -> f32 {
        assert!(out.len().is_multiple_of(LANES) && table.len() == scales.len() * out.len());
        assert!(tokens.iter().all(|t| (*t as usize) < scales.len()));
        dispatch!(self, pool, (table, scales, tokens, out))
    }

    /// Σᵢ aⱼᵢ·xᵢ of four aⱼ, which `columns` holds as (d, 4).
    pub fn four_dots(self, columns: &[[f32; 4]], x: &[f32]) -> [f64; 4] {
        dispatch!(self, four_dots, (columns, x))
    }

    /// Σⱼ (aⱼ·x·s − bⱼ)² of rows x of one width d with factors s; `columns` are the aⱼ as (m/8, d, 8).
    pub fn squares_off(
        self,
        columns: &[[f64; TOGETHER]],
        offsets: &[f32],
        rows: &[(&[f32], f64); ABREAST],
    ) -> [f64; ABREAST] {
        assert!(rows.iter().all(|(x, _)| x.len() == rows[0].0.len()));
        dispatch!(self, squares_off, (columns, offsets, rows))
    }

    /// Copy the masked scores that are ≥ `low` to the front of `out`, in order.
    /// `out` is longer than `scores` by [`LANES`] at least.
    pub(crate) fn keep(self, scores: &[f32], mask: &[bool], low: f32, out: &mut [f32]) -> Seen {
        assert!(scores.len() == mask.len() && out.len() >= scores.len() + LANES);
        dispatch!(self, keep, (scores, mask, low, out))
    }

    /// Copy the scores in [low, high), low over −∞, to the front of `out`; how many they are, and how
    /// many lie at or above `high`. `out` as above.
    pub(crate) fn between(
        self,
        scores: &[f32],
        low: f32,
        high: f32,
        out: &mut [f32],
    ) -> (usize, usize) {
        assert!(low > f32::NEG_INFINITY && out.len() >= scores.len() + LANES);
        dispatch!(self, between, (scores.as_ptr(), scores.len(), low, high, out.as_mut_ptr()))
    }

    /// The same for the first `n` scores of a buffer, in place; how many stay.
    pub(crate) fn sift(self, buffer: &mut [f32], n: usize, low: f32, high: f32) -> usize {
        assert!(low > f32::NEG_INFINITY && buffer.len() >= n + LANES);
        let p = buffer.as_mut_ptr();
        dispatch!(self, between, (p.cast_const(), n, low, high, p)).0
    }

    /// How many scores are ≥ `bound`, which is finite.
    pub(crate) fn count(self, scores: &[f32], bound: f32) -> usize {
        assert!(bound.is_finite());
        dispatch!(self, count, (scores, bound))
    }
}
