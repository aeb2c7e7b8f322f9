//! `CostTable`, `LinkState`, `LinkStates`.

use cr2fast_core::{Normalizers, Quantity};
use numpy::{PyArray1, PyArray2};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use crate::base::arrays::{out1, out2, real};
use crate::base::errors::{Cr2Error, core};

/// One link state ξ, as the edge knows it when it selects.
///
/// Parameters
/// ----------
/// rate_ul_bps, rate_dl_bps : float
///     Uplink and downlink rate, bit/s, positive.
/// rtt_s : float
///     Round-trip time, s.
#[pyclass(frozen, module = "cr2fast", from_py_object)]
#[derive(Clone, Copy, PartialEq)]
pub struct LinkState(pub cr2fast_core::LinkState);

#[pymethods]
impl LinkState {
    #[new]
    fn new(rate_ul_bps: f64, rate_dl_bps: f64, rtt_s: f64) -> PyResult<Self> {
        let state = cr2fast_core::LinkState { rate_ul_bps, rate_dl_bps, rtt_s };
        state.check(|| "state".into()).map_err(core)?;
        Ok(Self(state))
    }

    #[getter]
    fn rate_ul_bps(&self) -> f64 {
        self.0.rate_ul_bps
    }

    #[getter]
    fn rate_dl_bps(&self) -> f64 {
        self.0.rate_dl_bps
    }

    #[getter]
    fn rtt_s(&self) -> f64 {
        self.0.rtt_s
    }

    fn __eq__(&self, other: &Self) -> bool {
        self == other
    }

    fn __repr__(&self) -> String {
        let s = self.0;
        format!(
            "LinkState(rate_ul_bps={}, rate_dl_bps={}, rtt_s={})",
            s.rate_ul_bps, s.rate_dl_bps, s.rtt_s
        )
    }
}

/// N link states; index it for one :class:`LinkState`.
///
/// Parameters
/// ----------
/// rate_ul_bps, rate_dl_bps : array_like of float, (N,)
///     Rates, bit/s, positive.
/// rtt_s : array_like of float, (N,)
///     Round-trip times, s.
#[pyclass(frozen, module = "cr2fast")]
pub struct LinkStates(pub Vec<cr2fast_core::LinkState>);

#[pymethods]
impl LinkStates {
    #[new]
    fn new(
        rate_ul_bps: &Bound<'_, PyAny>,
        rate_dl_bps: &Bound<'_, PyAny>,
        rtt_s: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (ul, _) = real(rate_ul_bps, "rate_ul_bps", 1)?;
        let (dl, _) = real(rate_dl_bps, "rate_dl_bps", 1)?;
        let (rtt, _) = real(rtt_s, "rtt_s", 1)?;
        if ul.len() != dl.len() || ul.len() != rtt.len() {
            return Err(Cr2Error::new_err(format!(
                "link states: expected three arrays of one length, got {}, {}, {}",
                ul.len(),
                dl.len(),
                rtt.len()
            )));
        }
        let states: Vec<_> = ul
            .into_iter()
            .zip(dl)
            .zip(rtt)
            .map(|((rate_ul_bps, rate_dl_bps), rtt_s)| cr2fast_core::LinkState {
                rate_ul_bps,
                rate_dl_bps,
                rtt_s,
            })
            .collect();
        for (i, s) in states.iter().enumerate() {
            s.check(|| format!("states[{i}]")).map_err(core)?;
        }
        Ok(Self(states))
    }

    #[getter]
    fn rate_ul_bps<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        out1(py, &self.0.iter().map(|s| s.rate_ul_bps).collect::<Vec<_>>())
    }

    #[getter]
    fn rate_dl_bps<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        out1(py, &self.0.iter().map(|s| s.rate_dl_bps).collect::<Vec<_>>())
    }

    #[getter]
    fn rtt_s<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        out1(py, &self.0.iter().map(|s| s.rtt_s).collect::<Vec<_>>())
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __getitem__(&self, index: isize) -> PyResult<LinkState> {
        let n = self.0.len().cast_signed();
        let at = if index < 0 { index + n } else { index };
        usize::try_from(at)
            .ok()
            .and_then(|i| self.0.get(i))
            .map(|s| LinkState(*s))
            .ok_or_else(|| PyIndexError::new_err(format!("state {index} of {n}")))
    }

    fn __repr__(&self) -> String {
        format!("LinkStates({} states)", self.0.len())
    }
}

/// A validated cost table (schema ``cr2fast.cost_table/1``); the first model is the device's.
///
/// Immutable. Units are SI: seconds, joules, watts, hertz, bits, metres. A power that is null is
/// unmeasured: allowed where ``weights.energy`` is 0, and then `energy_j` is refused.
#[pyclass(frozen, module = "cr2fast")]
pub struct CostTable(pub cr2fast_core::CostTable);

type Tokens = (Vec<f64>, Vec<f64>, usize);

fn tokens(n_input: &Bound<'_, PyAny>, n_output: &Bound<'_, PyAny>, m: usize) -> PyResult<Tokens> {
    let (n_in, _) = real(n_input, "n_input_tokens", 1)?;
    let (n_out, shape) = real(n_output, "n_output_tokens", 2)?;
    if shape != [n_in.len(), m] {
        return Err(Cr2Error::new_err(format!(
            "n_output_tokens: expected shape ({}, {m}), got {shape:?}",
            n_in.len()
        )));
    }
    let n = n_in.len();
    Ok((n_in, n_out, n))
}

