//! What a selection answers.

/// A wanted order statistic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// The score.
    Score(f32),
    /// Fewer masked scores than the rank asks for.
    TooFew,
    /// The row changed while it was read.
    Unstable,
}

/// The first score that is not finite, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite(pub usize);
