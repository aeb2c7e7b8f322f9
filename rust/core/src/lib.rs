//! cr2fast-core: what a device runs, and what must be fast.
//!
//! Two-stage routing after CR² (arXiv 2605.12001). Reading the modules in this order follows the
//! data: [`link`] and [`cost`] price a request; [`teacher`] and [`length`] estimate what each model
//! would do; [`mod@reference`] is the full-information choice; [`gate`] is its on-device student;
//! [`crc`] turns a risk level into a threshold; [`device`] and [`edge`] decide; [`artifact`] stores.
//! Where a device has text and no time, [`wordpiece`] and [`static_encoder`] make its embedding.
//! No Python, no training.

pub mod artifact;
mod brackets;
mod container;
pub mod cost;
pub mod crc;
pub mod device;
pub mod edge;
pub mod error;
pub mod gate;
pub mod kernel;
mod lanes;
pub mod length;
pub mod level;
pub mod link;
pub mod packed;
pub mod parallel;
pub mod precision;
mod quickselect;
mod radix;
pub mod reference;
pub mod router;
pub mod select;
mod sieve;
pub mod static_encoder;
pub mod table;
pub mod teacher;
pub mod wordpiece;

pub use error::{Error, Result};
pub use level::{Level, Simd};