impl CostTable {
    fn physical<'py>(
        &self,
        py: Python<'py>,
        what: Quantity,
        n_input: &Bound<'py, PyAny>,
        n_output: &Bound<'py, PyAny>,
        states: &LinkStates,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let m = self.0.table().models.len();
        let (n_in, n_out, n) = tokens(n_input, n_output, m)?;
        let out = py.detach(|| self.0.physical(what, &n_in, &n_out, &states.0)).map_err(core)?;
        out2(py, out, n, m)
    }
}

#[pymethods]
impl CostTable {
    /// Read a ``cost_table.json``.
    ///
    /// Raises
    /// ------
    /// CostTableError
    ///     Unknown schema, a missing or negative field, no reference model; the field is named.
    #[staticmethod]
    fn read(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Self> {
        py.detach(|| cr2fast_core::CostTable::read(&path)).map(Self).map_err(core)
    }

    /// Parse the text of a ``cost_table.json``.
    #[staticmethod]
    fn from_json(text: &str) -> PyResult<Self> {
        cr2fast_core::CostTable::from_json(text).map(Self).map_err(core)
    }

    /// Canonical JSON text: sorted keys, T0 and E0 as they are now.
    fn to_json(&self) -> String {
        self.0.table().to_json()
    }

    /// Model names, the device's first.
    #[getter]
    fn models(&self) -> Vec<String> {
        self.0.models()
    }

    /// The model whose normalised cost is 1.
    #[getter]
    fn reference_model(&self) -> String {
        self.0.models()[self.0.table().reference].clone()
    }

    /// ``measured`` or ``estimated``.
    #[getter]
    fn source(&self) -> String {
        format!("{:?}", self.0.table().source).to_lowercase()
    }

    /// SHA-256 of the canonical JSON without T0 and E0.
    #[getter]
    fn sha256(&self) -> String {
        self.0.table().hash()
    }

    /// (T0 in s, E0 in J), or None while unset.
    #[getter]
    fn normalizers(&self) -> Option<(f64, f64)> {
        self.0.normalizers().map(|n| (n.latency_s, n.energy_j))
    }

    /// Whether every model's power and the device's radio and idle power are known.
    #[getter]
    fn has_energy(&self) -> bool {
        self.0.table().energy_known()
    }

    /// The same table with these models in this order, the device's first.
    fn select(&self, models: Vec<String>) -> PyResult<Self> {
        self.0.select(&models).map(Self).map_err(core)
    }

    /// The same table with T0 (s) and E0 (J) set.
    fn with_normalizers(&self, latency_s: f64, energy_j: f64) -> PyResult<Self> {
        self.0.with_normalizers(Normalizers { latency_s, energy_j }).map(Self).map_err(core)
    }

    /// The same table with T0 and E0 set to the reference model's means over these requests.
    ///
    /// Parameters
    /// ----------
    /// n_input_tokens : array_like, (N,)
    /// n_output_tokens : array_like, (N, M)
    /// states : LinkStates, N of them
    fn normalized_on(
        &self,
        py: Python<'_>,
        n_input_tokens: &Bound<'_, PyAny>,
        n_output_tokens: &Bound<'_, PyAny>,
        states: &LinkStates,
    ) -> PyResult<Self> {
        let (n_in, n_out, _) =
            tokens(n_input_tokens, n_output_tokens, self.0.table().models.len())?;
        py.detach(|| self.0.normalize_on(&n_in, &n_out, &states.0)).map(Self).map_err(core)
    }

    /// `n` link states of a seed, the same on every platform.
    ///
    /// A link of kind ``shannon`` draws distances and fading, then takes Shannon rates (equations
    /// 6-9); one of kind ``empirical`` draws from its measured ``samples``, uniformly with
    /// replacement. State i depends on (seed, i) alone, so a longer sample extends a shorter one.
    fn sample_states(&self, py: Python<'_>, n: usize, seed: u64) -> PyResult<LinkStates> {
        py.detach(|| self.0.link().sample(n, seed)).map(LinkStates).map_err(core)
    }

    /// Normalised costs c_m(x, ξ), (N, M) float32 (equations 6-18).
    ///
    /// Parameters
    /// ----------
    /// n_input_tokens : array_like, (N,)
    /// n_output_tokens : array_like, (N, M)
    ///     True or predicted lengths, in the order of `models`.
    /// states : LinkStates, N of them
    fn cost<'py>(
        &self,
        py: Python<'py>,
        n_input_tokens: &Bound<'py, PyAny>,
        n_output_tokens: &Bound<'py, PyAny>,
        states: &LinkStates,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let m = self.0.table().models.len();
        let (n_in, n_out, n) = tokens(n_input_tokens, n_output_tokens, m)?;
        let out = py.detach(|| self.0.costs(&n_in, &n_out, &states.0, 1)).map_err(core)?;
        out2(py, out, n, m)
    }

    /// Latencies t_m in s, (N, M) float64; arguments as of `cost`.
    fn latency_s<'py>(
        &self,
        py: Python<'py>,
        n_input_tokens: &Bound<'py, PyAny>,
        n_output_tokens: &Bound<'py, PyAny>,
        states: &LinkStates,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.physical(py, Quantity::LatencyS, n_input_tokens, n_output_tokens, states)
    }

    /// Energies e_m in J, (N, M) float64; arguments as of `cost`. Refused where power is unmeasured.
    fn energy_j<'py>(
        &self,
        py: Python<'py>,
        n_input_tokens: &Bound<'py, PyAny>,
        n_output_tokens: &Bound<'py, PyAny>,
        states: &LinkStates,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        self.physical(py, Quantity::EnergyJ, n_input_tokens, n_output_tokens, states)
    }

    fn __repr__(&self) -> String {
        format!("CostTable({}, models={:?})", self.source(), self.0.models())
    }
}
