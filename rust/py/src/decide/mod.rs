//! The two decisions: the device accepts or defers, the edge selects.

pub mod device;
pub mod edge;
