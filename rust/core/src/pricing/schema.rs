//! `cost_table.json`: schemas `cr2fast.cost_table/1` and `/2`, parsed and validated.
//!
//! In: JSON text. Out: [`Table`]. Null is unmeasured, zero is a measurement; a field that costs need
//! and that is null is named in the error. An unknown field is an error, too ([`fields`]).
//!
//! Schema /2 adds dollars: prices of each model, a share `price`, the scale D0, the tier `cloud`
//! and a link of kind `none`. What no share of the cost needs may be null there.

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::base::error::Result;
use crate::base::hash::hex;
use crate::base::json;
use crate::base::limits::MAX_MODELS;
use crate::pricing::fields;
use crate::pricing::link::Link;
use crate::pricing::model::{Model, Needs, Tier, at_least_zero};
use crate::pricing::version::{Version, bad};

/// Whether a table was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// By a profiler on real hardware.
    Measured,
    /// From data sheets, price lists or published throughput.
    Estimated,
}

/// ω_t, ω_e and ω_p.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Shares {
    /// ω_t.
    #[serde(default)]
    pub latency: f64,
    /// ω_e.
    #[serde(default)]
    pub energy: f64,
    /// ω_p.
    #[serde(default)]
    pub price: f64,
}

/// The device's radio and idle power.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
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
    /// The powers that energy needs: without a link, the radio's are none of them.
    fn powers(&self, link: &Link) -> impl Iterator<Item = (&'static str, Option<f64>)> {
        let all = [("p_idle_w", self.p_idle_w), ("p_tx_w", self.p_tx_w), ("p_rx_w", self.p_rx_w)];
        all.into_iter().take(if link.is_none() { 1 } else { 3 })
    }
}

#[derive(Deserialize)]
struct Parsed {
    source: Source,
    reference_model: String,
    #[serde(default)]
    ue: Ue,
    models: Vec<Model>,
}

/// A validated table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its schema.
    pub version: Version,
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
    pub(super) raw: Value,
}

impl Table {
    /// Parse and validate; of a table that an artifact holds, fields are not checked by name, since
    /// earlier versions kept unknown ones.
    pub fn from_json(text: &str, stored: bool) -> Result<Self> {
        // Some editors begin a file with a byte-order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let raw =
            json::parse(text).map_err(|e| bad("file", "valid JSON", json::explained(text, &e)))?;
        let version = Version::of(&raw)?;
        if !stored {
            fields::check(&raw, version)?;
        }
        Self::from_value(raw, version)
    }

    pub(super) fn from_value(raw: Value, version: Version) -> Result<Self> {
        let wrong = |e| bad("file", "the fields of the schema", e);
        let link = Link::from_value(&raw["link"], version)?;
        if version == Version::One {
            let of_models = ["tau0_s", "beta_pre_s", "beta_dec_s", "phi_pre", "phi_dec"];
            present(&raw, "", &["weights", "ue"])?;
            present(&raw["weights"], "weights.", &["latency", "energy"])?;
            for (i, model) in raw["models"].as_array().into_iter().flatten().enumerate() {
                present(model, &format!("models[{i}]."), &of_models)?;
            }
        }
        present(&raw, "", &[version.shares()])?;
        let mut shares = Shares::deserialize(&raw[version.shares()]).map_err(wrong)?;
        if version == Version::One {
            shares.price = 0.0;
        }
        let p = Parsed::deserialize(&raw).map_err(wrong)?;
        let reference =
            p.models.iter().position(|m| m.name == p.reference_model).ok_or_else(|| {
                let names: Vec<&str> = p.models.iter().map(|m| m.name.as_str()).collect();
                bad("reference_model", format!("one of the models {names:?}"), &p.reference_model)
            })?;
        let table = Self {
            version,
            source: p.source,
            shares,
            reference,
            link,
            ue: p.ue,
            models: p.models,
            raw,
        };
        table.check()?;
        Ok(table)
    }

    fn needs(&self) -> Needs {
        let (w, one) = (self.shares, self.version == Version::One);
        Needs {
            time: one || w.latency > 0.0 || w.energy > 0.0,
            power: w.energy > 0.0,
            price: w.price > 0.0,
            word: self.version.shares(),
        }
    }

