//! The link: states ξ, from Shannon rates or from measured samples.
//!
//! In: the link section of a cost table and a seed. Out: [`LinkState`]s.
//!
//! Kind `shannon`, equations 6–9: R_q = B_q·log2(1 + p_q·g_q / (B_q·N0)),
//! g_q = K0·|z_q|²·(d/d0)^(−α_pl), d0 = 1 m. Transcendentals come from the `libm` crate.
//!
//! Kind `empirical`: measured (R_ul, R_dl, τ_rtt), drawn uniformly with replacement, state i being
//! samples[⌊u_i·n⌋] with u_i ∈ [0, 1) the seed's i-th uniform number.
//!
//! Kind `none`: no link is priced, nothing is drawn, and costs do not look at ξ.
//!
//! A seed gives the same states on every platform.

use serde::Deserialize;
use serde_json::Value;

use crate::base::checks::room;
use crate::base::error::{Error, Result};
use crate::pricing::version::{Version, bad};

/// Most samples of an empirical link: what a distribution needs and a table can carry.
pub const MAX_SAMPLES: usize = 100_000;

/// What the edge knows of the link when it decides: ξ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkState {
    /// Uplink rate, bit/s.
    pub rate_ul_bps: f64,
    /// Downlink rate, bit/s.
    pub rate_dl_bps: f64,
    /// Round-trip time, s.
    pub rtt_s: f64,
}

impl LinkState {
    /// Refuse rates that are not positive and times that are negative; `what` names the state.
    pub fn check(&self, what: impl Fn() -> String) -> Result<()> {
        for (name, rate) in [("rate_ul_bps", self.rate_ul_bps), ("rate_dl_bps", self.rate_dl_bps)] {
            if !(rate.is_finite() && rate > 0.0) {
                return Err(Error::argument(
                    format!("{}.{name}", what()),
                    "a positive rate in bit/s",
                    rate,
                ));
            }
        }
        if !(self.rtt_s.is_finite() && self.rtt_s >= 0.0) {
            return Err(Error::argument(
                format!("{}.rtt_s", what()),
                "seconds, at least 0",
                self.rtt_s,
            ));
        }
        Ok(())
    }
}

/// A one-parameter family of random numbers, as a cost table writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "distribution", rename_all = "lowercase", deny_unknown_fields)]
pub enum Distribution {
    /// Uniform on [low, high).
    Uniform {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// Exponential.
    Exponential {
        /// Its mean.
        mean: f64,
    },
    /// A constant.
    Constant {
        /// The value.
        value: f64,
    },
}

impl Distribution {
    fn quantile(&self, u: f64) -> f64 {
        match *self {
            Self::Uniform { low, high } => low + (high - low) * u,
            Self::Exponential { mean } => -mean * libm::log1p(-u),
            Self::Constant { value } => value,
        }
    }

