//! Stage one, on the device: accept a query for the local model, or defer it.
//!
//! In: an embedding, or a text and a static encoder. Out: a [`Decision`] at one operating point
//! (λ, α), bound at construction.
//! Accept ⇔ Δ̂ ≥ τ, both margins: the score s = σ(Δ̂/T) is made for people only.

use std::sync::Arc;

use crate::base::error::Result;
use crate::calibration::crc::accepts;
use crate::encoder::identity::EncoderInfo;
use crate::encoder::static_encoder::StaticEncoder;
use crate::networks::gate::{Film, Gate};
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
}

/// The device's router at one operating point. Immutable; share it between threads.
#[derive(Clone, Debug)]
pub struct DeviceRouter {
    encoder: EncoderInfo,
    gate: Arc<Gate>,
    film: Film,
    threshold: f32,
    temperature: f64,
    lam: f64,
    alpha: f64,
}

impl DeviceRouter {
    /// Bind a calibrated router to (λ, α), both on its grid.
    pub fn new(router: &Router, lam: f64, alpha: f64) -> Result<Self> {
        let (lam, alpha, threshold) = router.threshold(lam, alpha)?;
        Ok(Self {
            film: router.gate().film(lam)?,
            temperature: router.gate().weights().temperature(),
            gate: Arc::clone(router.gate()),
            encoder: router.encoder().clone(),
            threshold,
            lam,
            alpha,
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

    /// Embedding width.
    pub fn dim(&self) -> usize {
        self.gate.weights().d
    }

    /// Decide one query.
    pub fn route(&self, embedding: &[f32]) -> Result<Decision> {
        Ok(self.decision(self.gate.margin(embedding, &self.film)?))
    }

    fn decision(&self, margin: f32) -> Decision {
        Decision {
            local: accepts(margin, self.threshold),
            margin,
            threshold: self.threshold,
            score: 1.0 / (1.0 + libm::exp(-f64::from(margin) / self.temperature)),
        }
    }

    /// Decide N queries, with the numbers behind each decision.
    pub fn decide(&self, embeddings: &[f32], threads: usize) -> Result<Vec<Decision>> {
        let margins = self.margins(embeddings, threads)?;
        Ok(margins.into_iter().map(|m| self.decision(m)).collect())
    }

    /// The encoder of the router's embeddings.
    pub fn encoder(&self) -> &EncoderInfo {
        &self.encoder
    }

    /// Decide one text; an encoder that is not the router's is refused.
    pub fn route_text(&self, text: &str, encoder: &StaticEncoder) -> Result<Decision> {
        self.encoder.check(encoder.info())?;
        self.route(&encoder.encode(text)?)
    }

    /// Decide N texts.
    pub fn route_texts<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        encoder: &StaticEncoder,
    ) -> Result<Vec<bool>> {
        self.encoder.check(encoder.info())?;
        self.route_batch(&encoder.encode_batch(texts, 1)?, 1)
    }

    /// Δ̂ of N queries.
    pub fn margins(&self, embeddings: &[f32], threads: usize) -> Result<Vec<f32>> {
        self.gate.margins(embeddings, std::slice::from_ref(&self.film), threads)
    }

    /// Decide N queries.
    pub fn route_batch(&self, embeddings: &[f32], threads: usize) -> Result<Vec<bool>> {
        let margins = self.margins(embeddings, threads)?;
        Ok(margins.into_iter().map(|m| accepts(m, self.threshold)).collect())
    }
}