    fn check(&self) -> Result<()> {
        let (w, word) = (self.shares, self.version.shares());
        at_least_zero(format!("{word}.latency"), w.latency)?;
        at_least_zero(format!("{word}.energy"), w.energy)?;
        at_least_zero(format!("{word}.price"), w.price)?;
        if (w.latency + w.energy + w.price - 1.0).abs() > 1e-9 {
            let one = self.version == Version::One;
            let sum = if one { "latency + energy = 1" } else { "latency + energy + price = 1" };
            return Err(bad(word, sum, w.latency + w.energy + w.price));
        }
        let needs = self.needs();
        for (name, watts) in self.ue.powers(&self.link) {
            needs.check_power(format!("ue.{name}"), watts)?;
        }
        if !(2..=MAX_MODELS).contains(&self.models.len()) {
            return Err(bad("models", format!("2 to {MAX_MODELS} models"), self.models.len()));
        }
        for (i, m) in self.models.iter().enumerate() {
            let at = |f: &str| format!("models[{i}] ({}).{f}", m.name);
            m.check(i, &needs)?;
            if needs.price && self.raw["models"][i].get("usd_per_request") == Some(&Value::Null) {
                return Err(bad(at("usd_per_request"), "dollars, or no such field", "null"));
            }
            let clouds = self.version == Version::Two;
            if (i == 0) != (m.tier == Tier::Device) || (m.tier == Tier::Cloud && !clouds) {
                let others = if clouds { "edge and cloud models" } else { "edge models" };
                let expected = format!("the one device model first, then {others}");
                return Err(bad(at("tier"), expected, format!("{:?}", m.tier)));
            }
            if self.models[..i].iter().any(|other| other.name == m.name) {
                return Err(bad(at("name"), "distinct model names", &m.name));
            }
        }
        let r = &self.models[self.reference];
        let costs_time = needs.time && r.takes_time();
        if !(costs_time || (needs.price && r.takes_money())) {
            let (expected, got) = if needs.price {
                ("a model that costs something", "one that costs nothing")
            } else {
                ("a model that takes time", "all coefficients 0")
            };
            return Err(bad("reference_model", expected, got));
        }
        Ok(())
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
        Self::from_value(raw, self.version)
    }

    /// Notes of the provenance: the table's, then each model's after its name.
    pub fn notes(&self) -> Vec<String> {
        let of = |object: &Value| -> Vec<String> {
            let notes = object["provenance"]["notes"].as_array();
            notes.into_iter().flatten().filter_map(|n| n.as_str().map(String::from)).collect()
        };
        let mut all = of(&self.raw);
        for (m, raw) in self.models.iter().zip(self.raw["models"].as_array().into_iter().flatten())
        {
            all.extend(of(raw).into_iter().map(|note| format!("{}: {note}", m.name)));
        }
        all
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

    /// An error that names the first number that is missing for latency, energy or price.
    pub fn require(&self, time: bool, power: bool, price: bool) -> Result<()> {
        let missing = |field: String, unit| Err(bad(field, unit, "null (unmeasured)"));
        for m in &self.models {
            let numbers = m
                .coefficients()
                .map(|c| (c, "seconds", time))
                .into_iter()
                .chain(m.token_prices().map(|p| (p, "dollars", price)));
            let watts = (("p_active_w", m.p_active_w), "watts", power);
            for ((name, x), unit, needed) in numbers.chain([watts]) {
                if needed && x.is_none() {
                    return missing(format!("{}.{name}", m.name), unit);
                }
            }
        }
        match self.ue.powers(&self.link).find(|(_, watts)| power && watts.is_none()) {
            None => Ok(()),
            Some((name, _)) => missing(format!("ue.{name}"), "watts"),
        }
    }
}

/// Refuse an object that lacks a field.
fn present(object: &Value, path: &str, names: &[&str]) -> Result<()> {
    let forms = ["phi_pre", "phi_dec"];
    let lacks = |name: &str| match object.get(name) {
        None => Some("no such field"),
        Some(Value::Null) if forms.contains(&name) => Some("null"),
        Some(_) => None,
    };
    match names.iter().find_map(|name| Some((name, lacks(name)?))) {
        Some((name, got)) if object.is_object() => {
            Err(bad(format!("{path}{name}"), "the fields of the schema", got))
        }
        _ => Ok(()),
    }
}
