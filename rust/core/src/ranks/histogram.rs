//! Order statistics by histograms of the scores' bits: slower than a sample, and needs no luck.
//!
//! In: scores (N,), a mask, ranks. Out: for each rank the rank-th largest masked score, exactly, in
//! three passes, whatever the order of the row or its ties.

use crate::ranks::found::Found;

const TOP: usize = 1 << 11;
const LOW: usize = 1 << 10;

/// Order-preserving integer image of a float; −0 and +0 are one value.
pub(crate) fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits }
}

/// The float of a key.
pub(crate) fn unkey(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}

/// Three histogram passes over 11, 11 and 10 bits of the scores.
pub(crate) fn by_bits(scores: &[f32], mask: &[bool], ranks: &[usize]) -> Vec<Found> {
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
pub(crate) fn descend<T>(counts: &[T], mut rank: T) -> Option<(u32, T)>
where
    T: Copy + PartialOrd + std::ops::SubAssign,
{
    for (bucket, count) in counts.iter().enumerate().rev() {
        if rank < *count {
            return Some((bucket as u32, rank));
        }
        rank -= *count;
    }
    None
}
