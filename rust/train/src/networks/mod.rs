//! The three networks, each with its training: teacher and length predictor first, then the gate
//! that learns from both.
//!
//! In: views of the queries and what is believed of each model on them. Out: the core's weights, of
//! the epoch with the least held-out loss. The teacher is eqs. 36–45 of arXiv 2605.12001, the gate
//! eqs. 49–55; predicted lengths stand in for the recorded ones that the paper prices with.

pub mod gate;
#[cfg(test)]
mod gradients;
pub mod length;
pub mod teacher;
