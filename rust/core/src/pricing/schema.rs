//! `cost_table.json`: schema `cr2fast.cost_table/1`, parsed and validated.
//!
//! In: JSON text. Out: [`Table`]. Null is unmeasured, zero is a measurement; a field that costs need
//! and that is null is named in the error. Extra fields (intervals, provenance) are kept.

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::base::error::{Error, Result};
use crate::base::hash::hex;
use crate::base::limits::MAX_MODELS;
use crate::pricing::link::Link;

/// The schema this build reads.
pub const SCHEMA: &str = "cr2fast.cost_table/1";

/// Mean latency and energy of the reference model: the scale of a raw cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalizers {
    /// T0, s.
    pub latency_s: f64,
    /// E0, J.
    pub energy_j: f64,
}

/// Whether a table was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// By a profiler on real hardware.
    Measured,
    /// From data sheets or published throughput.
    Estimated,
}

/// Form of a workload Φ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phi {
    /// Φ(L) = L.
    Linear,
    /// Φ(L) = L + κ·L², the attention term.
    Quadratic,
}

impl Phi {
    /// Work of `tokens` tokens, in tokens.
    pub fn work(self, tokens: f64, kappa: f64) -> f64 {
        match self {
            Self::Linear => tokens,
            Self::Quadratic => tokens + kappa * tokens * tokens,
        }
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// On the UE.
    Device,
    /// On the server.
    Edge,
}

/// One model's coefficients.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// Its name in routing tables and artifacts.
    pub name: String,
    /// Where it runs.
    pub tier: Tier,
    /// Fixed part of the inference time, s.
    pub tau0_s: f64,
    /// Prefill, s a token.
    pub beta_pre_s: f64,
    /// Decode, s a token.
    pub beta_dec_s: f64,
    /// Prefill workload.
    pub phi_pre: Phi,
    /// Decode workload.
    pub phi_dec: Phi,
    /// κ of a quadratic prefill, 1/token; absent or null for a linear one.
    pub kappa_pre: Option<f64>,
    /// κ of a quadratic decode, 1/token; absent or null for a linear one.
    pub kappa_dec: Option<f64>,
    /// Power while it infers, W; null when unmeasured.
    pub p_active_w: Option<f64>,
}

/// ω_t and ω_e.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Shares {
    /// ω_t.
    pub latency: f64,
    /// ω_e.
    pub energy: f64,
}

/// The device's radio and idle power.
#[derive(Clone, Copy, Debug, Deserialize)]
#[allow(clippy::struct_field_names)] // The file's names.
pub struct Ue {
    /// While it sends, W; null when unmeasured.
    pub p_tx_w: Option<f64>,
    /// While it receives, W; null when unmeasured.
    pub p_rx_w: Option<f64>,
    /// While it waits, W; null when unmeasured.
    pub p_idle_w: Option<f64>,
}

impl Ue {
    fn powers(&self) -> [(&'static str, Option<f64>); 3] {
        [("p_tx_w", self.p_tx_w), ("p_rx_w", self.p_rx_w), ("p_idle_w", self.p_idle_w)]
    }
}

#[derive(Deserialize)]
struct Parsed {
    source: Source,
    /// The word of schema /1.
    #[serde(rename = "weights")]
    shares: Shares,
    reference_model: String,
    ue: Ue,
    models: Vec<Model>,
}

/// A validated table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Measured or estimated.
    pub source: Source,
    /// ω.
    pub shares: Shares,
    /// Index of the reference model.
    pub reference: usize,
    /// The link.
    pub link: Link,
    /// The device.
    pub ue: Ue,
    /// Models, the device's first.
    pub models: Vec<Model>,
    raw: Value,
}

fn bad(field: impl Into<String>, expected: impl Into<String>, got: impl ToString) -> Error {
    Error::CostTable { field: field.into(), expected: expected.into(), got: got.to_string() }
}

