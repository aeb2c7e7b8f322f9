//! Where wanted scores are looked for.
//!
//! In: for each rank, two scores that should enclose the wanted one. Out: disjoint ranges, which the
//! pass over the row ([`crate::ranks::select`]) fills and counts.

/// Values [low, high), and what was found in them.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub low: f32,
    pub high: f32,
    /// Scores of the range.
    pub kept: usize,
    /// Scores at or above `high`.
    pub above: usize,
}

/// Disjoint ranges, the highest first.
#[derive(Default)]
pub(crate) struct Brackets {
    pub ranges: Vec<Range>,
    /// Which range serves each rank.
    pub serves: Vec<usize>,
    /// Whether the ranges hold more than there is room for, or are none.
    pub overflow: bool,
}

impl Brackets {
    /// A range for the next rank; overlapping ranges become one.
    pub fn add(&mut self, low: f32, high: f32) {
        // Where ties hold both ends, the bracket is that one score.
        let high = high.max(low.next_up());
        match self.ranges.last_mut() {
            Some(last) if high >= last.low => last.low = last.low.min(low),
            _ => self.ranges.push(Range { low, high, kept: 0, above: 0 }),
        }
        self.serves.push(self.ranges.len() - 1);
    }
}
