//! Order statistics of one row, without sorting it.
//!
//! In: scores (N,), a mask, ranks. Out: for each rank the rank-th largest masked score. Memory beyond
//! the input is bounded whatever N is, under 1 MB: a sample, then the kept scores, in one buffer.
//!
//! A sample of evenly spaced cache lines brackets each wanted score between two pivots, a few standard
//! deviations of the sample's noise apart. One pass over the row (`sieve.rs`) then keeps what
//! lies in a bracket and counts what lies above. A bracket that missed is noticed by the counts and
//! made wider; brackets that hold more than the buffer are taken a few at a time. What is then still
//! missing (ties, or an order that defeats the sample) goes through histogram passes (`radix.rs`),
//! slower, which need no luck. All are exact.

use crate::ranks::brackets::Brackets;
use crate::ranks::found::{Found, NotFinite};
use crate::ranks::histogram::by_bits;
use crate::ranks::quickselect::{descending, quickselect};
use crate::simd::isa::Simd;
use crate::simd::lanes::LANES;

/// One cache line in this many is sampled.
const STRIDE: usize = 32;
/// Bounds of the sample's size.
const SAMPLE: (usize, usize) = (256, 1 << 17);
/// Half a bracket's width in standard deviations of the sample; when a score was missed, the wider.
const SIGMAS: [f64; 2] = [3.0, 8.0];
/// Scores kept at most: 660 kB.
const KEPT: usize = 165_000;
/// Scores of one bracket that a selection works on at most: 262 kB.
const SCRATCH: usize = 1 << 16;
/// Scores looked at before the survivors are put into brackets: they stay in the first cache.
const BLOCK: usize = 4096;

/// The selection's buffers, for rows of one length.
pub struct Selector {
    simd: Simd,
    /// The sample, then what is kept of the row.
    kept: Vec<f32>,
    /// Survivors of a block.
    block: Vec<f32>,
    /// Where a selection works.
    scratch: Vec<f32>,
}

impl Selector {
    /// Buffers for rows of `n` scores.
    pub fn new(simd: Simd, n: usize) -> Self {
        // Zeroing what stays unused would show in short rows; growing from a larger start would hold
        // two large buffers at once.
        let kept = if n < 400_000 { (n / 12).max(512) } else { KEPT };
        Self {
            simd,
            kept: vec![0.0; kept + 2 * LANES],
            block: vec![0.0; n.min(BLOCK) + LANES],
            scratch: Vec::new(),
        }
    }

    /// The rank-th largest (from 0) masked score, for each rank in ascending order.
    pub fn largest(
        &mut self,
        scores: &[f32],
        mask: &[bool],
        ranks: &[usize],
    ) -> Result<Vec<Found>, NotFinite> {
        debug_assert!(ranks.is_sorted());
        let mut out = vec![None; ranks.len()];
        let mut waiting = vec![(0, ranks.len(), SIGMAS[0])];
        while let Some((first, end, sigmas)) = waiting.pop() {
            let (ranks, out) = (&ranks[first..end], &mut out[first..end]);
            let mut brackets = self.sample(scores, mask, ranks, sigmas);
            let masked = self.fill(&mut brackets, scores, mask)?;
            if brackets.overflow && ranks.len() > 1 {
                // Brackets widen with the row; fewer at once fit.
                let middle = usize::midpoint(first, end);
                waiting.extend([(first, middle, sigmas), (middle, end, sigmas)]);
            } else if !brackets.overflow {
                self.answer(&brackets, ranks, masked, out);
                if sigmas < SIGMAS[1] && out.contains(&None) {
                    waiting.push((first, end, SIGMAS[1]));
                }
            }
        }
        let missed = |(rank, found): (&usize, &Option<Found>)| found.is_none().then_some(*rank);
        let left: Vec<usize> = ranks.iter().zip(&out).filter_map(missed).collect();
        if left.is_empty() {
            return Ok(out.into_iter().flatten().collect());
        }
        // Histograms take this buffer's place.
        self.scratch = Vec::new();
        let mut found = by_bits(scores, mask, &left).into_iter();
        Ok(out.into_iter().filter_map(|o| o.or_else(|| found.next())).collect())
    }

