//! Stage one, on the device: accept a query for the local model, or defer it.
//!
//! In: an embedding, or a text and a static encoder. Out: a [`Decision`] at one operating point
//! (λ, α), bound at construction.
//! Accept ⇔ Δ̂ ≥ τ, both margins: the score s = σ(Δ̂/T) is made for people only.

use std::sync::Arc;

use crate::base::checks::check_len;
use crate::base::error::{Error, Result};
use crate::calibration::crc::accepts;
use crate::calibration::typicality::{Typicality, p_value};
use crate::encoder::identity::EncoderInfo;
use crate::encoder::static_encoder::StaticEncoder;
use crate::features::inputs::{Features, check_width, row_of_text};
use crate::networks::gate::{Film, Gate};
use crate::pricing::link::LinkState;
use crate::router::Router;

/// A decision, with the numbers behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// True: answer on the device. False: send to the edge.
    pub local: bool,
    /// Δ̂.
    pub margin: f32,
    /// τ as a margin; +∞ defers all, −∞ accepts all.
    pub threshold: f32,
    /// σ(Δ̂/T), in [0, 1].
    pub score: f64,
    /// How typical the query is of the calibration split, in (0, 1], where that was asked for.
    pub p_value: Option<f64>,
}

/// What a query may come with beside its row: the group whose threshold it is compared with, and ξ.
pub type Beside<'a> = (Option<&'a str>, Option<&'a LinkState>);
/// The same of N queries.
pub type Besides<'a> = (Option<&'a [Option<String>]>, Option<&'a [LinkState]>);

/// The device's router at one operating point. Immutable; share it between threads.
#[derive(Clone, Debug)]
pub struct DeviceRouter {
    pub(super) encoder: EncoderInfo,
    pub(super) features: Option<Arc<Features>>,
    pub(super) gate: Arc<Gate>,
    pub(super) film: Film,
    pub(super) threshold: f32,
    pub(super) temperature: f64,
    pub(super) lam: f64,
    pub(super) alpha: f64,
    pub(super) typical: Option<Typical>,
    /// Queries whose p-value is at most this are deferred.
    pub(super) defer_atypical: Option<f64>,
    pub(super) groups: Option<GroupThresholds>,
}

/// Whose threshold a query takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Whose<'a> {
    /// That of all queries together.
    All,
    /// That of its group: name and threshold.
    Group(&'a str, f32),
    /// Nobody's: it is deferred, as its group is not known.
    Nobody,
}

/// The threshold of each group at one operating point.
#[derive(Clone, Debug)]
pub(super) struct GroupThresholds {
    /// (G,), strictly ascending.
    pub names: Arc<[String]>,
    /// (G,).
    pub thresholds: Arc<[f32]>,
    /// Whether unknown groups take the threshold of all rather than defer.
    pub pooled: bool,
}

/// What p-values are made of.
#[derive(Clone, Debug)]
pub(super) struct Typical {
    pub score: Arc<Typicality>,
    pub kept: Arc<[f32]>,
    pub n: usize,
}

impl Typical {
    fn of(router: &Router) -> Option<Self> {
        let (score, calibration) = (router.typicality()?, router.calibration()?);
        let kept: Arc<[f32]> = calibration.typicality.as_slice().into();
        (!kept.is_empty()).then(|| Self { score: Arc::clone(score), kept, n: calibration.n })
    }

    fn p_value(&self, x: &[f32]) -> f64 {
        p_value(self.score.score(x), &self.kept, self.n)
    }
}

impl DeviceRouter {
    /// Bind a calibrated router to (λ, α), both on its grid.
    pub fn new(router: &Router, lam: f64, alpha: f64) -> Result<Self> {
        let (lam, alpha, threshold) = router.threshold(lam, alpha)?;
        let calibration = router.calibration().ok_or(Error::NotCalibrated)?;
        let groups = calibration.groups.as_ref().zip(calibration.group_thresholds(lam, alpha)?);
        Ok(Self {
            film: router.gate().film(lam)?,
            temperature: router.gate().weights().temperature(),
            gate: Arc::clone(router.gate()),
            encoder: router.encoder().clone(),
            features: router.features().cloned(),
            threshold,
            lam,
            alpha,
            typical: Typical::of(router),
            defer_atypical: calibration.defer_atypical,
            groups: groups.map(|(g, thresholds)| GroupThresholds {
                names: g.names.as_slice().into(),
                thresholds: thresholds.into(),
                pooled: g.pooled,
            }),
        })
    }

