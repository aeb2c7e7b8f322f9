//! What every stage rests on: errors, checks, limits, threads, hashes.

pub mod checks;
pub mod error;
pub mod hash;
pub mod ids;
pub mod json;
pub mod limits;
pub mod threads;
