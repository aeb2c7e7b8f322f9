//! Saved states: a name, numbers of eight bytes, and a hash.
//!
//! In: the numbers of a state. Out: bytes, the same for the same numbers; and the numbers back, once
//! the length is right and the hash agrees. What the numbers may be, their owner checks.

use sha2::{Digest, Sha256};

use crate::base::error::{Error, Result};

/// Bytes of the name at the start.
const NAME: usize = 24;
/// Bytes of the hash at the end.
const HASH: usize = 32;

/// Numbers on their way into bytes.
pub struct Writer(Vec<u8>);

impl Writer {
    /// A state called `name`, at most 24 ASCII characters.
    pub fn new(name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        debug_assert!(bytes.len() <= NAME);
        bytes.resize(NAME, 0);
        Self(bytes)
    }

    /// Add a double.
    pub fn f64(&mut self, x: f64) -> &mut Self {
        self.u64(x.to_bits())
    }

    /// Add a count.
    pub fn u64(&mut self, x: u64) -> &mut Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    /// The bytes, hashed.
    pub fn finish(mut self) -> Vec<u8> {
        let hash = Sha256::digest(&self.0);
        self.0.extend(hash);
        self.0
    }
}

/// Numbers on their way back.
pub struct Reader<'a> {
    what: &'static str,
    words: std::slice::Iter<'a, [u8; 8]>,
}

impl<'a> Reader<'a> {
    /// Open the state called `name`; `what` names it in errors, `size` says how many numbers it holds,
    /// once the count in front (0 without one) is known.
    pub fn open(
        name: &str,
        what: &'static str,
        bytes: &'a [u8],
        size: impl Fn(u64) -> Option<usize>,
    ) -> Result<Self> {
        let wrong = |expected: &str, got: String| Err(Error::state(what, expected, got));
        let Some((body, hash)) = bytes.split_last_chunk::<HASH>() else {
            return wrong("a saved state", format!("{} bytes", bytes.len()));
        };
        let Some((start, numbers)) = body.split_first_chunk::<NAME>() else {
            return wrong("a saved state", format!("{} bytes", bytes.len()));
        };
        let mut named = [0; NAME];
        named[..name.len()].copy_from_slice(name.as_bytes());
        if *start != named {
            let got: String = String::from_utf8_lossy(start).escape_default().take(60).collect();
            return wrong(&format!("a state that starts with \"{name}\""), format!("\"{got}\""));
        }
        let (words, rest) = numbers.as_chunks::<8>();
        let count = words.first().map_or(0, |w| u64::from_le_bytes(*w));
        if size(count) != Some(words.len()) || !rest.is_empty() {
            let got = format!("{} bytes", bytes.len());
            return wrong("a state of the length that its first number says", got);
        }
        if Sha256::digest(body)[..] != hash[..] {
            return wrong("a state whose hash agrees", "a damaged one".into());
        }
        Ok(Self { what, words: words.iter() })
    }

    /// The next count.
    pub fn u64(&mut self) -> u64 {
        // The length was checked.
        self.words.next().map_or(0, |w| u64::from_le_bytes(*w))
    }

    /// The next double.
    pub fn f64(&mut self) -> f64 {
        f64::from_bits(self.u64())
    }

    /// Refuse a state that nothing could have saved.
    pub fn check(&self, good: bool, expected: &str, got: impl ToString) -> Result<()> {
        if good { Ok(()) } else { Err(Error::state(self.what, expected, got)) }
    }
}
