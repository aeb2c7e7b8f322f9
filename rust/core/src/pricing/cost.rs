//! The cost table and what a request costs.
//!
//! In: `cost_table.json` (schema `cr2fast.cost_table/1` or `/2`), token counts, link states. Out:
//! latency t_m (s), energy e_m (J), price d_m ($) and normalised cost c_m (equations 6–18; the price
//! is ours):
//!
//! τ_inf,m = τ0_m + β_pre,m·Φ_pre(L_in) + β_dec,m·Φ_dec(L_out,m)
//! t_0 = τ_inf,0;  t_m = L_in·b_in/R_ul + τ_rtt + τ_inf,m + L_out,m·b_out/R_dl
//! e_0 = P_act,0·τ_inf,0;  e_m = P_tx·τ_ul + P_rx·τ_dl,m + P_idle·(τ_rtt + τ_inf,m) + P_act,m·τ_inf,m
//! d_m = L_in·π_in,m + L_out,m·π_out,m + π_request,m
//! c̄_m = ω_t·t_m/T0 + ω_e·e_m/E0 + ω_p·d_m/D0;  c_m = c̄_m / c̄_ref
//!
//! With a link of kind `none`, τ_ul, τ_dl and τ_rtt are 0 whatever ξ is. A queue of w_m seconds before
//! model m adds w_m to t_m and, at the edge, P_idle·w_m to e_m; c̄_ref is without it.

use crate::base::checks::{check_finite, check_len, check_tokens, filled, room};
use std::path::Path;

use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::file::disk;
use crate::pricing::link::{Link, LinkState};
use crate::pricing::scale::Normalizers;
use crate::pricing::schema::Table;
use crate::pricing::version::{Version, bad};

/// Largest table read: measured ones carry provenance, not data.
const MAX_BYTES: u64 = 1 << 26;

/// A validated cost table. Model 0 is the device's.
#[derive(Clone, Debug)]
pub struct CostTable {
    table: Table,
    normalizers: Option<Normalizers>,
}

/// One request: its input tokens, the link, and the output tokens of each model.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// L_in, tokens.
    pub n_input_tokens: f64,
    /// L_out,m, tokens, true or predicted.
    pub n_output_tokens: &'a [f64],
    /// ξ.
    pub state: LinkState,
    /// (M,) for how long each model's queue holds a request back, s; `None` where none does.
    pub waiting_s: Option<&'a [f64]>,
}

impl Request<'_> {
    /// w_m, s.
    fn waiting(&self, m: usize) -> f64 {
        self.waiting_s.map_or(0.0, |w| w[m])
    }
}

