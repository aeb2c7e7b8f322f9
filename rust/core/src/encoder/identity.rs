//! Who made an embedding.

use crate::base::error::{Error, Result, shown};

/// The frozen encoder whose embeddings the weights were fitted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderInfo {
    /// A name for people.
    pub id: String,
    /// SHA-256 of its model file, lower-case hex; empty when unknown.
    pub sha256: String,
}

impl EncoderInfo {
    /// Refuse another encoder. One whose hash nobody knows is compared by name.
    pub fn check(&self, other: &Self) -> Result<()> {
        let same = if self.sha256.is_empty() || other.sha256.is_empty() {
            self.id == other.id
        } else {
            self.sha256 == other.sha256
        };
        if same {
            return Ok(());
        }
        // Each by itself, so that a long name hides no hash.
        let show = |e: &Self| format!("{} (sha256 {:?})", shown(&e.id), shown(&e.sha256));
        Err(Error::Encoder { expected: show(self), got: show(other) })
    }
}
