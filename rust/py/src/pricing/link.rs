//! `LinkState`, `LinkStates`.

use numpy::PyArray1;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use crate::base::arrays::{out1, real};
use crate::base::errors::{Cr2Error, core};
use crate::base::scalars::{args, wrong_type};

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
    fn new(
        #[pyo3(from_py_with = args::rate_ul_bps)] rate_ul_bps: f64,
        #[pyo3(from_py_with = args::rate_dl_bps)] rate_dl_bps: f64,
        #[pyo3(from_py_with = args::rtt_s)] rtt_s: f64,
    ) -> PyResult<Self> {
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

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyAny>, (f64, f64, f64)) {
        let s = slf.get().0;
        (slf.get_type().into_any(), (s.rate_ul_bps, s.rate_dl_bps, s.rtt_s))
    }

    fn __repr__(&self) -> String {
        let s = self.0;
        format!(
            "LinkState(rate_ul_bps={}, rate_dl_bps={}, rtt_s={})",
            s.rate_ul_bps, s.rate_dl_bps, s.rtt_s
        )
    }
}

/// (N,) float64.
type Rates<'py> = Bound<'py, PyArray1<f64>>;

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

    fn __eq__(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> (Bound<'py, PyAny>, (Rates<'py>, Rates<'py>, Rates<'py>)) {
        let (py, s) = (slf.py(), slf.get());
        (slf.get_type().into_any(), (s.rate_ul_bps(py), s.rate_dl_bps(py), s.rtt_s(py)))
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

/// ξ of an argument `state`, or none.
pub fn state(obj: &Bound<'_, PyAny>) -> PyResult<Option<LinkState>> {
    if obj.is_none() {
        return Ok(None);
    }
    obj.extract().map(Some).map_err(|_| wrong_type("state", "a LinkState, or None", obj))
}

/// The same where it has to be given.
pub fn state_given(obj: &Bound<'_, PyAny>) -> PyResult<LinkState> {
    obj.extract().map_err(|_| wrong_type("state", "a LinkState", obj))
}

/// N link states, or none: a copy, so that the work needs no lock.
pub fn link_states(
    states: Option<&Bound<'_, PyAny>>,
    n: usize,
) -> PyResult<Option<Vec<cr2fast_core::LinkState>>> {
    let Some(states) = states else { return Ok(None) };
    let wrong = |_| wrong_type("states", "a LinkStates", states);
    let kept = &states.cast::<LinkStates>().map_err(wrong)?.get().0;
    if kept.len() != n {
        let got = kept.len();
        return Err(Cr2Error::new_err(format!("states: expected {n}, one per query, got {got}")));
    }
    Ok(Some(kept.clone()))
}
