//! Files: the container that holds tensors, and the precision of what is in it.

pub mod container;
pub mod disk;
pub mod precision;
