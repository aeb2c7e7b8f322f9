//! `MarginCounts` and `CellCounts`: calibration of rows that no single machine holds.

use std::sync::{Mutex, PoisonError};

use cr2fast_core::Promise;
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::arrays::{matrix_bool, matrix_f32, out2, same_shape};
use crate::base::errors::core;
use crate::base::scalars::{args, levels};
use crate::calibration::defers;

/// What both passes have in common, each over its own counts.
macro_rules! pass {
    ($name:ident) => {
        impl $name {
            fn new(counts: cr2fast_core::$name) -> Self {
                Self(Mutex::new(counts))
            }

            /// Work on the counts, without the GIL while another thread does.
            fn with<T: Send>(
                &self,
                py: Python<'_>,
                f: impl FnOnce(&mut cr2fast_core::$name) -> T + Send,
            ) -> T {
                py.detach(|| f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
            }

            fn copy(&self, py: Python<'_>) -> cr2fast_core::$name {
                self.with(py, |c| c.clone())
            }

            fn count(
                &self,
                py: Python<'_>,
                margins: &Bound<'_, PyAny>,
                prefers_edge: &Bound<'_, PyAny>,
            ) -> PyResult<()> {
                let m = matrix_f32(margins, "margins")?;
                let r = matrix_bool(prefers_edge, "prefers_edge")?;
                let lams = self.with(py, |c| c.lams());
                same_shape("margins", &[lams, m.shape()[1]], m.shape())?;
                same_shape("prefers_edge", m.shape(), r.shape())?;
                let (m, r) = (m.slice(), r.slice());
                self.with(py, |c| c.update(m, r)).map_err(core)
            }

            fn merged(&self, py: Python<'_>, other: &Self) -> PyResult<Self> {
                let (a, b) = (self.copy(py), other.copy(py));
                py.detach(|| a.merge(&b)).map(Self::new).map_err(core)
            }

            fn bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
                PyBytes::new(py, &self.with(py, |c| c.to_bytes()))
            }

            fn restored(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
                py.detach(|| cr2fast_core::$name::from_bytes(data)).map(Self::new).map_err(core)
            }

            fn equals(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> bool {
                other.cast::<Self>().is_ok_and(|other| self.copy(py) == other.get().copy(py))
            }
        }
    };
}

/// First pass of an exact calibration over rows that no single machine holds.
///
/// Each worker counts its share of the rows; counts are merged, and tell what :meth:`second_pass` has to
/// look at. After it, thresholds are those of :func:`crc_thresholds` on all rows, bit for bit, in whatever
/// shares and order the rows came. Half a megabyte per cost weight, however many rows; picklable, and safe
/// to share between threads.
///
/// Parameters
/// ----------
/// lams : int
///     Cost weights L, at most 1024.
///
/// Examples
/// --------
/// >>> first = MarginCounts(len(lams))
/// >>> for margins, prefers_edge in batches:       # on any number of workers, then merge
/// ...     first.update(margins, prefers_edge)
/// >>> second = first.second_pass([0.01, 0.05])
/// >>> for margins, prefers_edge in batches:       # the same rows again
/// ...     second.update(margins, prefers_edge)
/// >>> thresholds = second.thresholds()
#[pyclass(frozen, module = "cr2fast")]
pub struct MarginCounts(Mutex<cr2fast_core::MarginCounts>);

pass!(MarginCounts);

#[pymethods]
impl MarginCounts {
    #[new]
    fn make(#[pyo3(from_py_with = args::lams)] lams: usize) -> PyResult<Self> {
        cr2fast_core::MarginCounts::new(lams).map(Self::new).map_err(core)
    }

    /// Cost weights L.
    #[getter]
    fn lams(&self, py: Python<'_>) -> usize {
        self.with(py, |c| c.lams())
    }

    /// Rows so far.
    #[getter]
    fn n(&self, py: Python<'_>) -> usize {
        self.with(py, |c| c.n())
    }

    /// Count N rows.
    ///
    /// Parameters
    /// ----------
    /// margins : ndarray of float32, (L, N)
    ///     Finite.
    /// prefers_edge : ndarray of bool, (L, N)
    ///     Whether the full-information choice is an edge model.
    fn update(
        &self,
        py: Python<'_>,
        margins: &Bound<'_, PyAny>,
        prefers_edge: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.count(py, margins, prefers_edge)
    }

    /// What both counted, of different rows, as a new object.
    fn merge(&self, py: Python<'_>, other: &Self) -> PyResult<Self> {
        self.merged(py, other)
    }

    /// What the second pass has to count.
    ///
    /// Parameters
    /// ----------
    /// alphas : array_like of float, (A,)
    ///     Risk levels in (0, 1).
    /// on_infeasible : {"raise", "defer"}
    ///     For a level that so many rows cannot promise: an error, or +inf.
    /// delta : float, optional
    ///     One promise for all L A cells at once, as of ``calibrate(simultaneous=True)``.
    ///
    /// Returns
    /// -------
    /// CellCounts
    ///
    /// Raises
    /// ------
    /// InfeasibleAlphaError, Cr2Error
    #[pyo3(signature = (alphas, on_infeasible="raise", *, delta=None))]
    fn second_pass(
        &self,
        py: Python<'_>,
        alphas: &Bound<'_, PyAny>,
        on_infeasible: &str,
        #[pyo3(from_py_with = args::delta)] delta: Option<f64>,
    ) -> PyResult<CellCounts> {
        let (alphas, defer) = (levels(alphas, "alphas")?, defers(on_infeasible)?);
        let promise = delta.map_or(Promise::Each, |delta| Promise::AtOnce { delta });
        let made = self.with(py, |c| c.second_pass(&alphas, promise, defer));
        made.map(CellCounts::new).map_err(core)
    }

    /// The state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.bytes(py)
    }

    /// The state back; a damaged or forged one is a StateError.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        Self::restored(py, data)
    }

    fn __copy__(&self, py: Python<'_>) -> Self {
        Self::new(self.copy(py))
    }

    fn __deepcopy__(&self, py: Python<'_>, _memo: &Bound<'_, PyAny>) -> Self {
        Self::new(self.copy(py))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> bool {
        self.equals(py, other)
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.getattr("from_bytes")?, (slf.get().to_bytes(slf.py()),)))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (lams, n) = self.with(py, |c| (c.lams(), c.n()));
        format!("MarginCounts(lams={lams}, n={n})")
    }
}

