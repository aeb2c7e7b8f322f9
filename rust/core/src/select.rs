//! Order statistics of one row, without sorting it.
//!
//! In: scores (N,), a mask, ranks. Out: for each rank the rank-th largest masked score. Memory beyond
//! the input is bounded whatever N is: a sample of 65,536 scores, then 200,000 kept ones.
//!
//! A strided sample brackets each wanted score between two pivots, a few standard deviations of the
//! sample's noise apart. One pass over the row then keeps what lies in a bracket and counts what
//! lies above. A bracket that missed (a row whose order defeats the sample) is noticed by the counts,
//! and the row goes through three histogram passes over the bits of its scores instead, which need no
//! luck. Both are exact.

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

/// One sampled score a this many.
const STRIDE: usize = 32;
/// Bounds of the sample's size.
const SAMPLE: (usize, usize) = (256, 1 << 16);
/// Half a bracket's width in standard deviations of the sample.
const SIGMAS: f64 = 3.5;
/// Scores kept in brackets at most.
const KEPT: usize = 200_000;
/// Scores looked at between two flushes of the survivors.
const CHUNK: usize = 512;

/// The rank-th largest (from 0) masked score, for each rank in ascending order.
pub fn largest(scores: &[f32], mask: &[bool], ranks: &[usize]) -> Result<Vec<Found>, NotFinite> {
    debug_assert!(ranks.is_sorted());
    let mut brackets = Brackets::sample(scores, mask, ranks);
    let masked = brackets.fill(scores, mask)?;
    Ok(brackets.answer(ranks, masked).unwrap_or_else(|| by_bits(scores, mask, ranks)))
}

/// Disjoint value ranges [low, high), the highest first, and what was found in them.
struct Brackets {
    /// (low, high) of each.
    ranges: Vec<(f32, f32)>,
    /// Which range serves each rank.
    serves: Vec<usize>,
    kept: Vec<Vec<f32>>,
    /// Scores at or above a range's high that are in no range, by the range below them.
    above: Vec<usize>,
    overflow: bool,
}

impl Brackets {
    fn sample(scores: &[f32], mask: &[bool], ranks: &[usize]) -> Self {
        let n = scores.len();
        let size = (n / STRIDE).clamp(SAMPLE.0, SAMPLE.1).min(n);
        let step = n.checked_div(size).unwrap_or(1).max(1);
        let mut sample: Vec<f32> = scores
            .iter()
            .zip(mask)
            .step_by(step)
            .filter(|(s, m)| **m && s.is_finite())
            .map(|(s, _)| *s)
            .collect();
        sample.sort_unstable_by(|a, b| b.total_cmp(a));
        // Of the `rank` scores above the wanted one, each is in the sample with chance 1/step.
        let pivot = |at: f64, beyond: f32| {
            if at < 0.0 {
                f32::INFINITY
            } else {
                sample.get(at as usize).copied().unwrap_or(beyond)
            }
        };
        let mut ranges: Vec<(f32, f32)> = Vec::with_capacity(ranks.len());
        let mut serves = Vec::with_capacity(ranks.len());
        for rank in ranks {
            let expected = *rank as f64 / step as f64;
            let width = SIGMAS * expected.sqrt() + SIGMAS;
            let (high, low) = (
                pivot(expected - width, f32::INFINITY),
                pivot(expected + width, f32::NEG_INFINITY),
            );
            match ranges.last_mut() {
                // Overlapping ranges become one.
                Some(last) if high >= last.0 => last.0 = last.0.min(low),
                _ => ranges.push((low, high)),
            }
            serves.push(ranges.len() - 1);
        }
        let kept = vec![Vec::new(); ranges.len()];
        let above = vec![0; ranges.len()];
        Self { ranges, serves, kept, above, overflow: false }
    }

    /// The one pass; returns how many scores are masked in.
    fn fill(&mut self, scores: &[f32], mask: &[bool]) -> Result<usize, NotFinite> {
        let lowest = self.ranges.last().map_or(f32::INFINITY, |r| r.0);
        let mut survives = [0_u8; CHUNK];
        let mut masked = 0;
        for (block, (scores, mask)) in scores.chunks(CHUNK).zip(mask.chunks(CHUNK)).enumerate() {
            // Two loops, so that the first, which sees every score, vectorises.
            let (mut count, mut bad) = (0_u16, 0_u8);
            for ((s, m), out) in scores.iter().zip(mask).zip(&mut survives) {
                *out = u8::from(*m) & u8::from(*s >= lowest);
                count += u16::from(*m);
                bad |= u8::from(!s.is_finite());
            }
            masked += usize::from(count);
            if bad != 0 {
                let at = scores.iter().position(|s| !s.is_finite()).unwrap_or(0);
                return Err(NotFinite(block * CHUNK + at));
            }
            if self.overflow {
                continue;
            }
            for (scores, flags) in scores.chunks(8).zip(survives.as_chunks().0) {
                // The last, shorter chunk may see flags of the block before: mask them off.
                let bytes = u32::try_from(8 * scores.len()).unwrap_or(64);
                let mut left = u64::from_le_bytes(*flags) & (u64::MAX >> (64 - bytes));
                while left != 0 {
                    self.place(scores[left.trailing_zeros() as usize / 8]);
                    left &= left - 1;
                }
            }
            self.overflow = self.kept.iter().map(Vec::len).sum::<usize>() > KEPT;
        }
        Ok(masked)
    }

    fn place(&mut self, score: f32) {
        // Ranges are few and the highest comes first.
        for (i, (low, high)) in self.ranges.iter().enumerate() {
            if score >= *high {
                self.above[i] += 1;
                return;
            }
            if score >= *low {
                self.kept[i].push(score);
                return;
            }
        }
    }

