//! Order statistics of a row, without sorting it.

pub mod brackets;
pub mod histogram;
pub mod quickselect;
pub mod select;
