//! A fitted router: everything that one artifact holds.
//!
//! In: trained weights, a cost table, then a calibration. Out: operating points for the device and
//! selectors for the edge ([`crate::decide`]). Immutable: calibrating makes a new one, and its parts are
//! checked against each other when they are put together.

mod file;

use std::sync::Arc;

use serde::Deserialize;

use crate::base::checks::{check_lam, check_len};
use crate::base::error::{Error, Result, Same};
use crate::base::ids::{Named, Seen};
use crate::calibration::grid::{Calibration, LENGTHS};
use crate::calibration::promise::{Grid, Promise};
use crate::calibration::run::{self, Fitted, Report, Split};
use crate::calibration::typicality::Typicality;
use crate::encoder::identity::EncoderInfo;
use crate::encoder::probes::Probes;
use crate::features::inputs::Features;
use crate::file::precision::Precision;
use crate::networks::gate::Gate;
use crate::networks::length::LengthPredictor;
use crate::networks::teacher::Teacher;
use crate::pricing::cost::CostTable;

/// What a fit hands over.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The encoder of the training embeddings.
    pub encoder: EncoderInfo,
    /// What the networks read beside the embedding.
    pub features: Option<Features>,
    /// The gate.
    pub gate: Gate,
    /// The teacher.
    pub teacher: Teacher,
    /// The length predictor.
    pub length: LengthPredictor,
    /// The cost table, normalizers set.
    pub costs: CostTable,
    /// The training record, JSON.
    pub training: String,
    /// Queries seen in training.
    pub trained_on: Seen,
    /// Precision of the weight matrices.
    pub precision: Precision,
    /// How far a query lies from the training split; none in files of earlier versions.
    pub typicality: Option<Typicality>,
}

/// What a training record says at least: calibration asks for it.
#[derive(Deserialize)]
struct Record {
    config: Trained,
}

/// The options of the fit that outlive it.
#[derive(Deserialize)]
struct Trained {
    lam_low: f64,
    lam_high: f64,
    lengths: String,
}

impl Record {
    fn check(text: &str) -> Result<()> {
        let expected = "a training record with config.lam_low < config.lam_high, and config.lengths \
                        \"predicted\" or \"known\"";
        let Record { config: c } =
            serde_json::from_str(text).map_err(|e| Error::artifact(expected, e))?;
        let range = check_lam(c.lam_low).is_ok() && check_lam(c.lam_high).is_ok();
        if range && c.lam_low < c.lam_high && LENGTHS.contains(&c.lengths.as_str()) {
            return Ok(());
        }
        let got = format!("{}, {}, \"{}\"", c.lam_low, c.lam_high, c.lengths);
        Err(Error::artifact(expected, got))
    }
}

/// A fitted router.
#[derive(Clone, Debug)]
pub struct Router {
    models: Vec<String>,
    encoder: EncoderInfo,
    features: Option<Arc<Features>>,
    gate: Arc<Gate>,
    teacher: Arc<Teacher>,
    length: Arc<LengthPredictor>,
    costs: CostTable,
    training: String,
    trained_on: Seen,
    calibration: Option<Calibration>,
    precision: Precision,
    typicality: Option<Arc<Typicality>>,
    probes: Option<Arc<Probes>>,
}

impl Router {
    /// Put the parts together, refusing those that do not belong together.
    pub fn new(parts: Parts) -> Result<Self> {
        let router = Self {
            models: parts.costs.models(),
            encoder: parts.encoder,
            features: parts.features.map(Arc::new),
            gate: Arc::new(parts.gate),
            teacher: Arc::new(parts.teacher),
            length: Arc::new(parts.length),
            costs: parts.costs,
            training: parts.training,
            trained_on: parts.trained_on,
            calibration: None,
            precision: parts.precision,
            typicality: parts.typicality.map(Arc::new),
            probes: None,
        };
        let (m, d) = (router.models.len(), router.dim());
        check_len("teacher models", m, router.teacher.weights().models)?;
        check_len("length predictor models", m, router.length.weights().models)?;
        check_len("teacher embedding width", d, router.teacher.weights().d)?;
        check_len("length predictor embedding width", d, router.length.weights().d)?;
        if let Some(features) = &router.features {
            check_len("embedding and features width", d, features.dim())?;
        }
        if let Some(typicality) = &router.typicality {
            check_len("typicality embedding width", d, typicality.dim())?;
        }
        Record::check(&router.training)?;
        if router.costs.normalizers().is_none() {
            return Err(Error::argument("cost table", "T0 and E0 set", "null"));
        }
        Ok(router)
    }

    /// Model names, the device's first.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// Width of the rows that the networks read: the embedding's, and the features'.
    pub fn dim(&self) -> usize {
        self.gate.weights().d
    }

    /// Embedding width d.
    pub fn embedding_dim(&self) -> usize {
        self.features.as_ref().map_or(self.dim(), |f| f.embedding_dim())
    }

    /// What the networks read beside the embedding.
    pub fn features(&self) -> Option<&Arc<Features>> {
        self.features.as_ref()
    }

    /// The encoder of the training embeddings.
    pub fn encoder(&self) -> &EncoderInfo {
        &self.encoder
    }

    /// Texts and their embeddings by which the encoder is known.
    pub fn probes(&self) -> Option<&Arc<Probes>> {
        self.probes.as_ref()
    }

    /// The same router, thresholds and all, with probes of its encoder in place of those it has.
    pub fn with_probes(&self, probes: Probes) -> Result<Self> {
        check_len("probes' embedding width", self.embedding_dim(), probes.dim())?;
        Ok(Self { probes: Some(Arc::new(probes)), ..self.clone() })
    }

