//! Both stages in one call: accept or defer, and if deferred, the edge model.
//!
//! In: an embedding, and what the edge needs: L_in and the link state.
//! Out: a [`Choice`]. Without a budget it is what [`DeviceRouter`] and then [`EdgeSelector`] say.
//!
//! A budget restricts the candidates: an accepted query whose local answer may overrun goes to the
//! edge; a deferred one stays on the device where only the device meets the budget, which is then
//! marked, since α promises nothing about such a call.

use crate::base::checks::{check_len, check_tokens};
use crate::base::error::{Error, Result};
use crate::decide::budget::Budget;
use crate::decide::device::{Decision, DeviceRouter};
use crate::decide::edge::{Batch, EdgeSelector, Query, Selection};
use crate::decide::rule::Rule;
use crate::pricing::link::LinkState;
use crate::router::Router;

/// Where a query goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Stage one's decision.
    pub decision: Decision,
    /// Index of the model; 0 is on the device.
    pub model: usize,
    /// What stage two expects of the model; `None` where stage one's word was the last, and stage two
    /// was not asked ([`TwoStage::estimate`] asks).
    pub selection: Option<Selection>,
    /// Whether only the budget keeps a deferred query on the device.
    pub forced: bool,
}

/// What one call may add to its query.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// ξ; `None` takes the link's typical state, and stage one the mean of training's links where its gate
    /// sees the link.
    pub state: Option<LinkState>,
    /// (M,) which edge models are up, or `None` for all.
    pub available: Option<&'a [bool]>,
    /// What it may cost at most.
    pub budget: Budget,
    /// The query's group, where thresholds are per group.
    pub group: Option<&'a str>,
    /// τ in place of the calibrated one.
    pub threshold: Option<f32>,
    /// (M,) for how long each model's queue holds a request back, s; `None` where none does.
    pub waiting_s: Option<&'a [f64]>,
}

/// Both stages at one operating point. Immutable; share it between threads.
#[derive(Clone, Debug)]
pub struct TwoStage {
    pub(super) device: DeviceRouter,
    pub(super) edge: EdgeSelector,
}

impl TwoStage {
    /// Bind a calibrated router to (λ, α), both on its grid, and a rule for deferred queries.
    pub fn new(router: &Router, lam: f64, alpha: f64, rule: Rule) -> Result<Self> {
        let device = DeviceRouter::new(router, lam, alpha)?;
        let edge = EdgeSelector::new(router, device.lam(), rule)?;
        Ok(Self { device, edge })
    }

    /// Stage one.
    pub fn device(&self) -> &DeviceRouter {
        &self.device
    }

    /// Stage two.
    pub fn edge(&self) -> &EdgeSelector {
        &self.edge
    }

    fn query<'a>(&self, embedding: &'a [f32], n_input_tokens: f64, call: &Call<'a>) -> Query<'a> {
        Query {
            embedding,
            n_input_tokens,
            n_output_tokens: None,
            state: call.state.unwrap_or(self.edge.typical()),
            available: call.available,
            waiting_s: call.waiting_s,
            budget: call.budget,
        }
    }

    /// Choose for one query.
    pub fn route(&self, embedding: &[f32], n_input_tokens: f64, call: &Call) -> Result<Choice> {
        let query = self.query(embedding, n_input_tokens, call);
        let threshold = call.threshold.map_or_else(|| self.device.threshold_of(call.group), Ok)?;
        let decision = self.device.route_by((threshold, call.state.as_ref()), embedding, false)?;
        let local = |forced| Choice { decision, model: 0, selection: None, forced };
        if call.budget.is_none() {
            // An accepted query needs no price, and the same checks of what it came with.
            if decision.local {
                self.edge.check(&query)?;
                return Ok(local(false));
            }
            return Ok(Self::deferred(decision, self.edge.select(&query)?));
        }
        let kept = self.edge.keeps(0, &query)?;
        if decision.local && kept {
            return Ok(local(false));
        }
        match self.edge.select(&query) {
            Ok(selection) => Ok(Self::deferred(decision, selection)),
            Err(Error::Budget { .. }) if kept => Ok(local(true)),
            Err(Error::Budget { .. }) => Err(self.edge.unmet(&query)?),
            Err(e) => Err(e),
        }
    }

    fn deferred(decision: Decision, selection: Selection) -> Choice {
        Choice { decision, model: selection.model, selection: Some(selection), forced: false }
    }

    /// What stage two expects of model `m` with a query.
    pub fn estimate(
        &self,
        m: usize,
        embedding: &[f32],
        n_input_tokens: f64,
        state: Option<LinkState>,
    ) -> Result<Selection> {
        let call = Call { state, ..Call::default() };
        self.edge.estimate(m, &self.query(embedding, n_input_tokens, &call))
    }

    /// Choose for N queries: the same as one by one. Each has a group of its own, or none.
    pub fn route_batch(
        &self,
        embeddings: &[f32],
        n_input_tokens: &[f64],
        states: Option<&[LinkState]>,
        groups: Option<&[Option<String>]>,
        call: &Call,
        threads: usize,
    ) -> Result<Vec<Choice>> {
        let (n, d) = (n_input_tokens.len(), self.device.dim());
        check_len("embeddings (N·d values)", n * d, embeddings.len())?;
        if let Some(states) = states {
            check_len("states", n, states.len())?;
        }
        if let Some(groups) = groups {
            check_len("groups", n, groups.len())?;
        }
        let row = |i: usize| &embeddings[i * d..(i + 1) * d];
        let state = |i: usize| states.map_or(self.edge.typical(), |s| s[i]);
        if !call.budget.is_none() {
            return (0..n)
                .map(|i| {
                    let group = groups.and_then(|g| g[i].as_deref());
                    let call = Call { state: states.map(|s| s[i]), group, ..*call };
                    self.route(row(i), n_input_tokens[i], &call).map_err(|e| e.of_row(i))
                })
                .collect();
        }
        let decisions = self.device.decide(embeddings, (groups, states), threads)?;
        let deferred: Vec<usize> = (0..n).filter(|i| !decisions[*i].local).collect();
        let (mut x, mut n_in) = (Vec::with_capacity(deferred.len() * d), Vec::new());
        for i in &deferred {
            x.extend_from_slice(row(*i));
            n_in.push(n_input_tokens[*i]);
        }
        for (i, s) in states.into_iter().flatten().enumerate() {
            s.check(|| format!("states[{i}]"))?;
        }
        check_tokens("n_input_tokens", n_input_tokens)?;
        let batch = Batch {
            embeddings: &x,
            n_input_tokens: &n_in,
            n_output_tokens: None,
            states: &deferred.iter().map(|i| state(*i)).collect::<Vec<_>>(),
            available: call.available,
            budget: Budget::default(),
        };
        let mut selections = self.edge.select_batch(&batch, threads)?.into_iter();
        Ok(decisions
            .into_iter()
            .map(|decision| {
                let local = Choice { decision, model: 0, selection: None, forced: false };
                if decision.local {
                    return local;
                }
                Self::deferred(decision, selections.next().expect("one per deferred query"))
            })
            .collect())
    }
}
