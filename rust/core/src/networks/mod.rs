//! Forward passes of what is fitted: margin gate, teacher, length predictor.

pub mod file;
pub mod gate;
pub mod length;
pub mod link;
pub mod smoother;
pub mod teacher;
mod trunk;
