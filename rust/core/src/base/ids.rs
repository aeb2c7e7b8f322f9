//! Queries that splits may not share: by id, and by what they say.

use sha2::{Digest, Sha256};

use crate::base::error::{Error, Result, Same};

/// N queries, as a split names them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named<'a> {
    /// (N,) ids.
    pub ids: &'a [String],
    /// (N, K) keys to remember of what each query says, whatever its id; empty where that is unknown.
    pub kept: &'a [u64],
    /// (N, K) keys by which each is looked up; empty where that is unknown.
    pub asked: &'a [u64],
}

/// A set of queries: sorted 64-bit prefixes of the SHA-256 of their ids, and keys of their content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    ids: Vec<u64>,
    content: Vec<u64>,
}

impl Seen {
    /// From queries.
    pub fn new(queries: &Named) -> Self {
        Self::from_keys(queries.ids.iter().map(|id| hash(id)).collect(), queries.kept.to_vec())
    }

    /// From what was stored.
    pub fn from_keys(ids: Vec<u64>, content: Vec<u64>) -> Self {
        let sorted = |mut keys: Vec<u64>| {
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        Self { ids: sorted(ids), content: sorted(content) }
    }

    /// Both sets as one.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_keys(
            [&self.ids[..], &other.ids].concat(),
            [&self.content[..], &other.content].concat(),
        )
    }

    /// Keys of the ids.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Keys of the content; none in files of before it was kept.
    pub fn content(&self) -> &[u64] {
        &self.content
    }

    /// Which of the queries are in the set, and by what, (N,).
    pub fn shared(&self, queries: &Named) -> Vec<Option<Same>> {
        let width = queries.asked.len().checked_div(queries.ids.len()).unwrap_or(0);
        let known = |keys: &[u64]| keys.iter().any(|k| self.content.binary_search(k).is_ok());
        let one = |(i, id): (usize, &String)| {
            if self.ids.binary_search(&hash(id)).is_ok() {
                return Some(Same::Id);
            }
            known(&queries.asked[i * width..(i + 1) * width]).then_some(Same::Content)
        };
        queries.ids.iter().enumerate().map(one).collect()
    }

    /// Refuse queries that are in the set.
    pub fn check_disjoint(&self, used_in: &'static str, what: &str, q: &Named) -> Result<()> {
        let found = self.shared(q);
        for same in [Same::Id, Same::Content] {
            let shared = || found.iter().zip(q.ids).filter(|(s, _)| **s == Some(same));
            if let Some((_, first)) = shared().next() {
                let (what, first, count) = (what.into(), first.clone(), shared().count());
                return Err(Error::Overlap { what, used_in, same, count, first });
            }
        }
        Ok(())
    }
}

fn hash(id: &str) -> u64 {
    let digest = Sha256::digest(id);
    u64::from_be_bytes(digest[..8].try_into().expect("eight of 32 bytes"))
}
