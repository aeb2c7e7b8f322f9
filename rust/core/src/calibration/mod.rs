//! From a split to thresholds that keep a stated risk.

pub mod crc;
pub mod grid;
pub mod longest;
pub mod promise;
pub mod run;
pub mod typicality;
