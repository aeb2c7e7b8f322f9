//! How calibrations are asked for, and what they come to, by name.

use cr2fast_core::{Calibration, OnInfeasible, Report, shown};
use numpy::{PyArrayMethods, ToPyArray};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::base::arrays::{out1, out2};
use crate::base::errors::Cr2Error;

/// What becomes of a level that the split cannot promise.
pub fn infeasible(name: &str) -> PyResult<OnInfeasible> {
    match name {
        "raise" => Ok(OnInfeasible::Raise),
        "defer" => Ok(OnInfeasible::Defer),
        "leave out" => Ok(OnInfeasible::LeaveOut),
        other => Err(Cr2Error::new_err(format!(
            "on_infeasible: expected \"raise\", \"defer\" or \"leave out\", got \"{}\"",
            shown(other)
        ))),
    }
}

/// What was calibrated.
pub fn described<'py>(py: Python<'py>, c: &Calibration) -> PyResult<Bound<'py, PyDict>> {
    let rows = c.lams.len();
    let out = PyDict::new(py);
    out.set_item("lams", c.lams.to_pyarray(py))?;
    out.set_item("alphas", c.alphas.to_pyarray(py))?;
    out.set_item("thresholds", out2(py, c.thresholds.clone(), rows, c.alphas.len())?)?;
    out.set_item("n", c.n)?;
    out.set_item("judge", &c.judge)?;
    out.set_item("lengths", &c.lengths)?;
    out.set_item("delta", c.delta)?;
    out.set_item("length_factors", c.length_factors.to_pyarray(py))?;
    out.set_item("defer_atypical", c.defer_atypical)?;
    out.set_item("quantiles", out2(py, c.quantiles.clone(), rows, c.quantiles.len() / rows)?)?;
    let groups = c.groups.as_ref().map(|g| -> PyResult<_> {
        let out = PyDict::new(py);
        out.set_item("names", &g.names)?;
        out.set_item("n", &g.counts)?;
        let cube = [g.names.len(), rows, c.alphas.len()];
        out.set_item("thresholds", out1(py, &g.thresholds).reshape(cube)?)?;
        out.set_item("unknown", if g.pooled { "pooled" } else { "defer" })?;
        Ok(out)
    });
    out.set_item("groups", groups.transpose()?)?;
    Ok(out)
}

/// What a calibration at `lams` cost weights did.
pub fn reported(py: Python<'_>, report: Report, lams: usize) -> PyResult<Bound<'_, PyDict>> {
    let cells = (lams, report.allowed.len());
    let out = PyDict::new(py);
    out.set_item("allowed", report.allowed)?;
    out.set_item("empirical_risk", out2(py, report.empirical_risk, cells.0, cells.1)?)?;
    out.set_item("local_rate", out2(py, report.local_rate, cells.0, cells.1)?)?;
    out.set_item("left_out", report.left_out)?;
    if let Some(g) = report.groups {
        let cube = [g.allowed.len() / cells.1, cells.0, cells.1];
        let within = PyDict::new(py);
        let allowed: Vec<_> = g.allowed.chunks(cells.1).map(<[_]>::to_vec).collect();
        within.set_item("allowed", allowed)?;
        within.set_item("empirical_risk", out1(py, &g.empirical_risk).reshape(cube)?)?;
        within.set_item("local_rate", out1(py, &g.local_rate).reshape(cube)?)?;
        out.set_item("groups", within)?;
    }
    Ok(out)
}