    /// The scores of the ranks, or `None` when a bracket missed its score.
    fn answer(&mut self, ranks: &[usize], masked: usize) -> Option<Vec<Found>> {
        if self.overflow {
            return None;
        }
        let mut over = 0;
        let over: Vec<usize> = (0..self.ranges.len())
            .map(|i| {
                over += self.above[i];
                let before = over;
                over += self.kept[i].len();
                before
            })
            .collect();
        let mut out = Vec::with_capacity(ranks.len());
        for (rank, range) in ranks.iter().zip(&self.serves) {
            out.push(if *rank >= masked {
                Found::TooFew
            } else {
                let kept = &mut self.kept[*range];
                let within = rank.checked_sub(over[*range]).filter(|w| *w < kept.len())?;
                let (_, score, _) = kept.select_nth_unstable_by(within, |a, b| b.total_cmp(a));
                Found::Score(*score)
            });
        }
        Some(out)
    }
}

const TOP: usize = 1 << 11;
const LOW: usize = 1 << 10;

/// Order-preserving integer image of a float; −0 and +0 are one value.
fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits }
}

fn unkey(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}

/// Three histogram passes over 11, 11 and 10 bits of the scores.
fn by_bits(scores: &[f32], mask: &[bool], ranks: &[usize]) -> Vec<Found> {
    let keys = || scores.iter().zip(mask).filter(|(_, m)| **m).map(|(s, _)| key(*s));
    let mut counts = vec![0_usize; TOP];
    keys().for_each(|k| counts[(k >> 21) as usize] += 1);
    let found: Vec<Option<(u32, usize)>> = ranks.iter().map(|r| descend(&counts, *r)).collect();
    let found = refine(keys, &found, 10, TOP);
    let found = refine(keys, &found, 0, LOW);
    let total: usize = counts.iter().sum();
    ranks
        .iter()
        .zip(found)
        .map(|(rank, found)| match found {
            _ if *rank >= total => Found::TooFew,
            Some((key, _)) => Found::Score(unkey(key)),
            None => Found::Unstable,
        })
        .collect()
}

/// One more digit of each key: `found` holds a prefix and the rank within it.
fn refine<I: Iterator<Item = u32>>(
    keys: impl Fn() -> I,
    found: &[Option<(u32, usize)>],
    shift: u32,
    width: usize,
) -> Vec<Option<(u32, usize)>> {
    let digit = width.trailing_zeros();
    let mut prefixes: Vec<u32> = found.iter().flatten().map(|f| f.0).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let mut counts = vec![0_usize; prefixes.len() * width];
    for k in keys() {
        if let Ok(slot) = prefixes.binary_search(&(k >> (shift + digit))) {
            counts[slot * width + ((k >> shift) as usize & (width - 1))] += 1;
        }
    }
    let step = |&(prefix, rank): &(u32, usize)| {
        let slot = prefixes.binary_search(&prefix).ok()?;
        let (low, rank) = descend(&counts[slot * width..(slot + 1) * width], rank)?;
        Some((prefix << digit | low, rank))
    };
    found.iter().map(|f| f.as_ref().and_then(step)).collect()
}

/// The bucket that holds the rank-th largest element, and the rank within it.
fn descend(counts: &[usize], mut rank: usize) -> Option<(u32, usize)> {
    for (bucket, count) in counts.iter().enumerate().rev() {
        if rank < *count {
            return Some((bucket as u32, rank));
        }
        rank -= count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for n in [0, 1, 2, 31, 255, 256, 257, 5_000, 70_000] {
            for (seed, coarse) in [(1, false), (2, true)] {
                let mut scores = numbers(n, seed);
                if coarse {
                    for s in &mut scores {
                        *s = (*s * 8.0).floor() - 4.0;
                    }
                }
                let mask: Vec<bool> = numbers(n, seed + 9).iter().map(|u| *u < 0.4).collect();
                let ranks = [0, 0, n / 1000, n / 100, n / 20, n / 3, n / 2, n];
                let expected = by_sorting(&scores, &mask, &ranks);
                assert_eq!(largest(&scores, &mask, &ranks).unwrap(), expected, "n = {n}");
                assert_eq!(by_bits(&scores, &mask, &ranks), expected, "n = {n}");
            }
        }
    }

    /// Orders that defeat a strided sample: it sees the smallest scores only, or the largest.
    #[test]
    fn rows_that_fool_the_sample_are_still_exact() {
        let n = 64_000;
        let mut fell_back = 0;
        for flip in [1.0, -1.0] {
            let scores: Vec<f32> = numbers(n, 3)
                .iter()
                .enumerate()
                .map(|(i, u)| flip * if i % STRIDE == 0 { *u - 9.0 } else { *u })
                .collect();
            let mask = vec![true; n];
            let ranks = [3, 100, 3_000];
            let mut brackets = Brackets::sample(&scores, &mask, &ranks);
            let masked = brackets.fill(&scores, &mask).unwrap();
            fell_back += usize::from(brackets.answer(&ranks, masked).is_none());
            assert_eq!(
                largest(&scores, &mask, &ranks).unwrap(),
                by_sorting(&scores, &mask, &ranks)
            );
        }
        assert!(fell_back > 0, "these rows were meant to defeat the sample");
    }

    #[test]
    fn scores_that_are_not_finite_are_named() {
        let mut scores = numbers(3_000, 4);
        scores[2_345] = f32::NAN;
        assert_eq!(largest(&scores, &[false; 3_000], &[1]), Err(NotFinite(2_345)));
    }
}
