//! Stage two, at the edge: the model of greatest utility among those allowed.
//!
//! In: embedding, L_in, link state, availability; output lengths predicted unless given. Out: a
//! [`Selection`] (equations 33–35): argmax p_m(x) − λ·c_m(x, ξ).

use std::sync::Arc;

use crate::base::checks::check_lam;
use crate::base::checks::check_len;
use crate::base::checks::check_tokens;
use crate::base::error::{Error, Result};
use crate::choice::{best, utility};
use crate::networks::length::LengthPredictor;
use crate::networks::teacher::Teacher;
use crate::pricing::cost::{CostTable, Request, check_costs};
use crate::pricing::link::LinkState;
use crate::router::Router;

/// Which models a deferred query may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The edge models: the deployed default.
    EdgeOnly,
    /// Every model: may send the query back to the device.
    Inclusive,
    /// One fixed edge model; made by [`Rule::fallback`].
    Fallback(Fallback),
}

/// Index of an edge model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback(usize);

impl Rule {
    /// The rule that sends every query to one edge model.
    pub fn fallback(models: &[String], name: &str) -> Result<Self> {
        match models.iter().position(|m| m == name) {
            Some(k) if k > 0 => Ok(Self::Fallback(Fallback(k))),
            _ => {
                let edge = models.get(1..).unwrap_or_default();
                Err(Error::argument(
                    "fallback",
                    format!("one of the edge models {edge:?}"),
                    format!("{name:?}"),
                ))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::EdgeOnly => "edge-only",
            Self::Inclusive => "inclusive",
            Self::Fallback(_) => "fallback",
        }
    }
}

/// A selected model, with the numbers behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Index of the model.
    pub model: usize,
    /// û = p − λ·c.
    pub utility: f64,
    /// p.
    pub accuracy: f32,
    /// c.
    pub cost: f32,
}

/// A batch of deferred queries.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// (N, d).
    pub embeddings: &'a [f32],
    /// (N,) L_in.
    pub n_input_tokens: &'a [f64],
    /// (N, M) known L_out, or `None` to predict them.
    pub n_output_tokens: Option<&'a [f64]>,
    /// (N,) ξ.
    pub states: &'a [LinkState],
    /// (M,) which models are up, or `None` for all.
    pub available: Option<&'a [bool]>,
}

/// The edge's selector at one λ. Immutable; share it between threads.
#[derive(Clone, Debug)]
pub struct EdgeSelector {
    teacher: Arc<Teacher>,
    length: Arc<LengthPredictor>,
    costs: CostTable,
    lam: f64,
    rule: Rule,
}

impl EdgeSelector {
    /// Bind a router to λ and a rule.
    pub fn new(router: &Router, lam: f64, rule: Rule) -> Result<Self> {
        check_lam(lam)?;
        Ok(Self {
            teacher: Arc::clone(router.teacher()),
            length: Arc::clone(router.length()),
            costs: router.costs().clone(),
            lam,
            rule,
        })
    }

    /// λ.
    pub fn lam(&self) -> f64 {
        self.lam
    }

    /// Model names, the device's first.
    pub fn models(&self) -> Vec<String> {
        self.costs.models()
    }

    /// Embedding width.
    pub fn dim(&self) -> usize {
        self.teacher.weights().d
    }

    /// Select for every query of a batch.
    pub fn select_batch(&self, q: &Batch, threads: usize) -> Result<Vec<Selection>> {
        let (m, d, n) = (self.teacher.weights().models, self.dim(), q.n_input_tokens.len());
        check_len("embeddings (N·d values)", n * d, q.embeddings.len())?;
        check_len("states", n, q.states.len())?;
        check_tokens("n_input_tokens", q.n_input_tokens)?;
        let candidates = self.candidates(q.available)?;
        let p = self.teacher.accuracies(q.embeddings, threads)?;
        let predicted;
        let n_output = if let Some(known) = q.n_output_tokens {
            known
        } else {
            predicted = self.length.predict(q.embeddings, q.n_input_tokens)?;
            &predicted
        };
        let c = self.costs.costs(q.n_input_tokens, n_output, q.states, threads)?;
        let rows = p.chunks_exact(m).zip(c.chunks_exact(m));
        Ok(rows.map(|(p, c)| self.pick(&candidates, p, c)).collect())
    }

    /// Select for one query: the same bits as in a batch, of the candidates alone.
    pub fn select(
        &self,
        embedding: &[f32],
        n_input_tokens: f64,
        n_output_tokens: Option<&[f64]>,
        state: LinkState,
        available: Option<&[bool]>,
    ) -> Result<Selection> {
        let m = self.teacher.weights().models;
        check_len("embedding", self.dim(), embedding.len())?;
        check_tokens("n_input_tokens", &[n_input_tokens])?;
        let candidates = self.candidates(available)?;
        let (mut p, mut c) = (vec![0.0; m], vec![0.0; m]);
        self.teacher.accuracies_of(embedding, candidates.iter().copied(), &mut p)?;
        let mut predicted = Vec::new();
        let n_output_tokens = if let Some(known) = n_output_tokens {
            check_len("n_output_tokens (N·M values)", m, known.len())?;
            check_tokens("n_output_tokens", known)?;
            known
        } else {
            predicted.resize(m, 0.0);
            self.length.predict_into(embedding, n_input_tokens, &mut predicted);
            &predicted
        };
        state.check(|| "states[0]".into())?;
        self.costs.costs_into(&Request { n_input_tokens, n_output_tokens, state }, &mut c)?;
        check_costs(&c)?;
        Ok(self.pick(&candidates, &p, &c))
    }

    fn pick(&self, candidates: &[usize], p: &[f32], c: &[f32]) -> Selection {
        let k = best(p, c, self.lam, candidates.iter().copied()).expect("candidates exist");
        Selection { model: k, utility: utility(p[k], c[k], self.lam), accuracy: p[k], cost: c[k] }
    }

    fn candidates(&self, available: Option<&[bool]>) -> Result<Vec<usize>> {
        let m = self.teacher.weights().models;
        let allowed = match self.rule {
            Rule::EdgeOnly => 1..m,
            Rule::Inclusive => 0..m,
            Rule::Fallback(Fallback(k)) => k.min(m - 1)..(k + 1).min(m),
        };
        if let Some(mask) = available {
            check_len("available (one flag a model, the device's first)", m, mask.len())?;
        }
        let up: Vec<usize> = allowed.filter(|k| available.is_none_or(|a| a[*k])).collect();
        if up.is_empty() {
            return Err(Error::argument(
                "available",
                format!("at least one model that the rule {:?} allows", self.rule.name()),
                "none of them; answer on the device or retry",
            ));
        }
        Ok(up)
    }
}