    /// The gate.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The teacher.
    pub fn teacher(&self) -> &Arc<Teacher> {
        &self.teacher
    }

    /// The length predictor.
    pub fn length(&self) -> &Arc<LengthPredictor> {
        &self.length
    }

    /// The cost table, normalizers set.
    pub fn costs(&self) -> &CostTable {
        &self.costs
    }

    /// The training record, JSON.
    pub fn training(&self) -> &str {
        &self.training
    }

    /// Queries seen in training.
    pub fn trained_on(&self) -> &Seen {
        &self.trained_on
    }

    /// Thresholds, once calibrated.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    /// How far a query lies from the training split.
    pub fn typicality(&self) -> Option<&Arc<Typicality>> {
        self.typicality.as_ref()
    }

    /// The same router with a typicality score, and no thresholds: a calibration keeps its scores.
    pub fn with_typicality(&self, typicality: Typicality) -> Result<Self> {
        check_len("typicality embedding width", self.dim(), typicality.dim())?;
        let typicality = Some(Arc::new(typicality));
        Ok(Self { typicality, calibration: None, ..self.clone() })
    }

    /// Typicality p-values of N embeddings (N, d), in (0, 1].
    pub fn p_values(&self, embeddings: &[f32], threads: usize) -> Result<Vec<f64>> {
        let (Some(typicality), Some(calibration)) = (&self.typicality, &self.calibration) else {
            return Err(Error::no_typicality());
        };
        let scores = typicality.scores(embeddings, threads)?;
        let p = scores.into_iter().map(|s| calibration.p_value(s));
        p.collect::<Option<_>>().ok_or_else(Error::no_typicality)
    }

    /// Precision of the weight matrices.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same router with weight matrices of a smaller precision, and no thresholds: they belong
    /// to margins, which the rounding moves. LayerNorm's affine goes into the matrices first, so that
    /// what is multiplied is what was rounded.
    pub fn rounded(&self, to: Precision) -> Result<Self> {
        let (mut g, mut t) = (self.gate.weights().folded(), self.teacher.weights().folded());
        let mut l = self.length.weights().clone();
        g.w1 = to.rounded("gate.w1", &g.w1)?;
        g.film_weight = to.rounded("gate.film.weight", &g.film_weight)?;
        t.w1 = to.rounded("teacher.w1", &t.w1)?;
        l.weight = to.rounded("length.weight", &l.weight)?;
        Ok(Self {
            gate: Arc::new(Gate::new(g)?),
            teacher: Arc::new(Teacher::new(t)?.with_smoother(self.teacher.smoother().cloned())?),
            length: Arc::new(LengthPredictor::new(l)?),
            calibration: None,
            precision: to,
            ..self.clone()
        })
    }

    /// Refuse other models, or another order.
    pub fn check_models(&self, what: &str, models: &[String]) -> Result<()> {
        if self.models == models {
            return Ok(());
        }
        Err(Error::Models {
            what: what.into(),
            expected: self.models.clone(),
            got: models.to_vec(),
        })
    }

    /// Refuse queries seen in training and, where asked for, those that calibrated.
    pub fn check_disjoint(&self, what: &str, queries: &Named, calibration: bool) -> Result<()> {
        self.trained_on.check_disjoint("training", what, queries)?;
        match &self.calibration {
            Some(c) if calibration => c.queries.check_disjoint("calibration", what, queries),
            _ => Ok(()),
        }
    }

    /// Which queries were seen in training or, where asked for, calibrated, and how they are known.
    pub fn shared(&self, queries: &Named, calibration: bool) -> Vec<Option<Same>> {
        let mut found = self.trained_on.shared(queries);
        if let (Some(c), true) = (&self.calibration, calibration) {
            for (same, other) in found.iter_mut().zip(c.queries.shared(queries)) {
                *same = same.or(other);
            }
        }
        found
    }

    /// Choose thresholds on a split that shares no query with training.
    pub fn calibrate(
        &self,
        split: &Split,
        grid: &Grid,
        promise: Promise,
        threads: usize,
    ) -> Result<(Self, Report)> {
        self.trained_on.check_disjoint("training", "calibration split", &split.queries)?;
        let fitted = Fitted {
            gate: &self.gate,
            teacher: &self.teacher,
            length: &self.length,
            costs: &self.costs,
            typicality: self.typicality.as_deref(),
        };
        let (mut calibration, report) = run::run(&fitted, split, grid, promise, threads)?;
        if let (None, Some(before)) = (split.recorded, &self.calibration) {
            // Queries without answers say nothing of lengths: what earlier answers said stays.
            calibration.length_factors.clone_from(&before.length_factors);
        }
        Ok((self.with_calibration(calibration)?, report))
    }

    /// The same router with these thresholds.
    pub fn with_calibration(&self, calibration: Calibration) -> Result<Self> {
        calibration.check()?;
        if !calibration.length_factors.is_empty() {
            check_len("length factors", self.models.len(), calibration.length_factors.len())?;
        }
        if self.typicality.is_none() && !calibration.typicality.is_empty() {
            return Err(Error::artifact("typicality.directions of its scores", "none"));
        }
        Ok(Self { calibration: Some(calibration), ..self.clone() })
    }

    /// (λ, α, threshold) of a calibrated operating point, as the grid spells them.
    pub fn threshold(&self, lam: f64, alpha: f64) -> Result<(f64, f64, f32)> {
        self.calibration.as_ref().ok_or(Error::NotCalibrated)?.threshold(lam, alpha)
    }
}
