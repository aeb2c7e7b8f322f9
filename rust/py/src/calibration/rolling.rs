//! `RollingThreshold`.

use std::sync::{Mutex, PoisonError};

use cr2fast_core::Steps;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::arrays::{bools, vector_f32};
use crate::base::errors::{Cr2Error, core};
use crate::base::scalars::{args, number};
use crate::calibration::same_setting;

/// A threshold that follows the traffic: risk alpha in the long run, for any sequence of queries.
///
/// tau <- max(low, tau + eta_t (loss_t - alpha)), loss_t = 1 for a query that was accepted although its
/// full-information choice is an edge model, with steps eta_t = step t^-decay. Nothing is assumed of the
/// queries: the mix may change, abruptly or by an adversary's hand. The promise is one of the long run,
/// for the labelled queries: their mean loss is at most :meth:`long_run_bound`, a number that falls to
/// alpha like n^(decay - 1). It is no promise for a single query, nor for a short window.
///
/// Labels may come late and in batches, once per query; those that never come are not counted. After an
/// alarm (:class:`RiskAlarm`), :meth:`restart` makes the steps large again.
///
/// Safe to share between threads; picklable.
///
/// Parameters
/// ----------
/// alpha : float
///     Risk level, in (0, 1).
/// start : float
///     First threshold, as a margin: as a rule that of a calibration at `alpha`
///     (:attr:`DeviceRouter.threshold`). An infinite one needs `low` and `high`, and is set to their end.
/// low, high : float, optional
///     Range of margins; by default `start` -/+ 1 (a margin's unit is one right answer). The threshold
///     never falls below `low`, so queries under it are always deferred; the bound needs `high`, above
///     all margins.
/// step : float, optional
///     First step, as a margin; by default 0.1 (high - low).
/// decay : float
///     1/2 + epsilon, in [0.5, 1).
///
/// References
/// ----------
/// Gibbs & Candes, "Adaptive conformal inference under distribution shift", NeurIPS 2021. Feldman,
/// Ringel, Bates & Romano, "Achieving risk control in online learning settings", TMLR 2023.
/// Angelopoulos, Barber & Bates, "Online conformal prediction with decaying step sizes", ICML 2024.
#[pyclass(frozen, module = "cr2fast")]
pub struct RollingThreshold(Mutex<cr2fast_core::RollingThreshold>);

/// Steps in units of the range.
const STEP: f64 = 0.1;

impl RollingThreshold {
    fn new(threshold: cr2fast_core::RollingThreshold) -> Self {
        Self(Mutex::new(threshold))
    }

