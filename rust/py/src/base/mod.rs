//! Arrays and errors, as every stage passes them between Rust and Python.

pub mod arrays;
pub mod errors;
pub mod scalars;
