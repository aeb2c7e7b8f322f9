//! cr2fast-train: fits a router on the CPU, without Python.
//!
//! In: a training split (embeddings, correctness, token counts) and a cost table. Out: the weights of
//! teacher, length predictor and gate, and a record of how they came to be. One direction: features of
//! the queries, if any, are scaled (`weight`); a part of the split is held out (`data`); a kernel smoother learns the rest (`smoother`; or, in the paper's
//! recipe, nothing does); the teacher learns the smoother on jittered copies of the queries
//! (`views`), the length predictor the lengths; they grade and price every query; the gate learns that
//! margin at the cost weights between which choices change (`lams`; `networks`, each trained by
//! `schedule` down its `losses`). Checkpoints are chosen on the
//! held-out part. `fit` is these steps in order.
//!
//! Automatic differentiation is candle's; the networks' layers and AdamW are fused here (`ops`). The
//! same seed, machine and number of threads give the same weights.

mod config;
mod data;
mod error;
mod fit;
mod lams;
mod losses;
mod networks;
mod ops;
mod progress;
mod record;
mod router;
mod schedule;
mod smoother;
mod views;
mod weight;

pub use config::{FitConfig, Lengths, Recipe};
pub use data::{FeatureData, TrainData};
pub use error::{Result, TrainError};
pub use lams::PAPER_LAMS;
pub use progress::{Progress, Record, Report};
pub use router::fit_router;
