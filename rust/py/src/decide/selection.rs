//! `Selection`, `Selections`.

use numpy::{PyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::decide::{column, indices, known};

/// A selected model, with the numbers behind it.
///
/// Attributes
/// ----------
/// model : str
/// utility : float
///     accuracy - λ · cost.
/// accuracy : float
///     The teacher's probability that the model answers correctly.
/// cost : float
///     Normalised cost c.
/// latency_s, energy_j, usd : float or None
///     Expected seconds, joules and dollars; None where the cost table cannot tell.
#[pyclass(frozen, eq, get_all, module = "cr2fast")]
#[derive(PartialEq)]
pub struct Selection {
    model: String,
    utility: f64,
    accuracy: f32,
    cost: f32,
    latency_s: Option<f64>,
    energy_j: Option<f64>,
    usd: Option<f64>,
}

impl Selection {
    /// A selection of the core's, among models of these names.
    pub fn new(models: &[String], s: &cr2fast_core::Selection) -> Self {
        Self {
            model: models[s.model].clone(),
            utility: s.utility,
            accuracy: s.accuracy,
            cost: s.cost,
            latency_s: s.latency_s,
            energy_j: s.energy_j,
            usd: s.usd,
        }
    }
}

/// The fields of [`Selection`], in their order.
type SelectionFields = (String, f64, f32, f32, Option<f64>, Option<f64>, Option<f64>);

#[pymethods]
impl Selection {
    #[staticmethod]
    fn _restore(
        model: String,
        utility: f64,
        accuracy: f32,
        cost: f32,
        latency_s: Option<f64>,
        energy_j: Option<f64>,
        usd: Option<f64>,
    ) -> Self {
        Self { model, utility, accuracy, cost, latency_s, energy_j, usd }
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, SelectionFields)> {
        let s = slf.get();
        let units = (s.latency_s, s.energy_j, s.usd);
        let fields = (s.model.clone(), s.utility, s.accuracy, s.cost, units.0, units.1, units.2);
        Ok((slf.getattr("_restore")?, fields))
    }

    fn __repr__(&self) -> String {
        format!(
            "Selection(model={:?}, utility={:.6}, accuracy={:.6}, cost={:.6})",
            self.model, self.utility, self.accuracy, self.cost
        )
    }
}

/// Models selected for N queries; arrays are (N,).
///
/// Attributes
/// ----------
/// models : list of str
///     Names that `index` points into, the device's first.
/// index : ndarray of int64
/// utility, accuracy, cost, latency_s, energy_j, usd : ndarray
///     As of :class:`Selection`; NaN where the cost table cannot tell.
#[pyclass(frozen, get_all, module = "cr2fast")]
pub struct Selections {
    models: Vec<String>,
    index: Py<PyArray1<i64>>,
    utility: Py<PyArray1<f64>>,
    accuracy: Py<PyArray1<f32>>,
    cost: Py<PyArray1<f32>>,
    latency_s: Py<PyArray1<f64>>,
    energy_j: Py<PyArray1<f64>>,
    usd: Py<PyArray1<f64>>,
}

impl Selections {
    /// Selections of the core's, among models of these names.
    pub fn new(py: Python<'_>, models: &[String], all: &[cr2fast_core::Selection]) -> Self {
        Self {
            models: models.to_vec(),
            index: indices(py, all.iter().map(|s| s.model)),
            utility: column(py, all.iter().map(|s| s.utility)),
            accuracy: column(py, all.iter().map(|s| s.accuracy)),
            cost: column(py, all.iter().map(|s| s.cost)),
            latency_s: known(py, all.iter().map(|s| s.latency_s)),
            energy_j: known(py, all.iter().map(|s| s.energy_j)),
            usd: known(py, all.iter().map(|s| s.usd)),
        }
    }
}

/// The fields of [`Selections`], in their order.
type Fields = (
    Vec<String>,
    Py<PyArray1<i64>>,
    Py<PyArray1<f64>>,
    Py<PyArray1<f32>>,
    Py<PyArray1<f32>>,
    Py<PyArray1<f64>>,
    Py<PyArray1<f64>>,
    Py<PyArray1<f64>>,
);

#[pymethods]
impl Selections {
    #[staticmethod]
    #[allow(clippy::too_many_arguments)]
    fn _restore(
        models: Vec<String>,
        index: Py<PyArray1<i64>>,
        utility: Py<PyArray1<f64>>,
        accuracy: Py<PyArray1<f32>>,
        cost: Py<PyArray1<f32>>,
        latency_s: Py<PyArray1<f64>>,
        energy_j: Py<PyArray1<f64>>,
        usd: Py<PyArray1<f64>>,
    ) -> Self {
        Self { models, index, utility, accuracy, cost, latency_s, energy_j, usd }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Fields)> {
        let (py, s) = (slf.py(), slf.get());
        let fields = (
            s.models.clone(),
            s.index.clone_ref(py),
            s.utility.clone_ref(py),
            s.accuracy.clone_ref(py),
            s.cost.clone_ref(py),
            s.latency_s.clone_ref(py),
            s.energy_j.clone_ref(py),
            s.usd.clone_ref(py),
        );
        Ok((slf.getattr("_restore")?, fields))
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.index.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Selections({} queries, models={:?})", self.index.bind(py).len(), self.models)
    }
}
