//! Which instructions this processor has, and which path is taken.
//!
//! In: the processor, and `CR2FAST_SIMD`. Out: a [`Simd`], on which the kernels are methods.

use std::sync::OnceLock;

use crate::base::error::{Error, Result};

/// Instruction sets that have a path of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Portable Rust, one lane at a time.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
    /// AArch64.
    Neon,
}

impl Isa {
    /// All of them, slowest first.
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

/// An instruction set that this processor is known to run: the proof that calling its code is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd(Isa);

impl Simd {
    /// The one asked for, when the processor has it.
    pub fn new(isa: Isa) -> Option<Self> {
        isa.is_available().then_some(Self(isa))
    }

    /// The best instruction set here, or the one that the environment variable `CR2FAST_SIMD` names
    /// (`scalar`, `avx2`, `avx512`, `neon`). Decided once a process. A name that is none of these, or
    /// one that this processor does not have, is an error.
    pub fn best() -> Result<Self> {
        static BEST: OnceLock<std::result::Result<Simd, String>> = OnceLock::new();
        let best = BEST.get_or_init(|| match std::env::var("CR2FAST_SIMD") {
            Ok(asked) if !asked.is_empty() => {
                let named = Isa::ALL.into_iter().find(|isa| isa.name() == asked);
                named.and_then(Self::new).ok_or(asked)
            }
            Err(std::env::VarError::NotUnicode(_)) => Err("bytes that are no text".into()),
            _ => Ok(Isa::ALL.into_iter().rev().find_map(Self::new).unwrap_or(Self(Isa::Scalar))),
        });
        best.clone().map_err(|asked| {
            let here = Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Isa::name);
            let here = here.collect::<Vec<_>>().join(", ");
            let asked: String = asked.chars().take(40).collect();
            let expected = format!("unset, or what this processor has ({here})");
            Error::argument("environment variable CR2FAST_SIMD", expected, format!("{asked:?}"))
        })
    }

    /// Which one this is.
    pub fn isa(self) -> Isa {
        self.0
    }
}
