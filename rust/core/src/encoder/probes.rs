//! Probes: a few texts and their embeddings, by which an encoder is known that no file's hash names.
//!
//! In: texts and vectors of the encoder that a router was fitted with. Out: how far another one's are. A
//! router's thresholds hold for margins, and a margin moves with the embedding: an endpoint that rounds
//! as the last digits of another processor or of half precision do is the same encoder for them, one
//! with other weights, another quantisation, pooling, prefix or cut of long texts is not.

use crate::base::checks::{check_finite, check_len};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_WIDTH;
use crate::encoder::endpoint::is_unit;

/// Probes of one router at most.
pub const MAX_PROBES: usize = 64;
/// Bytes of their texts at most.
const MAX_BYTES: usize = 1 << 20;
/// How far, |e' − e| / |e|, a probe's vector may be from the one kept. Measured on the int8
/// MiniLM: another processor moves it by at most 4e-6, rounding it to half precision by 2e-4, a prefix by
/// 0.12 to 0.39, another cut of a long text by 0.41 to 0.55.
pub const PROBE_TOLERANCE: f64 = 5e-3;

/// Texts and their embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Probes {
    texts: Vec<String>,
    vectors: Vec<f32>,
    /// Characters that the encoder reads of a text at most, both ends together.
    max_chars: usize,
}

impl Probes {
    /// Of `texts` (n,) and `vectors` (n, d).
    pub fn new(texts: Vec<String>, vectors: Vec<f32>, max_chars: usize) -> Result<Self> {
        let n = texts.len();
        if !(1..=MAX_PROBES).contains(&n) {
            return Err(Error::argument("probes", format!("1 to {MAX_PROBES} texts"), n));
        }
        let bytes: usize = texts.iter().map(String::len).sum();
        if bytes > MAX_BYTES {
            return Err(Error::argument("probes", format!("at most {MAX_BYTES} bytes"), bytes));
        }
        if vectors.is_empty() || !vectors.len().is_multiple_of(n) || vectors.len() / n > MAX_WIDTH {
            let expected = format!("({n}, d) numbers, d from 1 to {MAX_WIDTH}");
            return Err(Error::argument("probes", expected, vectors.len()));
        }
        check_finite("probes", &vectors)?;
        if max_chars < 2 {
            return Err(Error::argument("probes", "at least 2 characters of a text", max_chars));
        }
        let made = Self { texts, vectors, max_chars };
        if made.iter().any(|(_, v)| v.iter().all(|x| *x == 0.0)) {
            return Err(Error::argument("probes", "vectors that are not all 0", "one of zeros"));
        }
        Ok(made)
    }

    /// Embedding width d.
    pub fn dim(&self) -> usize {
        self.vectors.len() / self.texts.len()
    }

    /// Their texts.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Their vectors (n, d).
    pub fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// Characters that the encoder reads of a text at most, both ends together.
    pub fn max_chars(&self) -> usize {
        self.max_chars
    }

    /// Text and vector of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.texts.iter().map(String::as_str).zip(self.vectors.chunks_exact(self.dim()))
    }

    /// Whether the encoder's vectors have unit length.
    pub fn are_units(&self) -> bool {
        self.iter().all(|(_, v)| is_unit(v))
    }

    /// How far probe `i`'s vector is from another one, relative to its length.
    pub fn distance(&self, i: usize, other: &[f32]) -> Result<f64> {
        let kept = &self.vectors[i * self.dim()..(i + 1) * self.dim()];
        check_len("probe's embedding", kept.len(), other.len())?;
        let square = |x: f64| x * x;
        let (mut apart, mut long) = (0.0, 0.0);
        for (a, b) in kept.iter().zip(other) {
            apart += square(f64::from(*a) - f64::from(*b));
            long += square(f64::from(*a));
        }
        Ok((apart / long).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(vectors: &[f32]) -> Result<Probes> {
        Probes::new(vec!["a".into(), "b".into()], vectors.to_vec(), 8)
    }

    #[test]
    fn distances_are_relative() {
        let p = probes(&[3.0, 4.0, 0.0, 2.0]).unwrap();
        assert_eq!((p.dim(), p.are_units()), (2, false));
        assert_eq!(p.distance(0, &[3.0, 4.0]).unwrap(), 0.0);
        assert_eq!(p.distance(0, &[0.0, 0.0]).unwrap(), 1.0);
        assert_eq!(p.distance(1, &[0.0, 3.0]).unwrap(), 0.5);
        assert!(p.distance(1, &[0.0]).is_err());
        assert!(probes(&[0.6, 0.8, 0.0, 1.0]).unwrap().are_units());
    }

    #[test]
    fn what_is_no_set_of_probes_is_refused() {
        for bad in [&[][..], &[1.0, 2.0, 3.0], &[1.0, f32::NAN], &[1.0, 0.0]] {
            assert!(probes(bad).is_err(), "{bad:?}");
        }
        assert!(Probes::new(vec![], vec![1.0], 8).is_err());
        assert!(Probes::new(vec!["a".into()], vec![1.0], 1).is_err());
        assert!(Probes::new(vec!["a".repeat(1 << 21)], vec![1.0], 8).is_err());
        assert!(Probes::new(vec![String::new(); 65], vec![1.0; 65], 8).is_err());
    }
}
