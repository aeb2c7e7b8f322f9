//! Order statistics of a row, without sorting the row.
//!
//! # What is asked
//!
//! A row holds N scores and a mask. For a few ranks k the k-th largest score among those that the mask
//! lets through is wanted, exactly. Conformal risk control asks for five ranks per cost weight, most of
//! them near the top. Sorting answers, and takes N·log N
//! steps with branches that no processor predicts. What follows reads each row once, from front to back,
//! at about the speed at which memory delivers it.
//!
//! # How it is answered
//!
//! ```text
//!            sample: evenly spaced cache lines, sorted
//!      high ─────────┬──────┬───────────────┬──────┬───────────── low
//!                    │ wanted: rank 40      │ wanted: rank 400
//!                 [bracket]              [ bracket ]
//!
//!   one pass:  above: counted │ inside: kept │ below the lowest bracket: dropped
//! ```
//!
//! 1. **Sample** ([`select`]). One cache line in every 32 is copied and its masked scores are sorted. If
//!    the row has k scores above the wanted one, the sample holds about k/32 of them, give or take the
//!    square root of that. So two sampled scores, three standard deviations to either side, enclose the
//!    wanted score nearly always. These pairs are the `brackets`; those that overlap become one.
//! 2. **One pass** (`simd/filter.rs`). Sixteen scores at a time are compared with the lowest bracket's
//!    lower end. Those that pass are packed together, without a branch: a table (AVX2) or an instruction
//!    (AVX-512) moves the lanes whose bits are set to the front. Of these few, each bracket then keeps its
//!    own, and counts what lies above. The pass also notices NaN and infinities: 0·x is 0 for every other
//!    number.
//! 3. **Answer** (`quickselect`). The wanted score has rank k minus the count above, among what its
//!    bracket kept: a selection among some hundreds of scores, by halving, again without branches.
//!
//! # When the sample is wrong
//!
//! The counts tell. If the rank does not fall inside what the bracket kept, the bracket missed: the
//! row is read again with brackets of eight standard deviations. If the brackets together hold more than
//! the buffer, half of the ranks are taken at a time. What still has no answer (a row with very many equal
//! scores, or one whose order defeats an evenly spaced sample) goes to the `histogram`: three passes
//! that count scores by the high, middle and low bits of an order-preserving integer, which need no luck
//! and take several times as long. Every way gives the exact answer.
//!
//! The check for drift asks for 255 scores, spread over the whole row: those are found by [`spread`], which
//! puts the row into bins and sorts the bins that are asked for.
//!
//! Memory of a selection beyond the row stays under 1 MB for each thread, whatever N is.

mod brackets;
pub mod found;
pub mod histogram;
mod quickselect;
pub mod select;
pub mod spread;
