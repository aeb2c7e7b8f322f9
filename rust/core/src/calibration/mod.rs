//! From a split to thresholds that keep a stated risk, and the watch over it in service.

pub mod alarm;
pub mod counts;
pub mod crc;
pub mod grid;
pub mod groups;
mod line;
pub mod longest;
pub mod promise;
pub mod rolling;
pub mod run;
mod state;
pub mod typicality;