    /// Brackets of the ranks, from a sample.
    fn sample(&mut self, scores: &[f32], mask: &[bool], ranks: &[usize], sigmas: f64) -> Brackets {
        let n = scores.len();
        let step = n.div_ceil((n / STRIDE).clamp(SAMPLE.0, SAMPLE.1)).max(1);
        let (mut count, mut seen) = (0, 0);
        let rows = scores.as_chunks::<LANES>().0.iter().zip(mask.as_chunks::<LANES>().0);
        let mut lines = rows.step_by(step);
        let mut gathered = [false; BLOCK];
        loop {
            // Gathered first: loads that need no answer of each other wait for memory together.
            let mut size = 0;
            for (x, m) in lines.by_ref().take(BLOCK / LANES) {
                self.block[size..size + LANES].copy_from_slice(x);
                gathered[size..size + LANES].copy_from_slice(m);
                size += LANES;
            }
            if size == 0 {
                break;
            }
            let out = &mut self.kept[count..];
            let sampled = self.simd.keep(&self.block[..size], &gathered[..size], f32::MIN, out);
            if !sampled.finite {
                // The pass will name it; should it be gone by then, the row counts as overflown.
                return Brackets { overflow: true, ..Brackets::default() };
            }
            count += sampled.kept;
            seen += size;
        }
        let rate = seen as f64 / n.max(1) as f64;
        // Of the `rank` scores above the wanted one, each is in the sample with chance `rate`.
        let places = |rank: &usize| {
            let expected = *rank as f64 * rate;
            let width = sigmas * expected.sqrt() + sigmas;
            (expected - width, expected + width)
        };
        // Only the top is put in order.
        let deepest = ranks.last().map_or(0, |r| places(r).1 as usize + 1);
        if deepest < count {
            let bound = self.nth(count, f32::MIN, f32::INFINITY, deepest);
            count = self.simd.sift(&mut self.kept, count, bound, f32::INFINITY);
        }
        let top = &mut self.kept[..count];
        top.sort_unstable_by(descending);
        let mut brackets = Brackets::default();
        for (first, last) in ranks.iter().map(places) {
            let at = |place: f64| top.get(place as usize).copied();
            let low = at(last).unwrap_or(f32::MIN);
            let high = match top.last() {
                // Beyond the sample: below all of it.
                Some(smallest) if first >= 0.0 => at(first).unwrap_or(*smallest),
                _ => f32::INFINITY,
            };
            brackets.add(low, high);
        }
        brackets
    }

    /// The one pass; returns how many scores are masked in.
    fn fill(
        &mut self,
        brackets: &mut Brackets,
        scores: &[f32],
        mask: &[bool],
    ) -> Result<usize, NotFinite> {
        let lowest = brackets.ranges.last().map_or(f32::INFINITY, |r| r.low);
        let (mut masked, mut kept) = (0, 0);
        for (i, (scores, mask)) in scores.chunks(BLOCK).zip(mask.chunks(BLOCK)).enumerate() {
            let seen = self.simd.keep(scores, mask, lowest, &mut self.block);
            masked += seen.masked;
            if !seen.finite {
                let at = scores.iter().position(|s| !s.is_finite()).unwrap_or(0);
                return Err(NotFinite(i * BLOCK + at));
            }
            let survivors = &self.block[..seen.kept];
            for range in &mut brackets.ranges {
                let needed = kept + survivors.len() + LANES;
                if self.kept.len() < needed {
                    let larger = needed.max(self.kept.len() * 8).min(KEPT + 2 * LANES);
                    self.kept.resize(larger, 0.0);
                }
                if self.kept.len() < needed {
                    brackets.overflow = true;
                    break;
                }
                let out = &mut self.kept[kept..];
                let (n, above) = self.simd.between(survivors, range.low, range.high, out);
                kept += n;
                range.kept += n;
                range.above += above;
            }
        }
        Ok(masked)
    }

