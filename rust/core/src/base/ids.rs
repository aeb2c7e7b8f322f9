//! Sets of queries that a split may not share.

use sha2::{Digest, Sha256};

use crate::base::error::{Error, Result};

/// A set of query ids, as sorted 64-bit prefixes of their SHA-256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet(Vec<u64>);

impl IdSet {
    /// From the ids.
    pub fn new(ids: &[String]) -> Self {
        Self::from_hashes(ids.iter().map(|id| Self::hash(id)).collect())
    }

    /// From stored hashes.
    pub fn from_hashes(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        Self(hashes)
    }

    fn hash(id: &str) -> u64 {
        let digest = Sha256::digest(id);
        u64::from_be_bytes(digest[..8].try_into().expect("eight of 32 bytes"))
    }

    /// The stored hashes.
    pub fn hashes(&self) -> &[u64] {
        &self.0
    }

    /// Refuse ids that are in the set.
    pub fn check_disjoint(&self, used_in: &'static str, what: &str, ids: &[String]) -> Result<()> {
        let shared: Vec<&String> =
            ids.iter().filter(|id| self.0.binary_search(&Self::hash(id)).is_ok()).collect();
        match shared.first() {
            None => Ok(()),
            Some(first) => Err(Error::Overlap {
                what: what.into(),
                used_in,
                count: shared.len(),
                first: (*first).clone(),
            }),
        }
    }
}
