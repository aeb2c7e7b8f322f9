//! Many order statistics of one row, spread over all of it.
//!
//! In: finite scores, ascending places (from the smallest, 0). Out: the scores at these places, exactly.
//!
//! Where hundreds of places are wanted, brackets would hold the whole row. So the range of the scores is
//! cut into equal bins, in which the scores are counted and then gathered, bin after bin; a place falls
//! into one bin, and only that bin is sorted. The bin of a score never falls as the score grows, whatever
//! rounding does, so the answer is exact; how evenly the scores fill the bins only decides the time.

/// Scores in a bin on average.
const FILL: usize = 16;

/// The scores at `places`, ascending and below the row's length.
pub fn spread(scores: &[f32], places: &[usize], gathered: &mut Vec<f32>) -> Vec<f32> {
    let least = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let bins = (scores.len() / FILL).clamp(1, 1 << 16);
    let scale = bins as f32 / (most - least);
    let bin = |score: f32| (((score - least) * scale) as usize).min(bins - 1);
    let mut ends = vec![0_usize; bins];
    for score in scores {
        ends[bin(*score)] += 1;
    }
    let mut below = 0;
    for end in &mut ends {
        (*end, below) = (below, below + *end);
    }
    gathered.resize(scores.len(), 0.0);
    for score in scores {
        let next = &mut ends[bin(*score)];
        gathered[*next] = *score;
        *next += 1;
    }
    // Each entry of `ends` has moved from its bin's start to its end.
    let (mut sorted, mut at) = (0, 0);
    let mut out = Vec::with_capacity(places.len());
    for place in places {
        while ends[at] <= *place {
            at += 1;
        }
        if sorted < ends[at] {
            let start = if at == 0 { 0 } else { ends[at - 1] };
            gathered[start..ends[at]].sort_unstable_by(f32::total_cmp);
            sorted = ends[at];
        }
        out.push(gathered[*place]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_that_of_the_sorted_row() {
        let mut state = 1_u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut gathered = Vec::new();
        for n in [1, 2, 15, 16, 17, 300, 5000] {
            let rows: [Vec<f32>; 6] = [
                (0..n).map(|_| next()).collect(),
                (0..n).map(|_| (next() * 4.0).round()).collect(),
                vec![0.25; n],
                (0..n).map(|_| (next() * 60.0).exp()).collect(),
                (0..n).map(|_| next() * f32::MIN_POSITIVE).collect(),
                (0..n).map(|_| next() * f32::MAX * 2.0).collect(),
            ];
            for row in rows {
                let mut sorted = row.clone();
                sorted.sort_unstable_by(f32::total_cmp);
                for step in [1, 2, 7, n] {
                    let places: Vec<usize> = (0..n).step_by(step).collect();
                    let expected: Vec<f32> = places.iter().map(|p| sorted[*p]).collect();
                    assert_eq!(spread(&row, &places, &mut gathered), expected, "{n} {step}");
                }
            }
        }
    }
}