    /// The scores of the ranks; one that its bracket missed is left out.
    fn answer(
        &mut self,
        brackets: &Brackets,
        ranks: &[usize],
        masked: usize,
        out: &mut [Option<Found>],
    ) {
        let total = brackets.ranges.iter().map(|r| r.kept).sum();
        let mut lowest = f32::MIN;
        // The deepest rank first: the others lie among what is larger.
        for (i, (rank, serves)) in ranks.iter().zip(&brackets.serves).enumerate().rev() {
            let range = brackets.ranges[*serves];
            if *rank >= masked {
                out[i] = Some(Found::TooFew);
            } else if let Some(within) = rank.checked_sub(range.above).filter(|w| *w < range.kept) {
                lowest = self.nth(total, lowest.max(range.low), range.high, within);
                out[i] = Some(Found::Score(lowest));
            }
        }
    }

    /// The `place`-th largest of the first `n` kept scores that lie in [low, high).
    fn nth(&mut self, n: usize, low: f32, high: f32, place: usize) -> f32 {
        let mut count = 0;
        let room = n.min(SCRATCH) + BLOCK + LANES;
        if self.scratch.len() < room {
            self.scratch = Vec::new();
            self.scratch.resize(room, 0.0);
        }
        for part in self.kept[..n].chunks(BLOCK) {
            let out = &mut self.scratch[count..];
            if out.len() < part.len() + LANES {
                // More than the buffer holds: the library selects among all.
                let over = self.simd.count(&self.kept[..n], high.min(f32::MAX));
                let over = if high == f32::INFINITY { 0 } else { over };
                return *self.kept[..n].select_nth_unstable_by(over + place, descending).1;
            }
            count += self.simd.between(part, low, high, out).0;
        }
        quickselect(self.simd, &mut self.scratch, count, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::isa::Isa;

    fn by_sorting(scores: &[f32], mask: &[bool], ranks: &[usize]) -> Vec<Found> {
        let mut kept: Vec<f32> =
            scores.iter().zip(mask).filter(|(_, m)| **m).map(|(s, _)| *s).collect();
        kept.sort_by(|a, b| b.partial_cmp(a).unwrap());
        ranks.iter().map(|r| kept.get(*r).map_or(Found::TooFew, |s| Found::Score(*s))).collect()
    }

    /// Numbers in [0, 1) from a fixed recurrence.
    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut x = seed;
        (0..n)
            .map(|_| {
                x = x
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (x >> 40) as f32 / (1_u64 << 24) as f32
            })
            .collect()
    }

    #[test]
    fn both_ways_equal_sorting_at_every_size() {
        let sizes = [0, 1, 2, 31, 255, 256, 257, 5_000, 70_000];
        for n in sizes.into_iter().filter(|n| !cfg!(miri) || *n < 300) {
            for (seed, coarse) in [(1, false), (2, true)] {
                let mut scores = numbers(n, seed);
                if coarse {
                    for s in &mut scores {
                        *s = (*s * 8.0).floor() - 4.0;
                        // The largest and the smallest number are scores like others.
                        *s = if *s == 3.0 { f32::MAX } else { *s };
                        *s = if *s == -4.0 { f32::MIN } else { *s };
                    }
                }
                let mask: Vec<bool> = numbers(n, seed + 9).iter().map(|u| *u < 0.4).collect();
                let ranks = [0, 0, n / 1000, n / 100, n / 20, n / 3, n / 2, n];
                let expected = by_sorting(&scores, &mask, &ranks);
                for simd in Isa::ALL.into_iter().filter_map(Simd::new) {
                    let found = Selector::new(simd, n).largest(&scores, &mask, &ranks).unwrap();
                    assert_eq!(found, expected, "{simd:?}, n = {n}");
                }
                assert_eq!(by_bits(&scores, &mask, &ranks), expected, "n = {n}");
            }
        }
    }

    /// Brackets of so many standard deviations: how many scores they miss, and whether they overflow.
    fn tried(sigmas: f64, scores: &[f32], ranks: &[usize]) -> (usize, bool) {
        let mask = vec![true; scores.len()];
        let mut selector = Selector::new(Simd::best().unwrap(), scores.len());
        let mut brackets = selector.sample(scores, &mask, ranks, sigmas);
        let masked = selector.fill(&mut brackets, scores, &mask).unwrap();
        let mut found = vec![None; ranks.len()];
        if !brackets.overflow {
            selector.answer(&brackets, ranks, masked, &mut found);
        }
        (found.iter().filter(|f| f.is_none()).count(), brackets.overflow)
    }

    fn assert_exact(scores: &[f32], ranks: &[usize]) {
        let mask = vec![true; scores.len()];
        let found =
            Selector::new(Simd::best().unwrap(), scores.len()).largest(scores, &mask, ranks);
        assert_eq!(found.unwrap(), by_sorting(scores, &mask, ranks));
    }

    /// Orders that defeat a strided sample: it sees the smallest scores only, or the largest.
    #[test]
    fn rows_that_fool_the_sample_are_still_exact() {
        let n = STRIDE * LANES * 160;
        let (mut fell_back, ranks) = (0, [3, 100, 3_000]);
        for flip in [1.0, -1.0] {
            let fooling = |(i, u): (usize, &f32)| {
                flip * if i % (STRIDE * LANES) < LANES { *u - 9.0 } else { *u }
            };
            let scores: Vec<f32> = numbers(n, 3).iter().enumerate().map(fooling).collect();
            fell_back += tried(SIGMAS[1], &scores, &ranks).0;
            assert_exact(&scores, &ranks);
        }
        assert!(fell_back > 0, "these rows were meant to defeat the sample");
    }

    #[test]
    fn a_bracket_that_missed_is_made_wider() {
        // The sampled scores are a little too small: the brackets lie some five deviations off.
        let shift = |(i, u): (usize, &f32)| {
            if i % (STRIDE * LANES) < LANES { *u - 0.05 } else { *u }
        };
        let n = STRIDE * LANES * 160;
        let scores: Vec<f32> = numbers(n, 3).iter().enumerate().map(shift).collect();
        let ranks = [n / 8, n / 4];
        assert_eq!(tried(SIGMAS[0], &scores, &ranks), (2, false));
        assert_eq!(tried(SIGMAS[1], &scores, &ranks), (0, false));
        assert_exact(&scores, &ranks);
    }

    #[test]
    fn ties_are_a_bracket_of_their_own() {
        let scores: Vec<f32> = numbers(100_000, 5).iter().map(|u| (*u * 40.0).floor()).collect();
        let ranks = [30, 4_000, 20_000, 50_000];
        assert_eq!(tried(SIGMAS[0], &scores, &ranks), (0, false));
        assert_exact(&scores, &ranks);
    }

    #[test]
    fn brackets_beyond_the_buffer_are_taken_a_few_at_a_time() {
        let n = 3 * KEPT;
        let scores = numbers(n, 5);
        let ranks: Vec<usize> = (0..12).map(|i| i * 40_000 + 20).collect();
        assert!(tried(SIGMAS[0], &scores, &ranks).1, "these ranks were meant to overflow");
        assert!(!tried(SIGMAS[0], &scores, &ranks[..3]).1);
        assert_exact(&scores, &ranks);
    }

    #[test]
    fn scores_that_are_not_finite_are_named() {
        let mut scores = numbers(3_000, 4);
        scores[2_345] = f32::NAN;
        let found =
            Selector::new(Simd::best().unwrap(), 3_000).largest(&scores, &[false; 3_000], &[1]);
        assert_eq!(found, Err(NotFinite(2_345)));
        // So many that the sample is full of them.
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let found = Selector::new(Simd::best().unwrap(), 3_000).largest(
                &[bad; 3_000],
                &[true; 3_000],
                &[1, 99],
            );
            assert_eq!(found, Err(NotFinite(0)));
        }
    }
}