    /// λ.
    pub fn lam(&self) -> f64 {
        self.lam
    }

    /// α.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// τ as a margin.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Width of the rows that it reads: the embedding's, and the features'.
    pub fn dim(&self) -> usize {
        self.gate.weights().d
    }

    /// What it reads beside the embedding.
    pub fn features(&self) -> Option<&Features> {
        self.features.as_deref()
    }

    /// Whether decisions depend on the link's state.
    pub fn sees_link(&self) -> bool {
        self.gate.weights().link.is_some()
    }

    /// The level at which atypical queries are deferred, as it was calibrated.
    pub fn defer_atypical(&self) -> Option<f64> {
        self.defer_atypical
    }

    /// Names of the groups that have thresholds of their own; none without groups.
    pub fn groups(&self) -> Option<&[String]> {
        self.groups.as_ref().map(|g| &g.names[..])
    }

    /// Whose threshold a query of this group takes.
    pub fn whose<'a>(&'a self, group: Option<&str>) -> Result<Whose<'a>> {
        let Some(groups) = &self.groups else {
            return match group {
                None => Ok(Whose::All),
                Some(_) => Err(Error::argument(
                    "group",
                    "none, since the router was calibrated without groups (calibrate with groups=..., \
                     or --groups)",
                    "one",
                )),
            };
        };
        let known = group
            .and_then(|name| groups.names.binary_search_by(|known| known.as_str().cmp(name)).ok());
        Ok(match known {
            Some(at) => Whose::Group(&groups.names[at], groups.thresholds[at]),
            None if groups.pooled => Whose::All,
            None => Whose::Nobody,
        })
    }

    /// What a query of this group is compared with. Where thresholds were calibrated per group, a query
    /// of none, or of one that calibration did not see, is deferred, or compared with the threshold of
    /// all where that was asked for.
    pub fn threshold_of(&self, group: Option<&str>) -> Result<f32> {
        Ok(match self.whose(group)? {
            Whose::All => self.threshold,
            Whose::Group(_, threshold) => threshold,
            Whose::Nobody => f32::INFINITY,
        })
    }

    /// The same of N queries; one for all where no groups are given.
    fn thresholds(&self, groups: Option<&[Option<String>]>, n: usize) -> Result<Vec<f32>> {
        let Some(groups) = groups else { return Ok(vec![self.threshold_of(None)?; n]) };
        check_len("groups", n, groups.len())?;
        groups.iter().map(|g| self.threshold_of(g.as_deref())).collect()
    }

    /// Decide one query. The decision has its p-value where `typicality` asks for it, or where atypical
    /// queries are deferred.
    pub fn route(&self, embedding: &[f32], typicality: bool) -> Result<Decision> {
        self.route_in((None, None), embedding, typicality)
    }

    /// The same of a query of a group, at a link state: a gate that sees the link takes a query without one
    /// as it takes one at the mean of training's links.
    pub fn route_in(
        &self,
        (group, state): Beside,
        embedding: &[f32],
        typicality: bool,
    ) -> Result<Decision> {
        self.route_by((self.threshold_of(group)?, state), embedding, typicality)
    }

    /// The same by a threshold of the caller's in place of the calibrated one, which has the promise: of a
    /// [`crate::RollingThreshold`], say, or +∞ to defer.
    pub fn route_by(
        &self,
        (threshold, state): (f32, Option<&LinkState>),
        embedding: &[f32],
        typicality: bool,
    ) -> Result<Decision> {
        if threshold.is_nan() {
            return Err(Error::argument("threshold", "a margin, or an infinity", threshold));
        }
        check_width(self.features(), embedding.len())?;
        let margin = self.gate.margin_at(embedding, &self.film, state)?;
        let p_value = match &self.typical {
            Some(t) if typicality || self.defer_atypical.is_some() => Some(t.p_value(embedding)),
            None if typicality => return Err(Error::no_typicality()),
            _ => None,
        };
        Ok(self.decision(margin, threshold, p_value))
    }

    fn decision(&self, margin: f32, threshold: f32, p_value: Option<f64>) -> Decision {
        Decision {
            local: accepts(margin, threshold) && self.typical_enough(p_value),
            margin,
            threshold,
            score: 1.0 / (1.0 + libm::exp(-f64::from(margin) / self.temperature)),
            p_value,
        }
    }

    /// Decide N queries, with the numbers behind each decision.
    pub fn decide(
        &self,
        embeddings: &[f32],
        (groups, states): Besides,
        threads: usize,
    ) -> Result<Vec<Decision>> {
        let margins = self.margins(embeddings, states, threads)?;
        let by = self.thresholds(groups, margins.len())?;
        let p = self.deferring(embeddings, threads)?;
        let p_of = |i: usize| p.as_ref().map(|p| p[i]);
        Ok(margins.into_iter().enumerate().map(|(i, m)| self.decision(m, by[i], p_of(i))).collect())
    }

    /// Whether a query of this p-value may be accepted.
    fn typical_enough(&self, p_value: Option<f64>) -> bool {
        match (self.defer_atypical, p_value) {
            (Some(level), Some(p)) => p > level,
            _ => true,
        }
    }

    /// p-values of N queries where decisions need them.
    fn deferring(&self, embeddings: &[f32], threads: usize) -> Result<Option<Vec<f64>>> {
        self.defer_atypical.map(|_| self.p_values(embeddings, threads)).transpose()
    }

    /// Typicality p-values of N queries, in (0, 1].
    pub fn p_values(&self, embeddings: &[f32], threads: usize) -> Result<Vec<f64>> {
        let t = self.typical.as_ref().ok_or_else(Error::no_typicality)?;
        let scores = t.score.scores(embeddings, threads)?;
        Ok(scores.into_iter().map(|s| p_value(s, &t.kept, t.n)).collect())
    }

    /// The encoder of the router's embeddings.
    pub fn encoder(&self) -> &EncoderInfo {
        &self.encoder
    }

    /// Decide one text; an encoder that is not the router's is refused.
    pub fn route_text(
        &self,
        text: &str,
        encoder: &StaticEncoder,
        typicality: bool,
    ) -> Result<Decision> {
        self.route_text_in((None, None), text, encoder, typicality)
    }

    /// The same of a query of a group, at a link state.
    pub fn route_text_in(
        &self,
        beside: Beside,
        text: &str,
        encoder: &StaticEncoder,
        typicality: bool,
    ) -> Result<Decision> {
        self.encoder.check(encoder.info())?;
        let row = row_of_text(self.features(), encoder.encode(text)?, text)?;
        self.route_in(beside, &row, typicality)
    }

    /// Decide N texts.
    pub fn route_texts<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        besides: Besides,
        encoder: &StaticEncoder,
    ) -> Result<Vec<bool>> {
        self.encoder.check(encoder.info())?;
        let embeddings = encoder.encode_batch(texts, 1)?;
        let Some(features) = self.features() else {
            return self.route_batch(&embeddings, besides, 1);
        };
        let mut rows = Vec::with_capacity(texts.len() * self.dim());
        for (e, text) in embeddings.chunks_exact(features.embedding_dim()).zip(texts) {
            rows.extend(features.row_of_text(e, text.as_ref())?);
        }
        self.route_batch(&rows, besides, 1)
    }

    /// Δ̂ of N queries, at their link states where these are known.
    pub fn margins(
        &self,
        embeddings: &[f32],
        states: Option<&[LinkState]>,
        threads: usize,
    ) -> Result<Vec<f32>> {
        self.gate.margins_at(embeddings, std::slice::from_ref(&self.film), states, threads)
    }

    /// Decide N queries.
    pub fn route_batch(
        &self,
        embeddings: &[f32],
        (groups, states): Besides,
        threads: usize,
    ) -> Result<Vec<bool>> {
        let margins = self.margins(embeddings, states, threads)?;
        let by = self.thresholds(groups, margins.len())?;
        let p = self.deferring(embeddings, threads)?;
        let typical = |i: usize| self.typical_enough(p.as_ref().map(|p| p[i]));
        let rows = margins.into_iter().enumerate();
        Ok(rows.map(|(i, m)| accepts(m, by[i]) && typical(i)).collect())
    }
}
