//! Stage two, at the edge: the model of greatest utility among those allowed.
//!
//! In: embedding, L_in, link state, availability; output lengths predicted unless given. Out: a
//! [`Selection`] (equations 33–35): argmax p_m(x) − λ·c_m(x, ξ).

use std::sync::Arc;

use crate::base::checks::{check_lam, check_len, check_tokens};
use crate::base::error::{Error, Result};
use crate::calibration::longest::longest;
use crate::choice::{best, margin, utility};
use crate::decide::budget::Budget;
use crate::decide::rule::Rule;
use crate::encoder::identity::EncoderInfo;
use crate::features::inputs::{Features, check_width};
use crate::networks::length::LengthPredictor;
use crate::networks::teacher::Teacher;
use crate::pricing::cost::{CostTable, Quantity, Request, check_costs};
use crate::pricing::link::LinkState;
use crate::router::Router;

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
    /// t, s; `None` where the table cannot tell.
    pub latency_s: Option<f64>,
    /// e, J; `None` where the table cannot tell.
    pub energy_j: Option<f64>,
    /// d, $; `None` where the table cannot tell.
    pub usd: Option<f64>,
}

/// One query at the edge.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// (d,).
    pub embedding: &'a [f32],
    /// L_in.
    pub n_input_tokens: f64,
    /// (M,) known L_out, or `None` to predict them.
    pub n_output_tokens: Option<&'a [f64]>,
    /// ξ.
    pub state: LinkState,
    /// (M,) which models are up, or `None` for all.
    pub available: Option<&'a [bool]>,
    /// (M,) for how long each model's queue holds a request back, s; `None` where none does.
    pub waiting_s: Option<&'a [f64]>,
    /// What the call may cost at most.
    pub budget: Budget,
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
    /// What each call may cost at most.
    pub budget: Budget,
}

impl Batch<'_> {
    /// Query `i`, of `m` models.
    fn query(&self, i: usize, d: usize, m: usize) -> Query<'_> {
        Query {
            embedding: &self.embeddings[i * d..(i + 1) * d],
            n_input_tokens: self.n_input_tokens[i],
            n_output_tokens: self.n_output_tokens.map(|known| &known[i * m..(i + 1) * m]),
            state: self.states[i],
            available: self.available,
            waiting_s: None,
            budget: self.budget,
        }
    }
}

/// The edge's selector at one λ. Immutable; share it between threads.
#[derive(Clone, Debug)]
pub struct EdgeSelector {
    pub(super) teacher: Arc<Teacher>,
    pub(super) length: Arc<LengthPredictor>,
    pub(super) costs: Arc<CostTable>,
    /// Conformal factors of output lengths (M,); empty where the calibration had no lengths.
    pub(super) length_factors: Vec<f64>,
    pub(super) encoder: EncoderInfo,
    pub(super) features: Option<Arc<Features>>,
    pub(super) typical: LinkState,
    pub(super) lam: f64,
    pub(super) rule: Rule,
}

impl EdgeSelector {
    /// Bind a router to λ and a rule.
    pub fn new(router: &Router, lam: f64, rule: Rule) -> Result<Self> {
        check_lam(lam)?;
        Ok(Self {
            teacher: Arc::clone(router.teacher()),
            length: Arc::clone(router.length()),
            costs: Arc::new(router.costs().clone()),
            length_factors: router
                .calibration()
                .map_or_else(Vec::new, |c| c.length_factors.clone()),
            encoder: router.encoder().clone(),
            features: router.features().cloned(),
            typical: router.costs().link().typical()?,
            lam,
            rule,
        })
    }

    /// λ.
    pub fn lam(&self) -> f64 {
        self.lam
    }

    /// The encoder of the router's embeddings.
    pub fn encoder(&self) -> &EncoderInfo {
        &self.encoder
    }

    /// The link state of a call that names none.
    pub fn typical(&self) -> LinkState {
        self.typical
    }

