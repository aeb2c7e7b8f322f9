//! What one call may cost at most.
//!
//! In: limits on seconds, joules or dollars. Out: the candidates that keep them by an upper bound of
//! their output length, or an error that names the nearest.
//!
//! Costs grow with the length: of a model's answers, no more overrun than are longer than their bound
//! ([`crate::calibration::longest`]).

use crate::base::error::{Error, Result};
use crate::calibration::longest::OVERRUN;
use crate::pricing::cost::{CostTable, Quantity, Request};

/// Limits of one call; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Most seconds.
    pub latency_s: Option<f64>,
    /// Most joules.
    pub energy_j: Option<f64>,
    /// Most dollars.
    pub usd: Option<f64>,
}

impl Budget {
    fn limits(&self) -> impl Iterator<Item = (&'static str, Quantity, f64)> {
        [
            ("max_latency_s", Quantity::LatencyS, self.latency_s),
            ("max_energy_j", Quantity::EnergyJ, self.energy_j),
            ("max_usd", Quantity::Usd, self.usd),
        ]
        .into_iter()
        .filter_map(|(name, what, limit)| Some((name, what, limit?)))
    }

    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Refuse limits that are not positive, and limits on what the table does not know.
    pub fn check(&self, costs: &CostTable) -> Result<()> {
        for (name, what, limit) in self.limits() {
            if !(limit.is_finite() && limit >= 0.0) {
                return Err(Error::argument(name, "a number, at least 0", limit));
            }
            let (known, needed) = match what {
                Quantity::LatencyS => (costs.has_latency(), "times of all models"),
                Quantity::EnergyJ => (costs.has_energy(), "times and powers of all models"),
                Quantity::Usd => (costs.has_prices(), "prices of all models"),
            };
            if !known {
                return Err(Error::argument(
                    name,
                    format!("it with a cost table that has {needed}"),
                    "one that lacks some",
                ));
            }
        }
        Ok(())
    }

    /// How far model `m` is from the limits: its largest share of one, with the limit's name and what
    /// it takes. At most 1 is within.
    fn worst(&self, costs: &CostTable, m: usize, longest: &Request) -> (f64, &'static str, f64) {
        let mut worst = (0.0, "", 0.0);
        for (name, what, limit) in self.limits() {
            let takes = costs.quantity(what, m, longest);
            // 0 of 0 is within.
            let share = if takes == 0.0 { 0.0 } else { takes / limit };
            if worst.1.is_empty() || share > worst.0 {
                worst = (share, name, takes);
            }
        }
        worst
    }

    /// Whether model `m` keeps the limits.
    pub fn allows(&self, costs: &CostTable, m: usize, longest: &Request) -> bool {
        self.limits().all(|(_, what, limit)| costs.quantity(what, m, longest) <= limit)
    }

    /// The error of a budget that none of `candidates` meets.
    pub fn unmet(
        &self,
        costs: &CostTable,
        candidates: impl Iterator<Item = usize>,
        longest: &Request,
    ) -> Error {
        let all = candidates.map(|m| (m, self.worst(costs, m, longest)));
        let nearest = all.min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0).then(a.2.total_cmp(&b.2)));
        let limits: Vec<String> =
            self.limits().map(|(name, _, limit)| format!("{name}={limit}")).collect();
        Error::Budget {
            row: None,
            limits: limits.join(", "),
            nearest: match nearest {
                None => "none is allowed".into(),
                Some((m, (_, name, takes))) => format!(
                    "{:?}, which may take {takes} of {name} (its bound: at most {OVERRUN} of its \
                     answers take more)",
                    costs.table().models[m].name.chars().take(100).collect::<String>()
                ),
            },
        }
    }
}
