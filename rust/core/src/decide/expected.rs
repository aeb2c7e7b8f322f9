//! What a model is expected to take for a query, without asking how good its answer would be.
//!
//! In: a model and a [`Query`]. Out: its predicted output length and the cost table's figures at that:
//! those of [`EdgeSelector::estimate`], at a fraction of its time, since the teacher is the slow part.

use crate::base::checks::check_finite;
use crate::base::error::Result;
use crate::decide::edge::{EdgeSelector, Query};
use crate::pricing::cost::Quantity;

/// What a model is expected to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// L̂_out.
    pub n_output_tokens: f64,
    /// t, s; `None` where the table cannot tell.
    pub latency_s: Option<f64>,
    /// e, J; `None` where the table cannot tell.
    pub energy_j: Option<f64>,
    /// d, $; `None` where the table cannot tell.
    pub usd: Option<f64>,
}

impl EdgeSelector {
    /// What model `m` is expected to take for a query, whatever the rule says.
    pub fn expected(&self, m: usize, q: &Query) -> Result<Expected> {
        check_finite("embedding", q.embedding)?;
        self.priced(q, |request, _| {
            let known = |what| Some(self.costs.quantity(what, m, request)).filter(|x| !x.is_nan());
            Ok(Expected {
                n_output_tokens: request.n_output_tokens[m],
                latency_s: known(Quantity::LatencyS),
                energy_j: known(Quantity::EnergyJ),
                usd: known(Quantity::Usd),
            })
        })
    }
}