impl CostTable {
    /// Read a file.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |got: String| Error::CostTable {
            field: path.display().to_string(),
            expected: "JSON text".into(),
            got,
        };
        let bytes = disk::read(path, MAX_BYTES, wrong).map_err(|e| match e {
            Error::Argument { got, .. } => wrong(got),
            other => other,
        })?;
        Self::from_json(std::str::from_utf8(&bytes).map_err(|e| wrong(e.to_string()))?)
    }

    /// Parse and validate.
    pub fn from_json(json: &str) -> Result<Self> {
        Self::new(Table::from_json(json, false)?)
    }

    /// The table of an artifact: earlier versions kept fields that they did not know.
    pub fn stored(json: &str) -> Result<Self> {
        Self::new(Table::from_json(json, true)?)
    }

    fn new(table: Table) -> Result<Self> {
        let normalizers = table.normalizers()?;
        Ok(Self { table, normalizers })
    }

    /// The file's content: names, link, constants.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Model names, the device's first.
    pub fn models(&self) -> Vec<String> {
        self.table.models.iter().map(|m| m.name.clone()).collect()
    }

    /// T0, E0 and D0, when set.
    pub fn normalizers(&self) -> Option<Normalizers> {
        self.normalizers
    }

    /// The link section.
    pub fn link(&self) -> &Link {
        &self.table.link
    }

    /// The same table on another scale.
    pub fn with_normalizers(&self, n: Normalizers) -> Result<Self> {
        Self::new(self.table.with_normalizers(n)?)
    }

    /// Whether every model's time is known.
    pub fn has_latency(&self) -> bool {
        self.table.require(true, false, false).is_ok()
    }

    /// Whether every model's time and power, and the device's radio and idle power, are known.
    pub fn has_energy(&self) -> bool {
        self.table.require(true, true, false).is_ok()
    }

    /// Whether every model's prices are known.
    pub fn has_prices(&self) -> bool {
        self.table.require(false, false, true).is_ok()
    }

    /// The same table with these models in this order, the device's first.
    pub fn select(&self, names: &[String]) -> Result<Self> {
        let table = self.table.select(names)?;
        Ok(Self { table, normalizers: self.normalizers })
    }

    /// Set T0, E0 and D0 to the reference model's means over these requests.
    pub fn normalize_on(
        &self,
        n_input: &[f64],
        n_output: &[f64],
        states: &[LinkState],
    ) -> Result<Self> {
        let (m, r) = (self.table.models.len(), self.table.reference);
        self.check_batch(n_input, n_output, states)?;
        if n_input.is_empty() {
            return Err(Error::argument("n_input_tokens", "at least one request", "none"));
        }
        let mean = |f: &dyn Fn(Request) -> f64| {
            let sum: f64 =
                (0..n_input.len()).map(|i| f(request(n_input, n_output, states, m, i))).sum();
            sum / n_input.len() as f64
        };
        let w = self.table.shares;
        let scale = |what: Quantity, share: f64| {
            let mean = mean(&|q| self.quantity(what, r, &q));
            // Where a scale never enters a cost, nothing is as good as nothing that is known.
            Some(mean).filter(|x| share > 0.0 || (x.is_finite() && *x > 0.0))
        };
        let energy_j = scale(Quantity::EnergyJ, w.energy).filter(|_| self.has_energy());
        self.with_normalizers(Normalizers {
            latency_s: scale(Quantity::LatencyS, w.latency),
            // Schema /1 has no null beside a number.
            energy_j: energy_j.or((self.table.version == Version::One).then_some(1.0)),
            usd: scale(Quantity::Usd, w.price),
        })
    }

    /// Inference time τ_inf,m, s.
    fn inference_s(&self, m: usize, q: &Request) -> f64 {
        self.table.models[m].inference_s(q.n_input_tokens, q.n_output_tokens[m])
    }

    /// Uplink and downlink time of model `m`, s.
    fn transfer_s(&self, m: usize, q: &Request) -> (f64, f64) {
        let link = &self.table.link;
        (
            q.n_input_tokens * link.bits_per_input_token / q.state.rate_ul_bps,
            q.n_output_tokens[m] * link.bits_per_output_token / q.state.rate_dl_bps,
        )
    }

    /// Latency t_m, s; NaN where a coefficient is unmeasured.
    pub fn latency_s(&self, m: usize, q: &Request) -> f64 {
        let inference = self.inference_s(m, q);
        if m == 0 || self.table.link.is_none() {
            return inference + q.waiting(m);
        }
        let (up, down) = self.transfer_s(m, q);
        up + q.state.rtt_s + inference + down + q.waiting(m)
    }

    /// Energy e_m, J; NaN where a coefficient or a power it needs is unmeasured.
    pub fn energy_j(&self, m: usize, q: &Request) -> f64 {
        let inference = self.inference_s(m, q);
        let watts = |p: Option<f64>| p.unwrap_or(f64::NAN);
        let active = watts(self.table.models[m].p_active_w) * inference;
        let ue = &self.table.ue;
        if m == 0 {
            return active;
        }
        if self.table.link.is_none() {
            return watts(ue.p_idle_w) * (inference + q.waiting(m)) + active;
        }
        let (up, down) = self.transfer_s(m, q);
        watts(ue.p_tx_w) * up
            + watts(ue.p_rx_w) * down
            + watts(ue.p_idle_w) * (q.state.rtt_s + inference + q.waiting(m))
            + active
    }

    /// Price d_m, $; NaN where it is unknown.
    pub fn usd(&self, m: usize, q: &Request) -> f64 {
        self.table.models[m].usd(q.n_input_tokens, q.n_output_tokens[m])
    }

    /// t_m, e_m or d_m; NaN where it is unknown.
    pub fn quantity(&self, what: Quantity, m: usize, q: &Request) -> f64 {
        match what {
            Quantity::LatencyS => self.latency_s(m, q),
            Quantity::EnergyJ => self.energy_j(m, q),
            Quantity::Usd => self.usd(m, q),
        }
    }

    /// Normalised costs c_m of every model into `out`.
    pub fn costs_into(&self, q: &Request, out: &mut [f32]) -> Result<()> {
        let n = self.normalizers.ok_or_else(|| self.no_normalizers())?;
        let w = self.table.shares;
        let raw = |m: usize, q: &Request| {
            // A share of 0 must not turn an unknown quantity into a NaN cost.
            let part = |share: f64, what: Quantity, scale: Option<f64>| match scale {
                Some(scale) if share > 0.0 => share * self.quantity(what, m, q) / scale,
                _ => 0.0,
            };
            part(w.latency, Quantity::LatencyS, n.latency_s)
                + part(w.energy, Quantity::EnergyJ, n.energy_j)
                + part(w.price, Quantity::Usd, n.usd)
        };
        // The unit is what the reference model costs when nobody waits.
        let reference = raw(self.table.reference, &Request { waiting_s: None, ..*q });
        for (m, c) in out.iter_mut().enumerate() {
            *c = (raw(m, q) / reference) as f32;
        }
        Ok(())
    }

    /// c_m for (N,) inputs, (N, M) outputs, (N,) states → (N, M).
    pub fn costs(
        &self,
        n_input: &[f64],
        n_output: &[f64],
        states: &[LinkState],
        threads: usize,
    ) -> Result<Vec<f32>> {
        let m = self.table.models.len();
        self.check_batch(n_input, n_output, states)?;
        self.normalizers.ok_or_else(|| self.no_normalizers())?;
        let mut out = filled("costs", n_input.len(), m, 0.0)?;
        threads::rows(threads, &mut out, m, |first, part| {
            for (i, row) in part.chunks_mut(m).enumerate() {
                let q = request(n_input, n_output, states, m, first + i);
                self.costs_into(&q, row).expect("normalizers were checked");
            }
        });
        check_costs(&out)?;
        Ok(out)
    }

    /// t_m in s, e_m in J or d_m in $ for a batch → (N, M).
    pub fn physical(
        &self,
        what: Quantity,
        n_input: &[f64],
        n_output: &[f64],
        states: &[LinkState],
    ) -> Result<Vec<f64>> {
        let m = self.table.models.len();
        self.check_batch(n_input, n_output, states)?;
        let (time, power, price) = match what {
            Quantity::LatencyS => (true, false, false),
            Quantity::EnergyJ => (true, true, false),
            Quantity::Usd => (false, false, true),
        };
        self.table.require(time, power, price)?;
        let mut out = room("costs", n_input.len(), m)?;
        for i in 0..n_input.len() {
            let q = request(n_input, n_output, states, m, i);
            out.extend((0..m).map(|k| self.quantity(what, k, &q)));
        }
        Ok(out)
    }

    fn no_normalizers(&self) -> Error {
        let expected = match self.table.version {
            Version::One => "T0_s and E0_j set",
            Version::Two => "T0_s, E0_j and D0_usd set where their shares are not 0",
        };
        let got =
            "null; call CostTable.normalized_on(train) (fit does it) or write them into the table";
        bad("normalizers", expected, got)
    }

    fn check_batch(&self, n_input: &[f64], n_output: &[f64], states: &[LinkState]) -> Result<()> {
        let (n, m) = (n_input.len(), self.table.models.len());
        check_len("n_output_tokens (N·M values)", n * m, n_output.len())?;
        check_len("states", n, states.len())?;
        check_tokens("n_input_tokens", n_input)?;
        check_tokens("n_output_tokens", n_output)?;
        for (i, s) in states.iter().enumerate() {
            s.check(|| format!("states[{i}]"))?;
        }
        Ok(())
    }
}

/// What [`CostTable::physical`] returns.
#[derive(Clone, Copy, Debug)]
pub enum Quantity {
    /// t_m, s.
    LatencyS,
    /// e_m, J.
    EnergyJ,
    /// d_m, $.
    Usd,
}

/// Costs are finite.
pub fn check_costs(costs: &[f32]) -> Result<()> {
    check_finite("cost (zero or overflowing token counts?)", costs)
}

fn request<'a>(
    n_input: &[f64],
    n_output: &'a [f64],
    states: &[LinkState],
    m: usize,
    i: usize,
) -> Request<'a> {
    Request {
        n_input_tokens: n_input[i],
        n_output_tokens: &n_output[i * m..(i + 1) * m],
        state: states[i],
        waiting_s: None,
    }
}