fn at_least_zero(field: String, v: f64) -> Result<()> {
    if v.is_finite() && v >= 0.0 { Ok(()) } else { Err(bad(field, "a number, at least 0", v)) }
}

/// A power is at least 0, and null only where costs need no energy.
fn check_power(field: String, watts: Option<f64>, shares: Shares) -> Result<()> {
    match watts {
        Some(p) => at_least_zero(field, p),
        None if shares.energy > 0.0 => Err(bad(
            field,
            "watts, since weights.energy > 0",
            "null (unmeasured); measure it or set weights to latency 1, energy 0",
        )),
        None => Ok(()),
    }
}

impl Table {
    /// Parse and validate.
    pub fn from_json(json: &str) -> Result<Self> {
        let raw: Value = serde_json::from_str(json).map_err(|e| bad("file", "valid JSON", e))?;
        Self::from_value(raw)
    }

    fn from_value(raw: Value) -> Result<Self> {
        match raw.get("schema") {
            Some(Value::String(s)) if s == SCHEMA => {}
            other => {
                let got = other.map_or("no such field".into(), ToString::to_string);
                return Err(bad("schema", format!("\"{SCHEMA}\""), got));
            }
        }
        let link = Link::from_value(raw.get("link").unwrap_or(&Value::Null))?;
        if let Some(path) = null_coefficient(&raw) {
            return Err(bad(path, "a number", "null (unmeasured); profile this model first"));
        }
        let p: Parsed = serde_json::from_value(raw.clone())
            .map_err(|e| bad("file", "the fields of the schema", e))?;
        let reference =
            p.models.iter().position(|m| m.name == p.reference_model).ok_or_else(|| {
                let names: Vec<&str> = p.models.iter().map(|m| m.name.as_str()).collect();
                bad("reference_model", format!("one of the models {names:?}"), &p.reference_model)
            })?;
        let table = Self {
            source: p.source,
            shares: p.shares,
            reference,
            link,
            ue: p.ue,
            models: p.models,
            raw,
        };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<()> {
        let w = self.shares;
        at_least_zero("weights.latency".into(), w.latency)?;
        at_least_zero("weights.energy".into(), w.energy)?;
        if (w.latency + w.energy - 1.0).abs() > 1e-9 {
            return Err(bad("weights", "latency + energy = 1", w.latency + w.energy));
        }
        for (name, watts) in self.ue.powers() {
            check_power(format!("ue.{name}"), watts, w)?;
        }
        if !(2..=MAX_MODELS).contains(&self.models.len()) {
            return Err(bad("models", format!("2 to {MAX_MODELS} models"), self.models.len()));
        }
        for (i, m) in self.models.iter().enumerate() {
            let at = |f: &str| format!("models[{i}] ({}).{f}", m.name);
            at_least_zero(at("tau0_s"), m.tau0_s)?;
            at_least_zero(at("beta_pre_s"), m.beta_pre_s)?;
            at_least_zero(at("beta_dec_s"), m.beta_dec_s)?;
            for (name, phi, kappa) in
                [("kappa_pre", m.phi_pre, m.kappa_pre), ("kappa_dec", m.phi_dec, m.kappa_dec)]
            {
                match (phi, kappa) {
                    (Phi::Linear, None) => {}
                    (Phi::Quadratic, Some(k)) => at_least_zero(at(name), k)?,
                    (Phi::Linear, Some(k)) => {
                        return Err(bad(at(name), "none, phi being linear", k));
                    }
                    (Phi::Quadratic, None) => {
                        return Err(bad(at(name), "1/token, phi being quadratic", "none"));
                    }
                }
            }
            if m.name.is_empty() {
                return Err(bad(at("name"), "a name", "an empty one"));
            }
            check_power(at("p_active_w"), m.p_active_w, w)?;
            let expected = if i == 0 { Tier::Device } else { Tier::Edge };
            if m.tier != expected {
                return Err(bad(
                    at("tier"),
                    "the one device model first, then edge models",
                    format!("{:?}", m.tier),
                ));
            }
            if self.models[..i].iter().any(|other| other.name == m.name) {
                return Err(bad(at("name"), "distinct model names", &m.name));
            }
        }
        let r = &self.models[self.reference];
        if r.tau0_s + r.beta_pre_s + r.beta_dec_s == 0.0 {
            return Err(bad("reference_model", "a model that takes time", "all coefficients 0"));
        }
        Ok(())
    }

    /// T0 and E0 of the file, when both are numbers.
    pub fn normalizers(&self) -> Result<Option<Normalizers>> {
        let get = |k: &str| self.raw.pointer(&format!("/normalizers/{k}")).unwrap_or(&Value::Null);
        let (t, e) = (get("T0_s"), get("E0_j"));
        match (t.as_f64(), e.as_f64()) {
            (Some(t), Some(e)) if t > 0.0 && e > 0.0 && t.is_finite() && e.is_finite() => {
                Ok(Some(Normalizers { latency_s: t, energy_j: e }))
            }
            _ if t.is_null() && e.is_null() => Ok(None),
            _ => Err(bad("normalizers", "two positive numbers, or two nulls", format!("{t}, {e}"))),
        }
    }

    /// The same table with T0 and E0 written in.
    pub fn with_normalizers(&self, n: Normalizers) -> Result<Self> {
        let mut raw = self.raw.clone();
        let old = raw["normalizers"].as_object().cloned().unwrap_or_default();
        let mut new = old;
        new.insert("T0_s".into(), n.latency_s.into());
        new.insert("E0_j".into(), n.energy_j.into());
        raw["normalizers"] = Value::Object(new);
        Self::from_value(raw)
    }

    /// The same table with these models in this order.
    pub fn select(&self, names: &[String]) -> Result<Self> {
        let mut raw = self.raw.clone();
        let all = self.raw["models"].as_array().cloned().unwrap_or_default();
        let mut chosen = Vec::with_capacity(names.len());
        for name in names {
            let model = all.iter().find(|m| m["name"] == name.as_str()).ok_or_else(|| {
                let known: Vec<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
                bad("models", format!("a model named {name:?}"), format!("only {known:?}"))
            })?;
            chosen.push(model.clone());
        }
        raw["models"] = Value::Array(chosen);
        Self::from_value(raw)
    }

    /// Whether every model's power and the device's radio and idle power are known.
    pub fn energy_known(&self) -> bool {
        self.require_energy().is_ok()
    }

    /// An error that names the first unmeasured power.
    pub fn require_energy(&self) -> Result<()> {
        let unmeasured = |field| Err(bad(field, "watts", "null (unmeasured)"));
        if let Some(m) = self.models.iter().find(|m| m.p_active_w.is_none()) {
            return unmeasured(format!("{}.p_active_w", m.name));
        }
        match self.ue.powers().iter().find(|(_, watts)| watts.is_none()) {
            None => Ok(()),
            Some((name, _)) => unmeasured(format!("ue.{name}")),
        }
    }

    /// Canonical JSON: sorted keys, no white space.
    pub fn to_json(&self) -> String {
        self.raw.to_string()
    }

    /// SHA-256 of the canonical JSON without normalizers, which follow from the data.
    pub fn hash(&self) -> String {
        let mut raw = self.raw.clone();
        if let Some(map) = raw.as_object_mut() {
            map.remove("normalizers");
        }
        hex(&Sha256::digest(raw.to_string()))
    }
}

/// JSON path of the first coefficient that is null.
fn null_coefficient(raw: &Value) -> Option<String> {
    raw["models"].as_array()?.iter().enumerate().find_map(|(i, m)| {
        ["tau0_s", "beta_pre_s", "beta_dec_s"]
            .iter()
            .find(|f| m.get(**f).is_some_and(Value::is_null))
            .map(|f| format!("models[{i}].{f}"))
    })
}
