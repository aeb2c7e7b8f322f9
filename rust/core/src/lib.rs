//! cr2fast-core: what a device runs, and what must be fast.
//!
//! Two-stage routing after CR² (arXiv 2605.12001). Reading the modules in this order follows the
//! data: `base`, `simd` and `ranks` are what all stand on; `encoder` makes an embedding of a text, and
//! `features` count what else a text shows;
//! `pricing` prices a request; `networks` estimate what each model would do; `choice` is the
//! full-information choice; `calibration` turns a risk level into thresholds; `router` is what one
//! artifact (`file`) holds; `decide` accepts, defers and selects. No Python, no training.

mod base;
mod calibration;
mod choice;
mod decide;
mod encoder;
mod features;
mod file;
mod networks;
mod pricing;
mod ranks;
mod router;
mod simd;

pub use base::checks::{check_alpha, check_finite, check_lam, check_len, check_tokens};
pub use base::error::{Error, Result, Same, number, shown};
pub use base::ids::{Named, Seen};
pub use base::limits::{MAX_CENTRES, MAX_WIDTH, QUANTILES, TYPICAL_SCORES};
pub use base::threads::allowed as thread_count;
pub use calibration::alarm::{MAX_WEIGHT, RiskAlarm};
pub use calibration::counts::{cells::CellCounts, margins::MarginCounts};
pub use calibration::crc::{
    accepts, allowed as allowed_false_acceptances, empirical_risk, thresholds as crc_thresholds,
};
pub use calibration::grid::{
    Calibration, USUAL_ALPHA, find as find_level, neighbours as neighbouring_levels, usual_alpha,
};
pub use calibration::groups::{GroupReport, Grouping, Groups};
pub use calibration::longest::OVERRUN;
pub use calibration::promise::{Grid, OnInfeasible, Promise};
pub use calibration::rolling::{RollingThreshold, Steps};
pub use calibration::run::{Judge, Lengths, Report, Split};
pub use calibration::typicality::{Typicality, p_value as typicality_p_value};
pub use choice::{choices, margin as choice_margin, margins as choice_margins};
pub use decide::budget::Budget;
pub use decide::device::{Beside, Besides, Decision, DeviceRouter, Whose};
pub use decide::edge::{Batch, EdgeSelector, Query, Selection};
pub use decide::expected::Expected;
pub use decide::rule::Rule;
pub use decide::two_stage::{Call, Choice, TwoStage};
pub use encoder::count::{Reading, of_unknown as unknown_tokens, scaled as endpoint_tokens};
pub use encoder::endpoint::{
    Embedded, MAX_CHARS as ENDPOINT_CHARS, answer as endpoint_answer, cut as endpoint_text,
    normalised, question as endpoint_question,
};
pub use encoder::identity::EncoderInfo;
pub use encoder::probes::{MAX_PROBES, PROBE_TOLERANCE, Probes};
pub use encoder::static_encoder::{Settings as StaticSettings, StaticEncoder};
pub use encoder::wordpiece::WordPiece;
pub use features::inputs::{Features, check_width, row_of_text};
pub use features::text::{TEXT_FEATURES, TEXT_SET, text_features};
pub use file::disk::{read as read_bounded, write as write_whole};
pub use file::precision::Precision;
pub use networks::gate::{Film, Gate, GateWeights, PSI, psi};
pub use networks::length::{
    LengthPredictor, LengthWeights, SCALARS as LENGTH_SCALARS, inverse_norm,
};
pub use networks::link::{LINK, LINK_FEATURES, LinkScale, LinkWeights};
pub use networks::smoother::SmootherWeights;
pub use networks::teacher::{Teacher, TeacherWeights};
pub use pricing::cost::{CostTable, Quantity};
pub use pricing::link::LinkState;
pub use pricing::scale::Normalizers;
pub use pricing::schema::Source;
pub use pricing::version::Version as CostTableVersion;
pub use router::{Parts, Router};
pub use simd::isa::{Isa, Simd};
pub use simd::layers::{ERF_P, ERF_Q, LAYER_NORM_EPS};

/// What benches and tests look at beneath the surface.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    pub use crate::simd::layers::sigmoid;
    pub use crate::simd::packed::{Packed, PaddedVec};
}