    /// Where each model runs: its tier in the cost table.
    pub fn places(&self) -> Vec<&'static str> {
        self.costs.table().models.iter().map(|m| m.tier.name()).collect()
    }

    /// Model names, the device's first.
    pub fn models(&self) -> Vec<String> {
        self.costs.models()
    }

    /// What it reads beside the embedding.
    pub fn features(&self) -> Option<&Features> {
        self.features.as_deref()
    }

    /// Width of the rows that it reads: the embedding's, and the features'.
    pub fn dim(&self) -> usize {
        self.teacher.weights().d
    }

    /// Select for every query of a batch.
    pub fn select_batch(&self, q: &Batch, threads: usize) -> Result<Vec<Selection>> {
        let (m, d, n) = (self.teacher.weights().models, self.dim(), q.n_input_tokens.len());
        check_len("embeddings (N·d values)", n * d, q.embeddings.len())?;
        check_len("states", n, q.states.len())?;
        check_tokens("n_input_tokens", q.n_input_tokens)?;
        if !q.budget.is_none() {
            return self.select_each(q);
        }
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
        let rows = p.chunks_exact(m).zip(c.chunks_exact(m)).zip(n_output.chunks_exact(m));
        Ok(rows
            .enumerate()
            .map(|(i, ((p, c), n_output_tokens))| {
                let (n_input_tokens, state) = (q.n_input_tokens[i], q.states[i]);
                let request = Request { n_input_tokens, n_output_tokens, state, waiting_s: None };
                self.pick(&candidates, p, c, &request)
            })
            .collect())
    }

    /// Select within a budget, query by query: each has candidates of its own.
    fn select_each(&self, q: &Batch) -> Result<Vec<Selection>> {
        let (m, d) = (self.teacher.weights().models, self.dim());
        if let Some(known) = q.n_output_tokens {
            check_len("n_output_tokens (N·M values)", q.n_input_tokens.len() * m, known.len())?;
        }
        let of_row = |i| self.select(&q.query(i, d, m)).map_err(|e| e.of_row(i));
        (0..q.n_input_tokens.len()).map(of_row).collect()
    }

    /// Select for one query: the same bits as in a batch, of the candidates alone.
    pub fn select(&self, q: &Query) -> Result<Selection> {
        let candidates = self.candidates(q.available)?;
        self.priced(q, |request, longest| {
            if q.budget.is_none() {
                return self.best_of(&candidates, q.embedding, request);
            }
            let mut within = candidates.clone();
            within.retain(|m| q.budget.allows(&self.costs, *m, longest));
            if within.is_empty() {
                return Err(q.budget.unmet(&self.costs, candidates.iter().copied(), longest));
            }
            self.best_of(&within, q.embedding, request)
        })
    }

    /// What model `m` is expected to do with a query, whatever the rule says.
    pub fn estimate(&self, m: usize, q: &Query) -> Result<Selection> {
        self.priced(q, |request, _| self.best_of(&[m], q.embedding, request))
    }

    /// The label r: whether the full-information choice is an edge model, by the teacher and predicted
    /// lengths; availability, queues, the budget and the rule do not count. The same bits as a
    /// calibration's.
    pub fn prefers_edge(&self, q: &Query) -> Result<bool> {
        let q = Query { available: None, waiting_s: None, budget: Budget::default(), ..*q };
        self.priced(&q, |request, _| {
            let m = self.teacher.weights().models;
            let (mut p, mut c) = (vec![0.0; m], vec![0.0; m]);
            self.teacher.accuracies_of(q.embedding, 0..m, &mut p)?;
            self.costs.costs_into(request, &mut c)?;
            check_costs(&c)?;
            Ok(margin(&p, &c, self.lam) < 0.0)
        })
    }

    /// Whether model `m` keeps the budget of a query.
    pub fn keeps(&self, m: usize, q: &Query) -> Result<bool> {
        self.priced(q, |_, longest| Ok(q.budget.allows(&self.costs, m, longest)))
    }

    /// The error of a budget that neither the device nor an edge model meets.
    pub fn unmet(&self, q: &Query) -> Result<Error> {
        let edge = self.candidates(q.available)?;
        let all = std::iter::once(0).chain(edge.into_iter().filter(|m| *m != 0));
        self.priced(q, |_, longest| Ok(q.budget.unmet(&self.costs, all, longest)))
    }

    /// Check a query, and hand on the request as it is expected, and as it is at its longest; without
    /// a budget the second is the first.
    pub(super) fn priced<T>(
        &self,
        q: &Query,
        then: impl FnOnce(&Request, &Request) -> Result<T>,
    ) -> Result<T> {
        let m = self.teacher.weights().models;
        let (n_input_tokens, state) = (q.n_input_tokens, q.state);
        self.check(q)?;
        let mut predicted = Vec::new();
        let n_output_tokens = if let Some(known) = q.n_output_tokens {
            check_len("n_output_tokens (N·M values)", m, known.len())?;
            check_tokens("n_output_tokens", known)?;
            known
        } else {
            predicted.resize(m, 0.0);
            self.length.predict_into(q.embedding, n_input_tokens, &mut predicted);
            &predicted
        };
        let waiting_s = q.waiting_s;
        let request = Request { n_input_tokens, n_output_tokens, state, waiting_s };
        if q.budget.is_none() || q.n_output_tokens.is_some() {
            return then(&request, &request);
        }
        if self.length_factors.is_empty() {
            return Err(Error::argument(
                "budget",
                "a router that knows how long answers get; calibrate on 19 or more queries with \
                 recorded output tokens",
                "one calibrated without",
            ));
        }
        let mut upper = vec![0.0; m];
        longest(n_output_tokens, &self.length_factors, &mut upper);
        then(&request, &Request { n_output_tokens: &upper, ..request })
    }

    /// Refuse a query that is out of range.
    pub fn check(&self, q: &Query) -> Result<()> {
        check_width(self.features(), q.embedding.len())?;
        check_len("embedding", self.dim(), q.embedding.len())?;
        check_tokens("n_input_tokens", &[q.n_input_tokens])?;
        q.state.check(|| "states[0]".into())?;
        if let Some(waiting) = q.waiting_s {
            check_len(
                "waiting_s (a time a model, the device's first)",
                self.teacher.weights().models,
                waiting.len(),
            )?;
            if let Some(k) = waiting.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
                let what = format!("waiting_s[{k}]");
                return Err(Error::argument(what, "seconds, at least 0", waiting[k]));
            }
        }
        q.budget.check(&self.costs)
    }

    fn best_of(&self, candidates: &[usize], x: &[f32], request: &Request) -> Result<Selection> {
        let m = self.teacher.weights().models;
        let (mut p, mut c) = (vec![0.0; m], vec![0.0; m]);
        self.teacher.accuracies_of(x, candidates.iter().copied(), &mut p)?;
        self.costs.costs_into(request, &mut c)?;
        check_costs(&c)?;
        Ok(self.pick(candidates, &p, &c, request))
    }

    fn pick(&self, candidates: &[usize], p: &[f32], c: &[f32], request: &Request) -> Selection {
        let k = best(p, c, self.lam, candidates.iter().copied()).expect("candidates exist");
        let known = |what| Some(self.costs.quantity(what, k, request)).filter(|x| !x.is_nan());
        Selection {
            model: k,
            utility: utility(p[k], c[k], self.lam),
            accuracy: p[k],
            cost: c[k],
            latency_s: known(Quantity::LatencyS),
            energy_j: known(Quantity::EnergyJ),
            usd: known(Quantity::Usd),
        }
    }

    fn candidates(&self, available: Option<&[bool]>) -> Result<Vec<usize>> {
        let m = self.teacher.weights().models;
        if let Some(mask) = available {
            check_len("available (one flag a model, the device's first)", m, mask.len())?;
        }
        let up = self.rule.allows(m).filter(|k| available.is_none_or(|a| a[*k]));
        let up: Vec<usize> = up.collect();
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
