//! `RiskAlarm`.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::arrays::{View, doubles};
use crate::base::errors::core;
use crate::base::scalars::args;
use crate::calibration::same_setting;

/// An anytime-valid alarm for a risk above alpha.
///
/// Wealth W_t = mean over bets b of prod_i (1 + b (x_i - alpha)), with x_i = weight_i loss_i and a fixed
/// grid of bets b = 2^k, from 1/64 to at most 1/(2 alpha). The alarm is raised, for good, at
/// W >= 1/delta.
///
/// The promise: if, query by query, the expectation of x_i given the past is at most alpha, then the
/// alarm is ever raised with probability at most delta (Ville's inequality), however often one looks and
/// whenever one stops. The sequence may drift and depend on its past; nothing else is assumed. For
/// independent losses above alpha on average the alarm is raised sooner or later; a long quiet time first
/// makes that later, so start a new alarm per window (a day, a router), each with its share of delta.
///
/// Where each query is looked at with a probability pi > 0 only, known before it came, pass the weight
/// 1/pi for those looked at and 0 for the others: their expectation is that of all. Leaving out those not
/// looked at voids the promise, and so does a pi that depends on the loss.
///
/// Safe to share between threads; picklable.
///
/// Parameters
/// ----------
/// alpha : float
///     Risk that the router promises, in (0, 1).
/// delta : float
///     Probability, at most, of an alarm while the promise holds, in (0, 1).
///
/// References
/// ----------
/// Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024.
/// Podkopaev & Ramdas, "Tracking the risk of a deployed model and detecting harmful distribution
/// shifts", ICLR 2022. With weights 1/pi: Xu, Karampatziakis & Mineiro, "Active, anytime-valid risk
/// controlling prediction sets", arXiv 2406.10490.
#[pyclass(frozen, module = "cr2fast")]
pub struct RiskAlarm(Mutex<cr2fast_core::RiskAlarm>);

impl RiskAlarm {
    fn new(alarm: cr2fast_core::RiskAlarm) -> Self {
        Self(Mutex::new(alarm))
    }

