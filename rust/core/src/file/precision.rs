//! The number type of weight matrices in a file.
//!
//! In: float32 weights. Out: the nearest numbers of a type, still as float32, and their bytes. Each
//! type's numbers are float32's too, so a router computes with what its file holds.

use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};

/// A type of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits of significand.
    #[default]
    Float32,
    /// IEEE half precision: 11 bits, numbers up to 65504.
    Float16,
    /// A float32's upper half: 8 bits, its whole range. The kernels read these
    /// numbers as they are, two to a word, so that decisions are quicker too.
    Bfloat16,
}

impl Precision {
    /// All types.
    pub const ALL: [Self; 3] = [Self::Float32, Self::Float16, Self::Bfloat16];

    /// Its name in files and calls: NumPy's, or the usual one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }

    /// Whether it is the default, which files do not spell out.
    #[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks for it.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The nearest number of the type to each; one that is too large for it is an error.
    pub fn rounded(self, what: &str, xs: &[f32]) -> Result<Vec<f32>> {
        let nearest = |x: &f32| match self {
            Self::Float32 => *x,
            Self::Float16 => f16::from_f32(*x).to_f32(),
            Self::Bfloat16 => bf16::from_f32(*x).to_f32(),
        };
        let largest = match self {
            Self::Float32 => f32::MAX,
            Self::Float16 => f16::MAX.to_f32(),
            Self::Bfloat16 => bf16::MAX.to_f32(),
        };
        let out: Vec<f32> = xs.iter().map(nearest).collect();
        let Some(at) = out.iter().position(|x| !x.is_finite()) else { return Ok(out) };
        let expected = format!("weights of at most {largest} for {}", self.name());
        Err(Error::argument(what, expected, xs[at]))
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::F32,
            Self::Float16 => Dtype::F16,
            Self::Bfloat16 => Dtype::BF16,
        }
    }

    /// The bytes of numbers that are of the type.
    pub(crate) fn to_bytes(self, xs: &[f32]) -> Vec<u8> {
        match self {
            Self::Float32 => xs.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Float16 => xs.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Self::Bfloat16 => xs.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        }
    }

    /// Numbers of the type from their bytes.
    pub(crate) fn read(self, bytes: &[u8]) -> Vec<f32> {
        let halves = || bytes.as_chunks().0.iter();
        match self {
            Self::Float32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::Float16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::Bfloat16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}
