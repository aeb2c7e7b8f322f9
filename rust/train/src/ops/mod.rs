//! What a training step is made of, below the networks: two fused layers with their backward
//! passes, the optimiser, and the small change (initialisation, dropout, snapshots, row order).
//!
//! In: tensors. Out: tensors, and gradients. Results do not depend on the number of threads: rows
//! are cut into chunks of fixed size, and partial sums are added in order.

pub mod adamw;
pub mod cholesky;
mod fused;
pub mod heads;
pub mod isa;
pub mod nn;
pub mod product;
pub mod real;
pub mod trunk;
