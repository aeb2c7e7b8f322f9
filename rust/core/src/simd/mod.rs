//! Instruction sets, and the loops written against them.

mod dispatch;
pub mod filter;
pub mod isa;
pub mod lanes;
pub mod layers;
pub mod packed;
