//! The rules of stage two: which models a deferred query may go to.

use std::ops::Range;

use crate::base::error::{Error, Result};

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

    /// The rule of a name; `fallback` names the one model of the rule "fallback".
    pub fn named(models: &[String], name: &str, fallback: Option<&str>) -> Result<Self> {
        match (name, fallback) {
            ("edge-only", None) => Ok(Self::EdgeOnly),
            ("inclusive", None) => Ok(Self::Inclusive),
            ("fallback", Some(model)) => Self::fallback(models, model),
            (name, fallback) => Err(Error::argument(
                "rule",
                "\"edge-only\", \"inclusive\", or \"fallback\" with fallback=<edge model>",
                match fallback {
                    None => format!("{name:?} without fallback"),
                    Some(model) => format!("{name:?} with fallback={model:?}"),
                },
            )),
        }
    }

    /// The model of a fallback.
    pub(super) fn model(self) -> Option<usize> {
        match self {
            Self::Fallback(Fallback(k)) => Some(k),
            Self::EdgeOnly | Self::Inclusive => None,
        }
    }

    /// The models that it allows, of `m` models.
    pub(super) fn allows(self, m: usize) -> Range<usize> {
        match self {
            Self::EdgeOnly => 1..m,
            Self::Inclusive => 0..m,
            Self::Fallback(Fallback(k)) => k.min(m - 1)..(k + 1).min(m),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EdgeOnly => "edge-only",
            Self::Inclusive => "inclusive",
            Self::Fallback(_) => "fallback",
        }
    }
}
