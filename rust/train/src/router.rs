//! A fitted router from a training split.
//!
//! In: data, a cost table, options, whose embeddings and which queries they are. Out: the router that
//! core loads, not calibrated.

use cr2fast_core::{
    CostTable, EncoderInfo, Gate, LengthPredictor, Named, Parts, Precision, Router, Seen, Simd,
    Teacher,
};

use crate::config::FitConfig;
use crate::data::TrainData;
use crate::error::Result;
use crate::fit::fit;
use crate::progress::Report;

/// Fit and assemble. With `teacher`, its teacher and length predictor are kept and only a gate is
/// fitted; what it was trained on counts as seen by this router too.
pub fn fit_router(
    data: &TrainData,
    costs: &CostTable,
    config: &FitConfig,
    encoder: EncoderInfo,
    queries: &Named,
    teacher: Option<&Router>,
    report: Report,
) -> Result<Router> {
    Simd::best()?; // An instruction set that is not here is said before any work.
    let own = Seen::new(queries);
    let trained_on = teacher.map_or_else(|| own.clone(), |r| own.union(r.trained_on()));
    let frozen = teacher.map(|r| (r.teacher().weights().clone(), r.length().weights().clone()));
    let fitted = fit(data, costs, config, frozen, report)?;
    Ok(Router::new(Parts {
        encoder,
        gate: Gate::new(fitted.gate)?,
        teacher: Teacher::new(fitted.teacher)?,
        length: LengthPredictor::new(fitted.length)?,
        costs: costs.clone(),
        training: fitted.record,
        trained_on,
        precision: Precision::default(),
        typicality: None,
    })?)
}
