//! The cost table and what a request costs.
//!
//! In: `cost_table.json` (schema `cr2fast.cost_table/1`), token counts, link states. Out: latency
//! t_m (s), energy e_m (J) and normalised cost c_m (equations 6–18):
//!
//! τ_inf,m = τ0_m + β_pre,m·Φ_pre(L_in) + β_dec,m·Φ_dec(L_out,m)
//! t_0 = τ_inf,0;  t_m = L_in·b_in/R_ul + τ_rtt + τ_inf,m + L_out,m·b_out/R_dl
//! e_0 = P_act,0·τ_inf,0;  e_m = P_tx·τ_ul + P_rx·τ_dl,m + P_idle·(τ_rtt + τ_inf,m) + P_act,m·τ_inf,m
//! c̄_m = ω_t·t_m/T0 + ω_e·e_m/E0;  c_m = c̄_m / c̄_ref

use crate::base::checks::{check_finite, check_len, check_tokens, filled, room};
use std::path::Path;

use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::file::disk;
use crate::pricing::link::{Link, LinkState};
use crate::pricing::schema::{Normalizers, Table};

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
        let table = Table::from_json(json)?;
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

    /// T0 and E0, when set.
    pub fn normalizers(&self) -> Option<Normalizers> {
        self.normalizers
    }

    /// The link section.
    pub fn link(&self) -> &Link {
        &self.table.link
    }

    /// The same table on another scale.
    pub fn with_normalizers(&self, n: Normalizers) -> Result<Self> {
        for (name, v) in [("T0_s", n.latency_s), ("E0_j", n.energy_j)] {
            if !(v.is_finite() && v > 0.0) {
                return Err(Error::argument(format!("normalizers.{name}"), "a positive number", v));
            }
        }
        Ok(Self { table: self.table.with_normalizers(n)?, normalizers: Some(n) })
    }

    /// The same table with these models in this order, the device's first.
    pub fn select(&self, names: &[String]) -> Result<Self> {
        let table = self.table.select(names)?;
        Ok(Self { table, normalizers: self.normalizers })
    }

    /// Set T0 and E0 to the reference model's means over these requests.
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
        self.with_normalizers(Normalizers {
            latency_s: mean(&|q| self.latency_s(r, &q)),
            // Energy may be unmeasured everywhere; its scale then never enters a cost.
            energy_j: if self.table.energy_known() { mean(&|q| self.energy_j(r, &q)) } else { 1.0 },
        })
    }

    /// Inference time τ_inf,m, s.
    fn inference_s(&self, m: usize, q: &Request) -> f64 {
        let model = &self.table.models[m];
        model.tau0_s
            + model.beta_pre_s
                * model.phi_pre.work(q.n_input_tokens, model.kappa_pre.unwrap_or(0.0))
            + model.beta_dec_s
                * model.phi_dec.work(q.n_output_tokens[m], model.kappa_dec.unwrap_or(0.0))
    }

    /// Uplink and downlink time of model `m`, s.
    fn transfer_s(&self, m: usize, q: &Request) -> (f64, f64) {
        let link = &self.table.link;
        (
            q.n_input_tokens * link.bits_per_input_token / q.state.rate_ul_bps,
            q.n_output_tokens[m] * link.bits_per_output_token / q.state.rate_dl_bps,
        )
    }

    /// Latency t_m, s.
    pub fn latency_s(&self, m: usize, q: &Request) -> f64 {
        let inference = self.inference_s(m, q);
        if m == 0 {
            return inference;
        }
        let (up, down) = self.transfer_s(m, q);
        up + q.state.rtt_s + inference + down
    }

    /// Energy e_m, J; NaN where a power it needs is unmeasured.
    pub fn energy_j(&self, m: usize, q: &Request) -> f64 {
        let inference = self.inference_s(m, q);
        let watts = |p: Option<f64>| p.unwrap_or(f64::NAN);
        let active = watts(self.table.models[m].p_active_w) * inference;
        if m == 0 {
            return active;
        }
        let (up, down) = self.transfer_s(m, q);
        let ue = &self.table.ue;
        watts(ue.p_tx_w) * up
            + watts(ue.p_rx_w) * down
            + watts(ue.p_idle_w) * (q.state.rtt_s + inference)
            + active
    }

    /// Normalised costs c_m of every model into `out`.
    pub fn costs_into(&self, q: &Request, out: &mut [f32]) -> Result<()> {
        let n = self.normalizers.ok_or_else(no_normalizers)?;
        let (w_t, w_e) = (self.table.shares.latency, self.table.shares.energy);
        let raw = |m: usize| {
            let latency = w_t * self.latency_s(m, q) / n.latency_s;
            // ω_e = 0 must not turn an unmeasured energy into a NaN cost.
            if w_e == 0.0 { latency } else { latency + w_e * self.energy_j(m, q) / n.energy_j }
        };
        let reference = raw(self.table.reference);
        for (m, c) in out.iter_mut().enumerate() {
            *c = (raw(m) / reference) as f32;
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
        self.normalizers.ok_or_else(no_normalizers)?;
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

    /// t_m in s or e_m in J for a batch → (N, M).
    pub fn physical(
        &self,
        what: Quantity,
        n_input: &[f64],
        n_output: &[f64],
        states: &[LinkState],
    ) -> Result<Vec<f64>> {
        let m = self.table.models.len();
        self.check_batch(n_input, n_output, states)?;
        if matches!(what, Quantity::EnergyJ) {
            self.table.require_energy()?;
        }
        let mut out = room("costs", n_input.len(), m)?;
        for i in 0..n_input.len() {
            let q = request(n_input, n_output, states, m, i);
            out.extend((0..m).map(|k| match what {
                Quantity::LatencyS => self.latency_s(k, &q),
                Quantity::EnergyJ => self.energy_j(k, &q),
            }));
        }
        Ok(out)
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
    }
}

fn no_normalizers() -> Error {
    Error::CostTable {
        field: "normalizers".into(),
        expected: "T0_s and E0_j set".into(),
        got: "null; call CostTable.normalized_on(train) (fit does it) or write them into the table"
            .into(),
    }
}
