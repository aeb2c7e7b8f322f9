//! Functions on arrays: the full-information choice and its margin.

use numpy::PyArray2;
use pyo3::prelude::*;

use crate::base::arrays::{matrix_f32, out2, same_shape};
use crate::base::errors::core;
use crate::base::scalars::{args, levels};

/// Δ (L, N) of accuracies and costs (N, M).
#[pyfunction]
fn choice_margins<'py>(
    py: Python<'py>,
    accuracies: &Bound<'py, PyAny>,
    costs: &Bound<'py, PyAny>,
    lams: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let (p, c) = (matrix_f32(accuracies, "accuracies")?, matrix_f32(costs, "costs")?);
    same_shape("costs", p.shape(), c.shape())?;
    let lams = levels(lams, "lams")?;
    let (n, m) = (p.shape()[0], p.shape()[1]);
    let (p, c) = (p.slice(), c.slice());
    let out = py.detach(|| cr2fast_core::choice_margins(p, c, m, &lams)).map_err(core)?;
    out2(py, out, lams.len(), n)
}

/// The chosen model (L, N), among models from `first` on.
#[pyfunction]
#[pyo3(signature = (accuracies, costs, lams, first=0))]
fn choices<'py>(
    py: Python<'py>,
    accuracies: &Bound<'py, PyAny>,
    costs: &Bound<'py, PyAny>,
    lams: &Bound<'py, PyAny>,
    #[pyo3(from_py_with = args::first)] first: usize,
) -> PyResult<Bound<'py, PyArray2<u16>>> {
    let (p, c) = (matrix_f32(accuracies, "accuracies")?, matrix_f32(costs, "costs")?);
    same_shape("costs", p.shape(), c.shape())?;
    let lams = levels(lams, "lams")?;
    let (n, m) = (p.shape()[0], p.shape()[1]);
    let (p, c) = (p.slice(), c.slice());
    let out = py.detach(|| cr2fast_core::choices(p, c, m, &lams, first)).map_err(core)?;
    out2(py, out, lams.len(), n)
}

/// Add the functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(choice_margins, m)?)?;
    m.add_function(wrap_pyfunction!(choices, m)?)
}