    /// Whether every draw is positive and finite (an exponential's zero has probability 2⁻⁵³).
    fn is_positive(&self) -> bool {
        match *self {
            Self::Uniform { low, high } => low > 0.0 && high >= low && high.is_finite(),
            Self::Exponential { mean: v } | Self::Constant { value: v } => v > 0.0 && v.is_finite(),
        }
    }
}

/// The `link` section of a cost table.
#[derive(Clone, Debug)]
pub struct Link {
    /// Bits on the uplink for one input token, b_in.
    pub bits_per_input_token: f64,
    /// Bits on the downlink for one output token, b_out.
    pub bits_per_output_token: f64,
    channel: Channel,
}

/// Where states come from.
#[derive(Clone, Debug)]
enum Channel {
    Shannon(Shannon),
    /// Measured states: 1 to [`MAX_SAMPLES`].
    Empirical(Vec<LinkState>),
    /// Transfers take no time.
    None,
}

/// A fading channel and a constant round trip.
#[derive(Clone, Debug, Deserialize)]
struct Shannon {
    bandwidth_ul_hz: f64,
    bandwidth_dl_hz: f64,
    tx_power_ue_w: f64,
    tx_power_ap_w: f64,
    noise_psd_dbm_hz: f64,
    reference_gain_db: f64,
    path_loss_exponent: f64,
    distance_m: Distribution,
    fading: Distribution,
    rtt_s: f64,
}

/// States behind a typical one: an odd number.
const TYPICAL: usize = 1001;
/// A state without delay.
const NO_LINK: LinkState = LinkState { rate_ul_bps: f64::MAX, rate_dl_bps: f64::MAX, rtt_s: 0.0 };
/// Smallest |z|² drawn: a fade of 120 dB, so that a zero draw cannot make a rate of zero.
const LEAST_FADING: f64 = 1e-12;

/// A positive number of an object; the path is made for the error alone.
fn positive(object: &Value, field: &str, path: impl Fn() -> String) -> Result<f64> {
    let value = object.get(field);
    match value.and_then(Value::as_f64) {
        Some(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => {
            let got = match value {
                None => "no such field".into(),
                Some(Value::Null) => "null (unmeasured)".into(),
                Some(Value::Number(x)) => x.to_string(),
                Some(v) => kind_of(v).into(),
            };
            Err(bad(format!("{}.{field}", path()), "a positive number", got))
        }
    }
}

/// What a JSON value is, in words: a hostile one may be megabytes long.
fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The samples of an empirical link.
fn samples(link: &Value) -> Result<Vec<LinkState>> {
    let expected = || format!("an array of 1 to {MAX_SAMPLES} states");
    let rows = match link.get("samples") {
        Some(Value::Array(rows)) if (1..=MAX_SAMPLES).contains(&rows.len()) => rows,
        Some(Value::Array(rows)) => return Err(bad("link.samples", expected(), rows.len())),
        other => {
            let got = other.map_or("no such field", kind_of);
            return Err(bad("link.samples", expected(), got));
        }
    };
    let state = |(i, row): (usize, &Value)| {
        let get = |field| positive(row, field, || format!("link.samples[{i}]"));
        Ok(LinkState {
            rate_ul_bps: get("rate_ul_bps")?,
            rate_dl_bps: get("rate_dl_bps")?,
            rtt_s: get("rtt_s")?,
        })
    };
    rows.iter().enumerate().map(state).collect()
}

impl Link {
    /// Read and check a link section; the first field out of range is named.
    pub(crate) fn from_value(link: &Value, version: Version) -> Result<Self> {
        let channel = match link.get("kind") {
            Some(Value::String(kind)) if kind == "none" && version == Version::Two => {
                return Ok(Self {
                    bits_per_input_token: 0.0,
                    bits_per_output_token: 0.0,
                    channel: Channel::None,
                });
            }
            Some(Value::String(kind)) if kind == "shannon" => Channel::Shannon(
                Shannon::deserialize(link)
                    .map_err(|e| bad("link", "the fields of the schema", e))?,
            ),
            Some(Value::String(kind)) if kind == "empirical" => Channel::Empirical(samples(link)?),
            other => {
                let got = other.map_or("no such field".into(), |v| match v {
                    Value::String(kind) => {
                        format!("{:?}", kind.chars().take(40).collect::<String>())
                    }
                    v => kind_of(v).into(),
                });
                let kinds = match version {
                    Version::One => "\"shannon\" or \"empirical\"",
                    Version::Two => "\"shannon\", \"empirical\" or \"none\"",
                };
                return Err(bad("link.kind", kinds, got));
            }
        };
        if let Channel::Shannon(shannon) = &channel {
            shannon.check()?;
        }
        let get = |field| positive(link, field, || "link".into());
        Ok(Self {
            bits_per_input_token: get("bits_per_input_token")?,
            bits_per_output_token: get("bits_per_output_token")?,
            channel,
        })
    }

    /// `n` states of a seed. State i depends on (seed, i) alone: a longer sample extends a shorter.
    pub fn sample(&self, n: usize, seed: u64) -> Result<Vec<LinkState>> {
        let mut states = room("link states", n, 1)?;
        match &self.channel {
            Channel::Shannon(shannon) => {
                states.extend((0..n as u64).map(|i| shannon.state(seed, i)));
            }
            Channel::Empirical(samples) => states.extend((0..n as u64).map(|i| {
                // u ≤ 1 − 2⁻⁵³, so the rounded product stays under the length.
                samples[(uniform(seed, i) * samples.len() as f64) as usize]
            })),
            Channel::None => states.extend((0..n).map(|_| NO_LINK)),
        }
        Ok(states)
    }

    /// One state per seed, the first that it gives: what a request is priced with depends on its own seed
    /// alone.
    pub fn sample_each(&self, seeds: &[u64]) -> Result<Vec<LinkState>> {
        let mut states = room("link states", seeds.len(), 1)?;
        for seed in seeds {
            states.extend(self.sample(1, *seed)?);
        }
        Ok(states)
    }

    /// Whether no link is priced.
    pub fn is_none(&self) -> bool {
        matches!(self.channel, Channel::None)
    }

    /// A state to expect when none is known: medians of rates and round trip over states of seed 0.
    pub fn typical(&self) -> Result<LinkState> {
        let states = self.sample(TYPICAL, 0)?;
        let median = |of: &dyn Fn(&LinkState) -> f64| {
            let mut values: Vec<f64> = states.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[TYPICAL / 2]
        };
        Ok(LinkState {
            rate_ul_bps: median(&|s| s.rate_ul_bps),
            rate_dl_bps: median(&|s| s.rate_dl_bps),
            rtt_s: median(&|s| s.rtt_s),
        })
    }
}

impl Shannon {
    fn check(&self) -> Result<()> {
        let at = |field: &str| format!("link.{field}");
        for (name, v) in [
            ("bandwidth_ul_hz", self.bandwidth_ul_hz),
            ("bandwidth_dl_hz", self.bandwidth_dl_hz),
            ("tx_power_ue_w", self.tx_power_ue_w),
            ("tx_power_ap_w", self.tx_power_ap_w),
        ] {
            if !(v.is_finite() && v > 0.0) {
                return Err(bad(at(name), "a positive number", v));
            }
        }
        for (name, v) in [("path_loss_exponent", self.path_loss_exponent), ("rtt_s", self.rtt_s)] {
            if !(v.is_finite() && v >= 0.0) {
                return Err(bad(at(name), "a number, at least 0", v));
            }
        }
        for (name, v) in [
            ("noise_psd_dbm_hz", self.noise_psd_dbm_hz),
            ("reference_gain_db", self.reference_gain_db),
        ] {
            if !(v.is_finite() && v.abs() < 1000.0) {
                return Err(bad(at(name), "decibels between -1000 and 1000", v));
            }
        }
        for (name, v) in [("distance_m", &self.distance_m), ("fading", &self.fading)] {
            if !v.is_positive() {
                return Err(bad(at(name), "a distribution of positive numbers", format!("{v:?}")));
            }
        }
        Ok(())
    }

    /// Shannon rate in bit/s for bandwidth B, transmit power p and fading |z|² at a distance.
    fn rate_bps(&self, bandwidth_hz: f64, power_w: f64, distance_m: f64, fading: f64) -> f64 {
        let k0 = libm::exp10(self.reference_gain_db / 10.0);
        let gain = k0 * fading * libm::pow(distance_m, -self.path_loss_exponent);
        let noise_w = bandwidth_hz * libm::exp10((self.noise_psd_dbm_hz - 30.0) / 10.0);
        // log1p keeps the rate positive in the deepest fade.
        bandwidth_hz * libm::log1p(power_w * gain / noise_w) * std::f64::consts::LOG2_E
    }

    /// State i of a seed.
    fn state(&self, seed: u64, i: u64) -> LinkState {
        let u = |j: u64| uniform(seed, 3 * i + j);
        let d = self.distance_m.quantile(u(0));
        let z = |j| self.fading.quantile(u(j)).max(LEAST_FADING);
        LinkState {
            rate_ul_bps: self.rate_bps(self.bandwidth_ul_hz, self.tx_power_ue_w, d, z(1)),
            rate_dl_bps: self.rate_bps(self.bandwidth_dl_hz, self.tx_power_ap_w, d, z(2)),
            rtt_s: self.rtt_s,
        }
    }
}

/// The i-th uniform number in [0, 1) of a seed: SplitMix64 read at a counter.
fn uniform(seed: u64, i: u64) -> f64 {
    let start = mix(seed ^ 0x6372_3266_6173_7421); // "cr2fast!"
    let z = mix(start.wrapping_add(i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (z >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
