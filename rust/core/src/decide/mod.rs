//! Decisions: the device accepts or defers, the edge selects; or both in one call.

pub mod budget;
pub mod device;
pub mod edge;
pub mod expected;
mod file;
pub mod rule;
pub mod two_stage;
