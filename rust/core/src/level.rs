//! Which instructions this processor has, and which path is taken.
//!
//! In: the processor, and `CR2FAST_SIMD`. Out: a [`Simd`], on which the kernels are methods.

use std::sync::OnceLock;

/// Instruction sets that have a path of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Portable Rust, one lane at a time.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
    /// AArch64.
    Neon,
}

impl Level {
    /// All levels, slowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// Name used by `CR2FAST_SIMD` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && popcnt()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && popcnt(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

/// Every processor with AVX2 counts bits, and the loops that select rely on it.
#[cfg(target_arch = "x86_64")]
fn popcnt() -> bool {
    is_x86_feature_detected!("popcnt")
}

/// A level this processor is known to run: the proof that calling its code is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd(Level);

impl Simd {
    /// The level asked for, when the processor has it.
    pub fn new(level: Level) -> Option<Self> {
        level.is_available().then_some(Self(level))
    }

    /// The best level here, or the one that the environment variable `CR2FAST_SIMD` names
    /// (`scalar`, `avx2`, `avx512`, `neon`) when the processor has it. Decided once a process.
    pub fn best() -> Self {
        static BEST: OnceLock<Simd> = OnceLock::new();
        *BEST.get_or_init(|| {
            let asked = std::env::var("CR2FAST_SIMD").unwrap_or_default();
            let named = Level::ALL.into_iter().find(|l| l.name() == asked).and_then(Self::new);
            named.unwrap_or_else(|| {
                let best = Level::ALL.into_iter().rev().find_map(Self::new);
                let best = best.unwrap_or(Self(Level::Scalar));
                if !asked.is_empty() {
                    let name = best.level().name();
                    eprintln!(
                        "cr2fast: CR2FAST_SIMD={asked} is no path of this processor: using {name}"
                    );
                }
                best
            })
        })
    }

    /// Which level this is.
    pub fn level(self) -> Level {
        self.0
    }
}
