//! One order statistic of a small buffer.
//!
//! In: scores, a place. Out: the place-th largest, by halving in loops without branches on scores
//! (`sieve.rs`).

use std::cmp::Ordering;

use crate::simd::isa::Simd;

/// Up to here the library selects.
const SMALL: usize = 48;

/// The `place`-th largest of the buffer's first `n` scores, place < n; what is left of them is lost.
pub(crate) fn quickselect(simd: Simd, buffer: &mut [f32], mut n: usize, mut place: usize) -> f32 {
    // Halving takes a dozen rounds; scores made to defeat it are left to the library.
    for _ in 0..48 {
        if n <= SMALL {
            break;
        }
        let mut some: [f32; 9] = std::array::from_fn(|j| buffer[(2 * j + 1) * n / 18]);
        some.sort_unstable_by(descending);
        let pivot = some[place * some.len() / n];
        let above = simd.count(&buffer[..n], pivot);
        if place >= above {
            n = simd.sift(buffer, n, f32::MIN, pivot);
            place -= above;
        } else {
            n = simd.sift(buffer, n, pivot.next_up(), f32::INFINITY);
            if place >= n {
                return pivot;
            }
        }
    }
    *buffer[..n].select_nth_unstable_by(place, descending).1
}

/// The order of ranks, as the library's sorts ask for it.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(crate) fn descending(a: &f32, b: &f32) -> Ordering {
    b.total_cmp(a)
}
