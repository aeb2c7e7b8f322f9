//! A fitted router from a training split.
//!
//! In: data, a cost table, options, whose embeddings and which queries they are. Out: the router that
//! core loads, not calibrated.

use cr2fast_core::{
    CostTable, EncoderInfo, Features, Gate, LengthPredictor, Named, Parts, Precision, Router, Seen,
    Simd, Teacher,
};

use crate::config::FitConfig;
use crate::data::{FeatureData, TrainData};
use crate::error::{Result, TrainError};
use crate::fit::fit;
use crate::progress::Report;
use crate::weight;

/// Fit and assemble. With `teacher`, its teacher and length predictor are kept and only a gate is
/// fitted; what it was trained on counts as seen by this router too.
#[allow(clippy::too_many_arguments)]
pub fn fit_router(
    data: &TrainData,
    costs: &CostTable,
    config: &FitConfig,
    encoder: EncoderInfo,
    queries: &Named,
    features: Option<FeatureData>,
    teacher: Option<&Router>,
    report: Report,
) -> Result<Router> {
    Simd::best()?; // An instruction set that is not here is said before any work.
    config.check()?;
    let (features, rows) = match features {
        None => (None, None),
        Some(of) => {
            let features = scaled(data, &of, config, teacher, report)?;
            let rows = features.rows(data.embeddings, of.values)?;
            (Some(features), Some(rows))
        }
    };
    if let Some(teacher) = teacher {
        check_same(features.as_ref(), teacher.features().map(AsRef::as_ref))?;
    }
    let data = &TrainData {
        d: features.as_ref().map_or(data.d, Features::dim),
        embeddings: rows.as_deref().unwrap_or(data.embeddings),
        ..*data
    };
    let own = Seen::new(queries);
    let trained_on = teacher.map_or_else(|| own.clone(), |r| own.union(r.trained_on()));
    let frozen = teacher.map(|r| {
        let (t, length) = (r.teacher(), r.length().weights().clone());
        (t.weights().clone(), t.smoother().cloned(), length)
    });
    let fitted = fit(data, costs, config, frozen, report)?;
    Ok(Router::new(Parts {
        encoder,
        features,
        gate: Gate::new(fitted.gate)?,
        teacher: Teacher::new(fitted.teacher)?.with_smoother(fitted.smoother)?,
        length: LengthPredictor::new(fitted.length)?,
        costs: costs.clone(),
        training: fitted.record,
        trained_on,
        precision: Precision::default(),
        typicality: None,
    })?)
}

/// The features as a frozen teacher scales them or, for a fresh one, by this split's moments.
fn scaled(
    data: &TrainData,
    of: &FeatureData,
    config: &FitConfig,
    teacher: Option<&Router>,
    report: Report,
) -> Result<Features> {
    if let Some(features) = teacher.and_then(Router::features) {
        return Ok(Features::clone(features));
    }
    data.check(data.correct.len() / data.n_input.len().max(1))?;
    let weight = match config.feature_weight {
        0.0 => weight::choose(data, of, config, report)?,
        given => given,
    };
    Ok(Features::fit(data.d, of.text, of.columns.clone(), weight as f32, of.values)?)
}

/// Refuse a teacher that looks at other features.
fn check_same(own: Option<&Features>, teacher: Option<&Features>) -> Result<()> {
    let names = |f: Option<&Features>| f.map_or_else(Vec::new, Features::names).join(", ");
    let (own, teacher) = (names(own), names(teacher));
    if own == teacher {
        return Ok(());
    }
    let none = |names: String| if names.is_empty() { "none".into() } else { names };
    Err(TrainError::argument("features", &format!("the teacher's: {}", none(teacher)), none(own)))
}
