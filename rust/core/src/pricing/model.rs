//! One model of a cost table: where it runs, what a token takes, what a token costs.
//!
//! In: an entry of `models`. Out: a checked [`Model`]. Null is unmeasured, and allowed where no share
//! of the cost needs the number; zero is a measurement.

use serde::Deserialize;

use crate::base::error::Result;
use crate::pricing::version::bad;

/// Which numbers costs need, and what the table calls the reason.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Coefficients of time.
    pub time: bool,
    /// Powers.
    pub power: bool,
    /// Prices.
    pub price: bool,
    /// What the table calls its shares.
    pub word: &'static str,
}

impl Needs {
    /// A power is at least 0, and null only where costs need no energy.
    pub fn check_power(&self, field: String, watts: Option<f64>) -> Result<()> {
        let w = self.word;
        let expected = format!("watts, since {w}.energy > 0");
        let null = format!("null (unmeasured); measure it or set {w} to latency 1, energy 0");
        check_number(field, watts, self.power, &expected, &null)
    }
}

/// Form of a workload Φ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phi {
    /// Φ(L) = L.
    #[default]
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
    /// On the operator's server.
    Edge,
    /// At a provider that bills for it.
    Cloud,
}

impl Tier {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Edge => "edge",
            Self::Cloud => "cloud",
        }
    }
}

/// One model's coefficients.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// Its name in routing tables and artifacts.
    pub name: String,
    /// Where it runs.
    pub tier: Tier,
    /// Fixed part of the inference time, s; null when unmeasured.
    pub tau0_s: Option<f64>,
    /// Prefill, s per token; null when unmeasured.
    pub beta_pre_s: Option<f64>,
    /// Decode, s per token; null when unmeasured.
    pub beta_dec_s: Option<f64>,
    /// Prefill workload; null in schema /2 is linear.
    pub phi_pre: Option<Phi>,
    /// Decode workload; null in schema /2 is linear.
    pub phi_dec: Option<Phi>,
    /// κ of a quadratic prefill, 1/token; absent or null for a linear one.
    pub kappa_pre: Option<f64>,
    /// κ of a quadratic decode, 1/token; absent or null for a linear one.
    pub kappa_dec: Option<f64>,
    /// Power while it infers, W; null when unmeasured.
    pub p_active_w: Option<f64>,
    /// Price of an input token, $; null when unknown.
    pub usd_per_input_token: Option<f64>,
    /// Price of an output token, $; null when unknown.
    pub usd_per_output_token: Option<f64>,
    /// Price of a request, $; absent, it is 0 where tokens have prices.
    pub usd_per_request: Option<f64>,
}

impl Model {
    /// Inference time τ_inf, s; NaN where a coefficient is unmeasured.
    pub fn inference_s(&self, n_input: f64, n_output: f64) -> f64 {
        let form = |phi: Option<Phi>| phi.unwrap_or_default();
        let known = |x: Option<f64>| x.unwrap_or(f64::NAN);
        known(self.tau0_s)
            + known(self.beta_pre_s)
                * form(self.phi_pre).work(n_input, self.kappa_pre.unwrap_or(0.0))
            + known(self.beta_dec_s)
                * form(self.phi_dec).work(n_output, self.kappa_dec.unwrap_or(0.0))
    }

    /// Price of a request, $; NaN where a price is unknown.
    pub fn usd(&self, n_input: f64, n_output: f64) -> f64 {
        let known = |x: Option<f64>| x.unwrap_or(f64::NAN);
        known(self.usd_per_input_token) * n_input
            + known(self.usd_per_output_token) * n_output
            + self.usd_per_request.unwrap_or(0.0)
    }

    /// The coefficients of time, by name.
    pub fn coefficients(&self) -> [(&'static str, Option<f64>); 3] {
        [("tau0_s", self.tau0_s), ("beta_pre_s", self.beta_pre_s), ("beta_dec_s", self.beta_dec_s)]
    }

    /// The prices of tokens, by name.
    pub fn token_prices(&self) -> [(&'static str, Option<f64>); 2] {
        [
            ("usd_per_input_token", self.usd_per_input_token),
            ("usd_per_output_token", self.usd_per_output_token),
        ]
    }

    /// Whether a request to it takes any time that is known.
    pub fn takes_time(&self) -> bool {
        self.coefficients().iter().any(|(_, x)| x.is_some_and(|x| x > 0.0))
    }

    /// Whether a request to it costs any money that is known.
    pub fn takes_money(&self) -> bool {
        let prices = self.token_prices();
        prices.iter().any(|(_, x)| x.is_some_and(|x| x > 0.0))
            || self.usd_per_request.is_some_and(|x| x > 0.0)
    }

    /// Check entry `i`, given which of its numbers costs need.
    pub fn check(&self, i: usize, needs: &Needs) -> Result<()> {
        let at = |f: &str| format!("models[{i}] ({}).{f}", self.name);
        if self.name.is_empty() {
            return Err(bad(at("name"), "a name", "an empty one"));
        }
        for (name, x) in self.coefficients() {
            let why = "null (unmeasured); profile this model first";
            check_number(at(name), x, needs.time, "a number", why)?;
        }
        for (name, phi, kappa) in [
            ("kappa_pre", self.phi_pre, self.kappa_pre),
            ("kappa_dec", self.phi_dec, self.kappa_dec),
        ] {
            match (phi.unwrap_or_default(), kappa) {
                (Phi::Linear, None) => {}
                (Phi::Quadratic, Some(k)) => at_least_zero(at(name), k)?,
                (Phi::Linear, Some(k)) => return Err(bad(at(name), "none, phi being linear", k)),
                (Phi::Quadratic, None) => {
                    return Err(bad(at(name), "1/token, phi being quadratic", "none"));
                }
            }
        }
        needs.check_power(at("p_active_w"), self.p_active_w)?;
        for (name, x) in self.token_prices() {
            let expected = "dollars, since shares.price > 0";
            let why = "null (unknown); write 0 for a model that costs no money";
            check_number(at(name), x, needs.price, expected, why)?;
        }
        check_number(at("usd_per_request"), self.usd_per_request, false, "", "")
    }
}

/// A number is at least 0, and null only where costs do not need it.
pub fn check_number(
    field: String,
    x: Option<f64>,
    needed: bool,
    expected: &str,
    null: &str,
) -> Result<()> {
    match x {
        Some(x) => at_least_zero(field, x),
        None if needed => Err(bad(field, expected, null)),
        None => Ok(()),
    }
}

/// Refuse a number that is negative or not finite.
pub fn at_least_zero(field: String, v: f64) -> Result<()> {
    if v.is_finite() && v >= 0.0 { Ok(()) } else { Err(bad(field, "a number, at least 0", v)) }
}