    /// Work on the alarm, without the GIL while another thread does.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut cr2fast_core::RiskAlarm) -> T + Send,
    ) -> T {
        py.detach(|| f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn copy(&self, py: Python<'_>) -> cr2fast_core::RiskAlarm {
        self.with(py, |a| a.clone())
    }
}

#[pymethods]
impl RiskAlarm {
    #[new]
    #[pyo3(signature = (alpha, delta))]
    fn make(
        #[pyo3(from_py_with = args::alpha_given)] alpha: f64,
        #[pyo3(from_py_with = args::delta_given)] delta: f64,
    ) -> PyResult<Self> {
        cr2fast_core::RiskAlarm::new(alpha, delta).map(Self::new).map_err(core)
    }

    /// Risk level.
    #[getter]
    fn alpha(&self, py: Python<'_>) -> f64 {
        self.with(py, |a| a.alpha())
    }

    /// Probability, at most, of a false alarm.
    #[getter]
    fn delta(&self, py: Python<'_>) -> f64 {
        self.with(py, |a| a.delta())
    }

    /// Queries so far.
    #[getter]
    fn n(&self, py: Python<'_>) -> u64 {
        self.with(py, |a| a.n())
    }

    /// Mean of weight · loss so far: an unbiased estimate of the risk. NaN before any query.
    #[getter]
    fn mean(&self, py: Python<'_>) -> f64 {
        self.with(py, |a| a.mean())
    }

    /// Wealth W; infinity or 0 where no double is as large or as small.
    #[getter]
    fn wealth(&self, py: Python<'_>) -> f64 {
        self.with(py, |a| a.wealth())
    }

    /// ln W, always finite.
    #[getter]
    fn log_wealth(&self, py: Python<'_>) -> f64 {
        self.with(py, |a| a.log_wealth())
    }

    /// Whether the alarm was ever raised.
    #[getter]
    fn alarmed(&self, py: Python<'_>) -> bool {
        self.with(py, |a| a.alarmed())
    }

    /// The query that raised it, counted from 1; None without an alarm.
    #[getter]
    fn alarmed_at(&self, py: Python<'_>) -> Option<u64> {
        self.with(py, |a| a.alarmed_at())
    }

    /// Count one query.
    ///
    /// Parameters
    /// ----------
    /// loss : float or bool
    ///     1 for a query kept local although the full-information choice is an edge model, else 0; or
    ///     anything between.
    /// weight : float
    ///     1/pi, from 1 to 1e6, for a query looked at with probability pi; 0 for one not looked at.
    ///
    /// Returns
    /// -------
    /// bool
    ///     True once the alarm was ever raised.
    #[pyo3(signature = (loss, weight=1.0))]
    fn update(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::loss)] loss: f64,
        #[pyo3(from_py_with = args::weight)] weight: f64,
    ) -> PyResult<bool> {
        self.with(py, |a| a.update(loss, weight)).map_err(core)
    }

    /// :meth:`update` for many queries in their order, to the same bits. All are checked first.
    ///
    /// Parameters
    /// ----------
    /// losses : array_like, (N,)
    ///     Numbers in [0, 1], or booleans.
    /// weights : array_like of float, (N,), optional
    ///     By default 1 each.
    #[pyo3(signature = (losses, weights=None))]
    fn update_many(
        &self,
        py: Python<'_>,
        losses: &Bound<'_, PyAny>,
        weights: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let losses = doubles(losses, "losses")?;
        let weights = weights.map(|w| doubles(w, "weights")).transpose()?;
        let (losses, weights) = (losses.slice(), weights.as_ref().map(View::slice));
        self.with(py, |a| a.update_many(losses, weights)).map_err(core)
    }

    /// What both saw, of different queries, as a new alarm: the wealth of one sequence after the other.
    ///
    /// An alarm that one of them raised stays: k alarms watched apart raise a false one with probability
    /// at most k · delta together.
    fn merge(&self, py: Python<'_>, other: &Self) -> PyResult<Self> {
        self.copy(py).merge(&other.copy(py)).map(Self::new).map_err(core)
    }

    /// The state, under 300 bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.copy(py).to_bytes())
    }

    /// The state back from :meth:`to_bytes`.
    ///
    /// Parameters
    /// ----------
    /// data : bytes
    /// alpha, delta : float, optional
    ///     What the state has to be of; another one's is refused.
    ///
    /// Raises
    /// ------
    /// StateError
    ///     Damaged or forged, or of another alpha or delta.
    #[staticmethod]
    #[pyo3(signature = (data, alpha=None, delta=None))]
    fn from_bytes(
        data: &[u8],
        #[pyo3(from_py_with = args::alpha)] alpha: Option<f64>,
        #[pyo3(from_py_with = args::delta)] delta: Option<f64>,
    ) -> PyResult<Self> {
        let alarm = cr2fast_core::RiskAlarm::from_bytes(data).map_err(core)?;
        same_setting("alarm state", "alpha", alpha, alarm.alpha())?;
        same_setting("alarm state", "delta", delta, alarm.delta())?;
        Ok(Self::new(alarm))
    }

    fn __copy__(&self, py: Python<'_>) -> Self {
        Self::new(self.copy(py))
    }

    fn __deepcopy__(&self, py: Python<'_>, _memo: &Bound<'_, PyAny>) -> Self {
        Self::new(self.copy(py))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| self.copy(py) == other.get().copy(py))
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.getattr("from_bytes")?, (slf.get().to_bytes(slf.py()),)))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let a = self.copy(py);
        let at = a.alarmed_at().map_or_else(String::new, |at| format!(", alarmed_at={at}"));
        format!(
            "RiskAlarm(alpha={}, delta={}, n={}, wealth={:.4e}{at})",
            a.alpha(),
            a.delta(),
            a.n(),
            a.wealth()
        )
    }
}
