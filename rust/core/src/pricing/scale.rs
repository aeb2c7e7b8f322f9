//! T0, E0 and D0: the scale of a raw cost.
//!
//! In: `normalizers` of a table. Out: [`Normalizers`], or the same table with others.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::pricing::schema::Table;
use crate::pricing::version::{Version, bad};

/// Mean latency, energy and price of the reference model: the scale of a raw cost. `None` where the
/// table cannot tell, which no cost then needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalizers {
    /// T0, s.
    pub latency_s: Option<f64>,
    /// E0, J.
    pub energy_j: Option<f64>,
    /// D0, $.
    pub usd: Option<f64>,
}

impl Normalizers {
    /// The numbers with their names in the file; a table of schema /1 has no D0.
    fn named(&self, version: Version) -> impl Iterator<Item = (&'static str, Option<f64>)> {
        let all = [("T0_s", self.latency_s), ("E0_j", self.energy_j), ("D0_usd", self.usd)];
        all.into_iter().take(if version == Version::One { 2 } else { 3 })
    }
}

impl Table {
    /// T0, E0 and D0 of the file, when those that costs need are numbers.
    pub fn normalizers(&self) -> Result<Option<Normalizers>> {
        let get = |k: &str| self.raw.pointer(&format!("/normalizers/{k}")).unwrap_or(&Value::Null);
        let number = |k| get(k).as_f64();
        let n = Normalizers {
            latency_s: number("T0_s"),
            energy_j: number("E0_j"),
            usd: number("D0_usd").filter(|_| self.version == Version::Two),
        };
        let good = |x: Option<f64>| x.is_some_and(|x| x > 0.0 && x.is_finite());
        let names: Vec<&str> = n.named(self.version).map(|(name, _)| name).collect();
        if names.iter().all(|k| get(k).is_null()) {
            return Ok(None);
        }
        let mut all = n.named(self.version);
        if all.all(|(k, x)| good(x) || (get(k).is_null() && !self.needs_scale(k))) {
            return Ok(Some(n));
        }
        let expected = if self.version == Version::One {
            "two positive numbers, or two nulls"
        } else {
            "positive numbers for T0_s, E0_j and D0_usd where their shares are not 0, or three nulls"
        };
        let got: Vec<String> = names
            .iter()
            .map(|k| match get(k) {
                Value::Number(x) => x.to_string(),
                Value::Null => "null".into(),
                _ => "no number".into(),
            })
            .collect();
        Err(bad("normalizers", expected, got.join(", ")))
    }

    /// Whether costs need this scale; schema /1 always has both of its own.
    fn needs_scale(&self, name: &str) -> bool {
        let w = self.shares;
        self.version == Version::One
            || match name {
                "T0_s" => w.latency > 0.0,
                "E0_j" => w.energy > 0.0,
                _ => w.price > 0.0,
            }
    }

    /// The same table with T0, E0 and D0 written in.
    pub fn with_normalizers(&self, n: Normalizers) -> Result<Self> {
        for (name, x) in n.named(self.version) {
            let good = x.map_or(!self.needs_scale(name), |x| x.is_finite() && x > 0.0);
            if !good {
                let got = x.map_or("none".into(), |x| x.to_string());
                return Err(Error::argument(
                    format!("normalizers.{name}"),
                    "a positive number",
                    got,
                ));
            }
        }
        let mut raw = self.raw.clone();
        let mut new = raw["normalizers"].as_object().cloned().unwrap_or_default();
        for (name, x) in n.named(self.version) {
            new.insert(name.into(), x.into());
        }
        raw["normalizers"] = Value::Object(new);
        Self::from_value(raw, self.version)
    }
}
