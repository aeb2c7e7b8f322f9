//! Loops compiled for an instruction set, and the choice between them.
//!
//! In: the core's [`Simd`], which obeys `CR2FAST_SIMD`, and a loop. Out: the loop's result. All
//! instances of a loop give the same bits: the compiler neither reorders its additions nor fuses
//! them with products. Matrix products are the library's (`gemm`), which chooses for itself.

#[cfg(target_arch = "x86_64")]
use cr2fast_core::Isa;
use cr2fast_core::Simd;

/// A loop; `run` is inlined into each function that enables instructions.
pub trait Loop {
    /// What comes out.
    type Out;

    /// Go through it.
    fn run(self) -> Self::Out;
}

/// Go through a loop with the instructions of `simd`.
#[inline]
pub fn run<L: Loop>(simd: Simd, body: L) -> L::Out {
    match simd.isa() {
        // SAFETY: a `Simd` exists only for instructions that the processor runs, and every processor
        // with AVX-512F has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => unsafe { run_avx2(body) },
        // NEON is part of every AArch64 target: the plain instance uses it.
        _ => body.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<L: Loop>(body: L) -> L::Out {
    body.run()
}
