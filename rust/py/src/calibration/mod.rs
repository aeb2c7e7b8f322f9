//! Calibration: CRC thresholds and empirical risk of arrays; the watch over a promise in service.

pub mod alarm;
pub mod counts;
pub mod rolling;
pub mod run;

use cr2fast_core::{Promise, shown};
use numpy::PyArray2;
use pyo3::prelude::*;

use crate::base::arrays::{matrix_bool, matrix_f32, out2, same_shape};
use crate::base::errors::{Cr2Error, StateError, core};
use crate::base::scalars::{args, levels, number};

/// Refuse a saved state of other settings than those expected, where any are.
fn same_setting(what: &str, name: &str, expected: Option<f64>, got: f64) -> PyResult<()> {
    match expected {
        Some(expected) if expected != got => Err(StateError::new_err(format!(
            "{what}: expected {name} {expected}, got {got}; start a new state, or restore it as what \
             it is"
        ))),
        _ => Ok(()),
    }
}

/// Whether an infeasible level defers, or is an error.
fn defers(name: &str) -> PyResult<bool> {
    match name {
        "raise" => Ok(false),
        "defer" => Ok(true),
        other => Err(Cr2Error::new_err(format!(
            "on_infeasible: expected \"raise\" or \"defer\", got \"{}\"",
            shown(other)
        ))),
    }
}

/// Thresholds of conformal risk control, (L, A) float32 (equations 62-68).
///
/// Accept where score >= threshold: +inf defers all, -inf accepts all. For each row, with
/// k = floor(alpha (N+1)) - 1, exact for alpha as it is written in decimal, the threshold is the least
/// float above the (k+1)-th largest score among the samples that prefer the edge. Then, for a score
/// frozen beforehand and exchangeable samples, E[1[prefers edge] 1[score >= threshold]] <= alpha, for
/// each row by itself.
///
/// Parameters
/// ----------
/// scores : ndarray of float32, (L, N)
///     One row per cost weight; finite.
/// prefers_edge : ndarray of bool, (L, N)
///     Whether the full-information choice is an edge model.
/// alphas : array_like of float, (A,)
///     Risk levels in (0, 1).
/// on_infeasible : {"raise", "defer"}
///     For alpha < 1/(N+1): an error, or +inf.
/// threads : int
///     0: one per core.
///
/// Raises
/// ------
/// InfeasibleAlphaError, Cr2Error, TypeError
#[pyfunction]
#[pyo3(signature = (scores, prefers_edge, alphas, on_infeasible="raise", threads=1))]
fn crc_thresholds<'py>(
    py: Python<'py>,
    scores: &Bound<'py, PyAny>,
    prefers_edge: &Bound<'py, PyAny>,
    alphas: &Bound<'py, PyAny>,
    on_infeasible: &str,
    #[pyo3(from_py_with = args::threads)] threads: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let defer = defers(on_infeasible)?;
    let (s, r) = (matrix_f32(scores, "scores")?, matrix_bool(prefers_edge, "prefers_edge")?);
    same_shape("prefers_edge", s.shape(), r.shape())?;
    let alphas = levels(alphas, "alphas")?;
    let (l, n) = (s.shape()[0], s.shape()[1]);
    let (s, r) = (s.slice(), r.slice());
    let out = py
        .detach(|| cr2fast_core::crc_thresholds(s, r, n, &alphas, defer, threads))
        .map_err(core)?;
    out2(py, out, l, alphas.len())
}

/// Fraction of samples that prefer the edge and have score >= threshold, (L, A) float64.
///
/// Parameters
/// ----------
/// scores : ndarray of float32, (L, N)
/// prefers_edge : ndarray of bool, (L, N)
/// thresholds : ndarray of float32, (L, A)
#[pyfunction]
fn empirical_risk<'py>(
    py: Python<'py>,
    scores: &Bound<'py, PyAny>,
    prefers_edge: &Bound<'py, PyAny>,
    thresholds: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let (s, r) = (matrix_f32(scores, "scores")?, matrix_bool(prefers_edge, "prefers_edge")?);
    let t = matrix_f32(thresholds, "thresholds")?;
    same_shape("prefers_edge", s.shape(), r.shape())?;
    same_shape("thresholds", &[s.shape()[0], t.shape()[1]], t.shape())?;
    let (l, n, a) = (s.shape()[0], s.shape()[1], t.shape()[1]);
    let (s, r, t) = (s.slice(), r.slice(), t.slice());
    let out = py.detach(|| cr2fast_core::empirical_risk(s, r, n, t)).map_err(core)?;
    out2(py, out, l, a)
}

/// k = ⌊α(N+1)⌋ − 1, or None when α is infeasible.
#[pyfunction]
fn allowed_false_acceptances(
    alpha: &Bound<'_, PyAny>,
    #[pyo3(from_py_with = args::n)] n: usize,
) -> PyResult<Option<usize>> {
    let alpha = number(alpha, "alpha")?;
    cr2fast_core::check_alpha(alpha).map_err(core)?;
    Ok(cr2fast_core::allowed_false_acceptances(alpha, n))
}

/// Counts k (A,) of false acceptances that N samples allow on a grid of L cost weights.
#[pyfunction]
#[pyo3(signature = (n, alphas, lams, delta=None))]
fn allowed_counts(
    #[pyo3(from_py_with = args::n)] n: usize,
    alphas: &Bound<'_, PyAny>,
    lams: usize,
    #[pyo3(from_py_with = args::delta)] delta: Option<f64>,
) -> PyResult<Vec<Option<usize>>> {
    let promise = delta.map_or(Promise::Each, |delta| Promise::AtOnce { delta });
    promise.allowed(n, lams, &levels(alphas, "alphas")?).map_err(core)
}

/// Where `value` stands on an ascending grid (None: nowhere), and its neighbours in words.
#[pyfunction]
fn find_level(grid: &Bound<'_, PyAny>, value: f64) -> PyResult<(Option<usize>, String)> {
    let grid = levels(grid, "grid")?;
    Ok((cr2fast_core::find_level(&grid, value), cr2fast_core::neighbouring_levels(&grid, value)))
}

/// The paper's risk level or, of `alphas` without it, the nearest.
#[pyfunction]
fn usual_alpha(alphas: &Bound<'_, PyAny>) -> PyResult<f64> {
    Ok(cr2fast_core::usual_alpha(&levels(alphas, "alphas")?))
}

/// Add the functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(crc_thresholds, m)?)?;
    m.add_function(wrap_pyfunction!(allowed_counts, m)?)?;
    m.add_function(wrap_pyfunction!(find_level, m)?)?;
    m.add_function(wrap_pyfunction!(usual_alpha, m)?)?;
    m.add("USUAL_ALPHA", cr2fast_core::USUAL_ALPHA)?;
    m.add("PAPER_LAMS", cr2fast_train::PAPER_LAMS)?;
    m.add_function(wrap_pyfunction!(empirical_risk, m)?)?;
    m.add_function(wrap_pyfunction!(allowed_false_acceptances, m)?)
}