/// Second pass of an exact calibration: made by :meth:`MarginCounts.second_pass`.
///
/// Copy it (or pickle it) to every worker, count the same rows as in the first pass, and merge. Half a
/// megabyte per cell that is looked into, of which there are at most A per cost weight.
#[pyclass(frozen, module = "cr2fast")]
pub struct CellCounts(Mutex<cr2fast_core::CellCounts>);

pass!(CellCounts);

#[pymethods]
impl CellCounts {
    /// Rows so far.
    #[getter]
    fn n(&self, py: Python<'_>) -> usize {
        self.with(py, |c| c.n())
    }

    /// Count N rows, as of :meth:`MarginCounts.update`.
    fn update(
        &self,
        py: Python<'_>,
        margins: &Bound<'_, PyAny>,
        prefers_edge: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.count(py, margins, prefers_edge)
    }

    /// What both counted, of different rows, as a new object.
    fn merge(&self, py: Python<'_>, other: &Self) -> PyResult<Self> {
        self.merged(py, other)
    }

    /// Thresholds, (L, A) float32, as of :func:`crc_thresholds`.
    ///
    /// Raises
    /// ------
    /// Cr2Error
    ///     The rows were not those of the first pass, each once.
    fn thresholds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (out, l, a) = self.with(py, |c| (c.thresholds(), c.lams(), c.alphas()));
        out2(py, out.map_err(core)?, l, a)
    }

    /// The state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.bytes(py)
    }

    /// The state back; a damaged or forged one is a StateError.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        Self::restored(py, data)
    }

    fn __copy__(&self, py: Python<'_>) -> Self {
        Self::new(self.copy(py))
    }

    fn __deepcopy__(&self, py: Python<'_>, _memo: &Bound<'_, PyAny>) -> Self {
        Self::new(self.copy(py))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> bool {
        self.equals(py, other)
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.getattr("from_bytes")?, (slf.get().to_bytes(slf.py()),)))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (lams, a, n) = self.with(py, |c| (c.lams(), c.alphas(), c.n()));
        format!("CellCounts(lams={lams}, alphas={a}, n={n})")
    }
}