    /// Work on the threshold, without the GIL while another thread does.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut cr2fast_core::RollingThreshold) -> T + Send,
    ) -> T {
        py.detach(|| f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn copy(&self, py: Python<'_>) -> cr2fast_core::RollingThreshold {
        self.with(py, |r| r.clone())
    }
}

/// A margin, which is a single.
fn margin(x: f64, what: &str) -> PyResult<f32> {
    let single = x as f32;
    if single.is_finite() {
        return Ok(single);
    }
    Err(Cr2Error::new_err(format!(
        "{what}: expected a finite margin, got {}",
        cr2fast_core::number(x)
    )))
}

/// Thresholds that queries were decided by: one for all, or one each.
fn thresholds(decided_by: &Bound<'_, PyAny>, n: usize) -> PyResult<Vec<f32>> {
    if let Ok(one) = number(decided_by, "decided_by") {
        return Ok(vec![one as f32; n]);
    }
    Ok(vector_f32(decided_by, "decided_by")?.slice().to_vec())
}

#[pymethods]
impl RollingThreshold {
    #[new]
    #[pyo3(signature = (alpha, start, *, low=None, high=None, step=None, decay=0.6))]
    fn make(
        #[pyo3(from_py_with = args::alpha_given)] alpha: f64,
        #[pyo3(from_py_with = args::start_given)] start: f64,
        #[pyo3(from_py_with = args::low)] low: Option<f64>,
        #[pyo3(from_py_with = args::high)] high: Option<f64>,
        #[pyo3(from_py_with = args::step)] step: Option<f64>,
        #[pyo3(from_py_with = args::decay)] decay: f64,
    ) -> PyResult<Self> {
        if start.is_infinite() && (low.is_none() || high.is_none()) {
            return Err(Cr2Error::new_err(format!(
                "start: expected a finite margin where low and high are not both given, got {start}; \
                 pass the least and the largest margin of the calibration split"
            )));
        }
        let (low, high) = (low.unwrap_or(start - 1.0), high.unwrap_or(start + 1.0));
        let step = step.unwrap_or(STEP * (high - low));
        let steps = Steps { low, high, step, decay };
        cr2fast_core::RollingThreshold::new(alpha, start, steps).map(Self::new).map_err(core)
    }

    /// The threshold to serve, as a margin: accept where margin >= threshold.
    #[getter]
    fn threshold(&self, py: Python<'_>) -> f32 {
        self.with(py, |r| r.threshold())
    }

    /// Risk level.
    #[getter]
    fn alpha(&self, py: Python<'_>) -> f64 {
        self.with(py, |r| r.alpha())
    }

    /// The threshold never falls below.
    #[getter]
    fn low(&self, py: Python<'_>) -> f64 {
        self.with(py, |r| r.steps().low)
    }

    /// Largest margin that the bound is for.
    #[getter]
    fn high(&self, py: Python<'_>) -> f64 {
        self.with(py, |r| r.steps().high)
    }

    /// First step.
    #[getter]
    fn step(&self, py: Python<'_>) -> f64 {
        self.with(py, |r| r.steps().step)
    }

    /// Steps are step · t^-decay.
    #[getter]
    fn decay(&self, py: Python<'_>) -> f64 {
        self.with(py, |r| r.steps().decay)
    }

    /// Labels so far.
    #[getter]
    fn n(&self, py: Python<'_>) -> u64 {
        self.with(py, |r| r.n())
    }

    /// Labels since the steps last started.
    #[getter]
    fn since_restart(&self, py: Python<'_>) -> u64 {
        self.with(py, |r| r.since_restart())
    }

    /// False acceptances among the labels so far.
    #[getter]
    fn losses(&self, py: Python<'_>) -> u64 {
        self.with(py, |r| r.losses())
    }

    /// One label.
    ///
    /// Parameters
    /// ----------
    /// margin : float
    /// prefers_edge : bool
    ///     Whether the query's full-information choice is an edge model.
    /// decided_by : float, optional
    ///     The threshold that the query was decided by; by default the present one. A late label needs it:
    ///     the log has it.
    ///
    /// Returns
    /// -------
    /// float
    ///     The next threshold.
    #[pyo3(signature = (margin, prefers_edge, decided_by=None))]
    fn update(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::margin)] margin: f64,
        #[pyo3(from_py_with = args::prefers_edge)] prefers_edge: bool,
        #[pyo3(from_py_with = args::decided_by)] decided_by: Option<f64>,
    ) -> PyResult<f32> {
        let margin = self::margin(margin, "margin")?;
        let decided_by = decided_by.map(|t| t as f32);
        self.with(py, |r| r.update(margin, prefers_edge, decided_by)).map_err(core)
    }

    /// :meth:`update` for many labels, in their order. All are checked first.
    ///
    /// Parameters
    /// ----------
    /// margins : ndarray of float32, (N,)
    /// prefers_edge : ndarray of bool, (N,)
    /// decided_by : float or ndarray of float32, (N,), optional
    ///     As in :meth:`update`; by default the threshold that stood before the batch, for all of it.
    ///
    /// Returns
    /// -------
    /// float
    ///     The next threshold.
    #[pyo3(signature = (margins, prefers_edge, decided_by=None))]
    fn update_batch(
        &self,
        py: Python<'_>,
        margins: &Bound<'_, PyAny>,
        prefers_edge: &Bound<'_, PyAny>,
        decided_by: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<f32> {
        let (margins, prefers) =
            (vector_f32(margins, "margins")?, bools(prefers_edge, "prefers_edge")?);
        let (margins, prefers) = (margins.slice(), prefers.slice());
        let decided = decided_by.map(|t| thresholds(t, margins.len())).transpose()?;
        self.with(py, |r| r.update_batch(margins, prefers, decided.as_deref())).map_err(core)
    }

    /// Start the steps again, as after an alarm.
    ///
    /// Parameters
    /// ----------
    /// start : float, optional
    ///     A new threshold, as after a recalibration; by default the present one.
    #[pyo3(signature = (start=None))]
    fn restart(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::start)] start: Option<f64>,
    ) -> PyResult<()> {
        self.with(py, |r| r.restart(start)).map_err(core)
    }

    /// What the mean loss of the labelled queries does not exceed, whatever the sequence.
    ///
    /// alpha + D / (n eta_n), D = high - low + (1 + late) step (1 - alpha), for one run of steps; each
    /// restart and each merge adds a term of its own. Holds if no margin exceeds `high`.
    ///
    /// Parameters
    /// ----------
    /// n : int, optional
    ///     For the first n labels, were there no further restart; by default those so far.
    /// late : int
    ///     Labels that come in between a query's decision and its own label, at most; 0 where each label
    ///     comes before the next query, N - 1 with batches of N.
    ///
    /// Returns
    /// -------
    /// float
    ///     Infinite before any label.
    #[pyo3(signature = (n=None, late=0))]
    fn long_run_bound(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = args::labels)] n: Option<u64>,
        #[pyo3(from_py_with = args::late)] late: u64,
    ) -> PyResult<f64> {
        self.with(py, |r| r.long_run_bound(n, late)).map_err(core)
    }

    /// What both saw, of different queries, as a new state: thresholds averaged by their labels, steps as
    /// small as after all labels. Each merge adds to the bound: merge per day rather than per query.
    fn merge(&self, py: Python<'_>, other: &Self) -> PyResult<Self> {
        self.copy(py).merge(&other.copy(py)).map(Self::new).map_err(core)
    }

    /// The state, under 200 bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.copy(py).to_bytes())
    }

    /// The state back from :meth:`to_bytes`.
    ///
    /// Parameters
    /// ----------
    /// data : bytes
    /// alpha : float, optional
    ///     What the state has to be of; another one's is refused.
    ///
    /// Raises
    /// ------
    /// StateError
    ///     Damaged or forged, or of another alpha.
    #[staticmethod]
    #[pyo3(signature = (data, alpha=None))]
    fn from_bytes(
        data: &[u8],
        #[pyo3(from_py_with = args::alpha)] alpha: Option<f64>,
    ) -> PyResult<Self> {
        let out = cr2fast_core::RollingThreshold::from_bytes(data).map_err(core)?;
        same_setting("rolling threshold state", "alpha", alpha, out.alpha())?;
        Ok(Self::new(out))
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
        let r = self.copy(py);
        format!(
            "RollingThreshold(alpha={}, threshold={}, n={}, losses={})",
            r.alpha(),
            r.threshold(),
            r.n(),
            r.losses()
        )
    }
}
