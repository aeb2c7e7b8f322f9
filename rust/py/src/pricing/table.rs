//! `CostTable`.

use std::collections::BTreeMap;

use cr2fast_core::{CostTableVersion, Normalizers, Quantity};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::base::arrays::{out2, real};
use crate::base::errors::{CostTableError, Cr2Error, core};
use crate::base::scalars::args;
use crate::pricing::link::LinkStates;

/// A validated cost table (schema ``cr2fast.cost_table/1`` or ``/2``); the first model is the device's.
///
/// Immutable. Units are SI (seconds, joules, watts, hertz, bits, metres) and dollars. A number that is
/// null is unmeasured: allowed where its share of the cost is 0, and then `latency_s`, `energy_j` or
/// `usd` is refused.
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
    ///     Unknown schema, a missing, negative or unknown field, shares that do not sum to 1, no
    ///     reference model; the field is named, and for an unknown one the nearest known one.
    #[staticmethod]
    fn read(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Self> {
        py.detach(|| cr2fast_core::CostTable::read(&path)).map(Self).map_err(core)
    }

    /// Parse the text of a ``cost_table.json``.
    #[staticmethod]
    fn from_json(text: &Bound<'_, PyString>) -> PyResult<Self> {
        let text = text.to_str().map_err(|_| {
            CostTableError::new_err("cost table: expected text, got a lone surrogate in it")
        })?;
        cr2fast_core::CostTable::from_json(text).map(Self).map_err(core)
    }

    /// A table of a price list: schema /2, no link, cost = price.
    ///
    /// Parameters
    /// ----------
    /// prices : mapping of str to mapping
    ///     Of each model, the local one first (tier device, the others cloud): any of
    ///     ``usd_per_input_token``, ``usd_per_output_token``, ``usd_per_request``, dollars; those left
    ///     out are 0.
    /// reference_model : str, optional
    ///     The model of unit cost; by default the one whose tokens are dearest.
    ///
    /// Raises
    /// ------
    /// CostTableError
    ///     A negative price, an unknown name, a model without a price, fewer than two models.
    #[staticmethod]
    #[pyo3(signature = (prices, *, reference_model=None))]
    fn of_prices<'py>(
        py: Python<'py>,
        prices: &Bound<'py, PyAny>,
        reference_model: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = PyDict::new(py);
        options.set_item("reference_model", reference_model)?;
        py.import("cr2fast.pricing.prices")?.call_method("of_prices", (prices,), Some(&options))
    }

    /// A table of a log: prices that its calls were billed by, times by least squares; no link.
    ///
    /// Prices are those of a list that at least half of a model's calls agree with to the last digit,
    /// or a least-squares fit where there is none. Times include the network's. What the log cannot
    /// tell stands in `notes`. Needs the extra ``lab``.
    ///
    /// Parameters
    /// ----------
    /// log : path or polars.DataFrame
    ///     One row per call: JSON lines, CSV or Parquet. Of the columns ``model``, ``prompt_tokens``,
    ///     ``completion_tokens``, ``usd``, ``seconds``, ``error``, usual names are guessed. Calls with
    ///     an error are left out.
    /// local : str
    ///     The device's model.
    /// edge : sequence of str
    ///     The others (tier cloud), in the order to keep.
    /// columns : mapping of str to str, optional
    ///     Of our names, the log's.
    /// shares : mapping of str to float, optional
    ///     ``latency`` and ``price``, which sum to 1; by default price alone, or latency where the log
    ///     has no dollars.
    /// reference_model : str, optional
    ///     The model of unit cost; by default the one whose tokens are dearest.
    ///
    /// Raises
    /// ------
    /// Cr2Error
    ///     A column or a model that is not there, dollars without a token count, numbers that are
    ///     negative, shares that do not sum to 1 or need what the log lacks.
    #[staticmethod]
    #[pyo3(signature = (log, *, local, edge, columns=None, shares=None, reference_model=None))]
    fn from_log<'py>(
        py: Python<'py>,
        log: &Bound<'py, PyAny>,
        local: &Bound<'py, PyAny>,
        edge: &Bound<'py, PyAny>,
        columns: Option<&Bound<'py, PyAny>>,
        shares: Option<&Bound<'py, PyAny>>,
        reference_model: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = PyDict::new(py);
        options.set_item("local", local)?;
        options.set_item("edge", edge)?;
        options.set_item("columns", columns)?;
        options.set_item("shares", shares)?;
        options.set_item("reference_model", reference_model)?;
        py.import("cr2fast.pricing.logs")?.call_method("from_log", (log,), Some(&options))
    }

    /// What was noted when the table was made, and what could not be told: the ``notes`` of its
    /// provenance, each model's after its name.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.0.table().notes()
    }

    /// Immutable: a copy is the table itself.
    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.getattr("from_json")?, (slf.get().to_json(),)))
    }

    /// Canonical JSON text: sorted keys, T0, E0 and D0 as they are now.
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

    /// SHA-256 of the canonical JSON without T0, E0 and D0.
    #[getter]
    fn sha256(&self) -> String {
        self.0.table().hash()
    }

    /// Shares of latency, energy and price in the cost, by name.
    #[getter]
    fn shares(&self) -> BTreeMap<&'static str, f64> {
        let w = self.0.table().shares;
        BTreeMap::from([("latency", w.latency), ("energy", w.energy), ("price", w.price)])
    }

    /// (T0 in s, E0 in J), in a table of schema /2 (T0, E0, D0 in $), or None while unset. One that
    /// the table cannot tell, and that costs do not need, is None.
    #[getter]
    fn normalizers<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some(n) = self.0.normalizers() else { return Ok(None) };
        let all = [n.latency_s, n.energy_j, n.usd];
        let known = if self.0.table().version == CostTableVersion::One { 2 } else { 3 };
        PyTuple::new(py, &all[..known]).map(Some)
    }

    /// Whether every model's inference time is known.
    #[getter]
    fn has_latency(&self) -> bool {
        self.0.has_latency()
    }

    /// Whether every model's time and power, and the device's radio and idle power, are known.
    #[getter]
    fn has_energy(&self) -> bool {
        self.0.has_energy()
    }

    /// Whether every model's prices are known.
    #[getter]
    fn has_prices(&self) -> bool {
        self.0.has_prices()
    }

    /// The same table with these models in this order, the device's first.
    fn select(&self, models: Vec<String>) -> PyResult<Self> {
        self.0.select(&models).map(Self).map_err(core)
    }

    /// The same table with T0 (s), E0 (J) and, in schema /2, D0 ($) set.
    ///
    /// One whose share is 0 may be None in schema /2.
    #[pyo3(signature = (latency_s=None, energy_j=None, usd=None))]
    fn with_normalizers(
        &self,
        #[pyo3(from_py_with = args::latency_s)] latency_s: Option<f64>,
        #[pyo3(from_py_with = args::energy_j)] energy_j: Option<f64>,
        #[pyo3(from_py_with = args::usd)] usd: Option<f64>,
    ) -> PyResult<Self> {
        if usd.is_some() && self.0.table().version == CostTableVersion::One {
            return Err(Cr2Error::new_err(
                "usd: expected it with a table of schema cr2fast.cost_table/2, got one of /1",
            ));
        }
        self.0.with_normalizers(Normalizers { latency_s, energy_j, usd }).map(Self).map_err(core)
    }

    /// The same table with T0, E0 and D0 set to the reference model's means over these requests.
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
    /// replacement; one of kind ``none`` gives states without delay. State i depends on (seed, i)
    /// alone, so a longer sample extends a shorter one.
    fn sample_states(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::n)] n: usize,
        #[pyo3(from_py_with = args::seed)] seed: u64,
    ) -> PyResult<LinkStates> {
        py.detach(|| self.0.link().sample(n, seed)).map(LinkStates).map_err(core)
    }

    /// The first link state of each of N seeds: what a request is priced with then depends on its own seed
    /// alone, whatever else is priced beside it.
    ///
    /// Parameters
    /// ----------
    /// seeds : sequence of int, (N,)
    ///     From 0 to 2**64 - 1.
    fn sample_states_each(&self, py: Python<'_>, seeds: &Bound<'_, PyAny>) -> PyResult<LinkStates> {
        let seeds: Vec<u64> = seeds.extract().map_err(|_| {
            Cr2Error::new_err("seeds: expected whole numbers from 0 to 2**64 - 1, got others")
        })?;
        py.detach(|| self.0.link().sample_each(&seeds)).map(LinkStates).map_err(core)
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

    /// Latencies t_m in s, (N, M) float64; arguments as of `cost`. Refused where time is unmeasured.
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

    /// Prices d_m in dollars, (N, M) float64; arguments as of `cost`. Refused where they are unknown.
    ///
    /// The link state does not change a price.
    #[pyo3(signature = (n_input_tokens, n_output_tokens, states=None))]
    fn usd<'py>(
        &self,
        py: Python<'py>,
        n_input_tokens: &Bound<'py, PyAny>,
        n_output_tokens: &Bound<'py, PyAny>,
        states: Option<&LinkStates>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let none;
        let states = if let Some(states) = states {
            states
        } else {
            let n = n_input_tokens.len().unwrap_or(0);
            none = LinkStates(self.0.link().sample(n, 0).map_err(core)?);
            &none
        };
        self.physical(py, Quantity::Usd, n_input_tokens, n_output_tokens, states)
    }

    fn __repr__(&self) -> String {
        format!("CostTable({}, models={:?})", self.source(), self.0.models())
    }
}
