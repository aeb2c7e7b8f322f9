//! `Choice`, `Choices`.

use std::sync::{Arc, OnceLock};

use numpy::{PyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::base::errors::{Cr2Error, core};
use crate::decide::{column, indices, known};

/// Both stages and the names of their models, as choices keep them.
pub(super) struct Parts {
    pub(super) inner: cr2fast_core::TwoStage,
    pub(super) models: Vec<String>,
    pub(super) places: Vec<&'static str>,
}

/// Where a query goes: place and model, with the numbers behind them.
///
/// Attributes
/// ----------
/// model : str
/// place : {"device", "edge", "cloud"}
///     The model's tier in the cost table.
/// local : bool
///     Whether that is the device.
/// margin, threshold, score : float
///     Stage one's, as of :class:`Decision`.
/// forced : bool
///     Whether only the budget keeps a deferred query on the device. α promises nothing about it.
/// n_input_tokens : float
///     L_in, as it was given or counted.
/// accuracy, utility, cost : float
///     Stage two's, as of :class:`Selection`. Where stage one kept the query, stage two is asked when
///     one of these is first read: keeping it needed none of them.
/// p_value : float or None
///     How typical the query is of the calibration split, where atypical ones are deferred.
/// latency_s, energy_j, usd : float or None
///     Expected seconds, joules and dollars; None where the cost table cannot tell.
#[pyclass(frozen, module = "cr2fast")]
pub struct Choice {
    /// What to ask for what is not known yet; none in a choice that came from another process.
    two: Option<Arc<Parts>>,
    model: String,
    place: String,
    made: cr2fast_core::Choice,
    embedding: Vec<f32>,
    n_input_tokens: f64,
    state: Option<cr2fast_core::LinkState>,
    expected: OnceLock<cr2fast_core::Selection>,
}

impl Choice {
    /// What was chosen for a query.
    pub(super) fn new(
        two: &Arc<Parts>,
        (made, embedding, n_input_tokens): (cr2fast_core::Choice, Vec<f32>, f64),
        state: Option<cr2fast_core::LinkState>,
    ) -> Self {
        Self {
            two: Some(Arc::clone(two)),
            model: two.models[made.model].clone(),
            place: two.places[made.model].into(),
            made,
            embedding,
            n_input_tokens,
            state,
            expected: OnceLock::new(),
        }
    }

    fn expected(&self) -> PyResult<cr2fast_core::Selection> {
        if let Some(known) = self.made.selection.as_ref().or(self.expected.get()) {
            return Ok(*known);
        }
        let (x, n) = (&self.embedding, self.n_input_tokens);
        let two =
            self.two.as_ref().ok_or_else(|| Cr2Error::new_err("choice: not restored whole"))?;
        let made = two.inner.estimate(self.made.model, x, n, self.state).map_err(core)?;
        Ok(*self.expected.get_or_init(|| made))
    }
}

/// Stage two's numbers.
type Expected = (f64, f32, f32, Option<f64>, Option<f64>, Option<f64>);
/// All of a [`Choice`] with nothing left to ask.
type Whole = ((usize, String, String), (bool, f32, f32, f64, Option<f64>), bool, f64, Expected);

#[pymethods]
impl Choice {
    #[staticmethod]
    fn _restore(
        names: (usize, String, String),
        decision: (bool, f32, f32, f64, Option<f64>),
        forced: bool,
        n_input_tokens: f64,
        expected: Expected,
    ) -> Self {
        let (index, model, place) = names;
        let (local, margin, threshold, score, p_value) = decision;
        let (utility, accuracy, cost, latency_s, energy_j, usd) = expected;
        let selection = cr2fast_core::Selection {
            model: index,
            utility,
            accuracy,
            cost,
            latency_s,
            energy_j,
            usd,
        };
        let decision = cr2fast_core::Decision { local, margin, threshold, score, p_value };
        let made =
            cr2fast_core::Choice { decision, model: index, selection: Some(selection), forced };
        let (embedding, state, expected) = (Vec::new(), None, OnceLock::new());
        Self { two: None, model, place, made, embedding, n_input_tokens, state, expected }
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Whole)> {
        let (c, e) = (slf.get(), slf.get().expected()?);
        let d = c.made.decision;
        let whole = (
            (c.made.model, c.model.clone(), c.place.clone()),
            (d.local, d.margin, d.threshold, d.score, d.p_value),
            c.made.forced,
            c.n_input_tokens,
            (e.utility, e.accuracy, e.cost, e.latency_s, e.energy_j, e.usd),
        );
        Ok((slf.getattr("_restore")?, whole))
    }

    #[getter]
    fn model(&self) -> &str {
        &self.model
    }

    #[getter]
    fn place(&self) -> &str {
        &self.place
    }

    #[getter]
    fn local(&self) -> bool {
        self.made.model == 0
    }

    #[getter]
    fn margin(&self) -> f32 {
        self.made.decision.margin
    }

    #[getter]
    fn threshold(&self) -> f32 {
        self.made.decision.threshold
    }

    #[getter]
    fn score(&self) -> f64 {
        self.made.decision.score
    }

    #[getter]
    fn p_value(&self) -> Option<f64> {
        self.made.decision.p_value
    }

    #[getter]
    fn forced(&self) -> bool {
        self.made.forced
    }

    #[getter]
    fn n_input_tokens(&self) -> f64 {
        self.n_input_tokens
    }

    #[getter]
    fn accuracy(&self) -> PyResult<f32> {
        Ok(self.expected()?.accuracy)
    }

    #[getter]
    fn utility(&self) -> PyResult<f64> {
        Ok(self.expected()?.utility)
    }

    #[getter]
    fn cost(&self) -> PyResult<f32> {
        Ok(self.expected()?.cost)
    }

    #[getter]
    fn latency_s(&self) -> PyResult<Option<f64>> {
        Ok(self.expected()?.latency_s)
    }

    #[getter]
    fn energy_j(&self) -> PyResult<Option<f64>> {
        Ok(self.expected()?.energy_j)
    }

    #[getter]
    fn usd(&self) -> PyResult<Option<f64>> {
        Ok(self.expected()?.usd)
    }

    fn __repr__(&self) -> PyResult<String> {
        let e = self.expected()?;
        Ok(format!(
            "Choice(model={:?}, place={:?}, margin={}, threshold={}, accuracy={:.6}, cost={:.6})",
            self.model(),
            self.place(),
            self.margin(),
            self.threshold(),
            e.accuracy,
            e.cost
        ))
    }
}

/// Choices for N queries; arrays are (N,).
///
/// Attributes
/// ----------
/// models : list of str
///     Names that `index` points into, the device's first.
/// index : ndarray of int64
/// local, forced : ndarray of bool
/// margin : ndarray of float32
/// threshold : float
///     As of :class:`TwoStage`: that of all groups.
/// thresholds : ndarray of float32
///     What each margin was compared with: its group's threshold, where the router has groups.
/// accuracy, cost, latency_s, energy_j, usd : ndarray of float64
///     Stage two's view of the deferred queries, as of :class:`Selection`; NaN for queries that stage
///     one kept, about which stage two was not asked, and where the cost table cannot tell.
#[pyclass(frozen, get_all, module = "cr2fast")]
pub struct Choices {
    models: Vec<String>,
    index: Py<PyArray1<i64>>,
    local: Py<PyArray1<bool>>,
    forced: Py<PyArray1<bool>>,
    margin: Py<PyArray1<f32>>,
    threshold: f32,
    thresholds: Py<PyArray1<f32>>,
    accuracy: Py<PyArray1<f64>>,
    cost: Py<PyArray1<f64>>,
    latency_s: Py<PyArray1<f64>>,
    energy_j: Py<PyArray1<f64>>,
    usd: Py<PyArray1<f64>>,
}

impl Choices {
    /// Choices of the core's, among models of these names.
    pub fn new(
        py: Python<'_>,
        models: &[String],
        threshold: f32,
        all: &[cr2fast_core::Choice],
    ) -> Self {
        let of = |f: fn(&cr2fast_core::Selection) -> Option<f64>| {
            known(py, all.iter().map(|c| c.selection.as_ref().and_then(f)))
        };
        Self {
            models: models.to_vec(),
            index: indices(py, all.iter().map(|c| c.model)),
            local: column(py, all.iter().map(|c| c.model == 0)),
            forced: column(py, all.iter().map(|c| c.forced)),
            margin: column(py, all.iter().map(|c| c.decision.margin)),
            threshold,
            thresholds: column(py, all.iter().map(|c| c.decision.threshold)),
            accuracy: of(|s| Some(s.accuracy.into())),
            cost: of(|s| Some(s.cost.into())),
            latency_s: of(|s| s.latency_s),
            energy_j: of(|s| s.energy_j),
            usd: of(|s| s.usd),
        }
    }
}

/// (N,) float64.
type Column = Py<PyArray1<f64>>;
/// The fields of [`Choices`], in their order: models, places, margins, stage two's numbers.
type Fields = (
    (Vec<String>, Py<PyArray1<i64>>),
    (Py<PyArray1<bool>>, Py<PyArray1<bool>>),
    (Py<PyArray1<f32>>, f32, Py<PyArray1<f32>>),
    (Column, Column, Column, Column, Column),
);

#[pymethods]
impl Choices {
    #[staticmethod]
    fn _restore(
        models: (Vec<String>, Py<PyArray1<i64>>),
        places: (Py<PyArray1<bool>>, Py<PyArray1<bool>>),
        margins: (Py<PyArray1<f32>>, f32, Py<PyArray1<f32>>),
        numbers: (Column, Column, Column, Column, Column),
    ) -> Self {
        let ((models, index), (local, forced)) = (models, places);
        let (margin, threshold, thresholds) = margins;
        let (accuracy, cost, latency_s, energy_j, usd) = numbers;
        Self {
            models,
            index,
            local,
            forced,
            margin,
            threshold,
            thresholds,
            accuracy,
            cost,
            latency_s,
            energy_j,
            usd,
        }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Fields)> {
        let (py, c) = (slf.py(), slf.get());
        let of = |column: &Column| column.clone_ref(py);
        let fields = (
            (c.models.clone(), c.index.clone_ref(py)),
            (c.local.clone_ref(py), c.forced.clone_ref(py)),
            (c.margin.clone_ref(py), c.threshold, c.thresholds.clone_ref(py)),
            (of(&c.accuracy), of(&c.cost), of(&c.latency_s), of(&c.energy_j), of(&c.usd)),
        );
        Ok((slf.getattr("_restore")?, fields))
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.index.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Choices({} queries, models={:?})", self.index.bind(py).len(), self.models)
    }
}
