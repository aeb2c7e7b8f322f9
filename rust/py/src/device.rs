//! `DeviceRouter` and `Decision`.

use cr2fast_core::device;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::arrays::{out1, vector_f32};
use crate::errors::core;
use crate::router::{Router, check_width, open};

/// Accept or defer, with the numbers behind it.
///
/// Attributes
/// ----------
/// local : bool
///     True: answer on the device.
/// margin, threshold : float
///     Compared: local is margin >= threshold. The threshold is +inf to defer all, -inf to accept all.
/// score : float
///     sigmoid(margin / T), in [0, 1]; for people.
#[pyclass(frozen, eq, module = "cr2fast")]
#[derive(PartialEq)]
pub struct Decision(device::Decision);

#[pymethods]
impl Decision {
    #[getter]
    fn local(&self) -> bool {
        self.0.local
    }

    #[getter]
    fn margin(&self) -> f32 {
        self.0.margin
    }

    #[getter]
    fn threshold(&self) -> f32 {
        self.0.threshold
    }

    #[getter]
    fn score(&self) -> f64 {
        self.0.score
    }

    fn __repr__(&self) -> String {
        let d = self.0;
        let local = if d.local { "True" } else { "False" };
        format!(
            "Decision(local={local}, margin={}, threshold={}, score={:.6})",
            d.margin, d.threshold, d.score
        )
    }
}

/// Stage one, on the device, at one calibrated operating point (λ, α).
///
/// Immutable and safe to share between threads. Needs numpy alone.
#[pyclass(frozen, module = "cr2fast")]
pub struct DeviceRouter(device::DeviceRouter);

#[pymethods]
impl DeviceRouter {
    /// Read a calibrated ``router.safetensors``.
    ///
    /// Parameters
    /// ----------
    /// path : path
    /// lam : float
    ///     Cost weight λ, on the calibrated grid.
    /// alpha : float
    ///     Risk level α, calibrated.
    /// encoder : EncoderInfo, optional
    ///     The encoder at hand; another one than the router's is an error.
    ///
    /// Raises
    /// ------
    /// OperatingPointError
    ///     (λ, α) off the grid; the nearest points are named.
    /// ArtifactError
    ///     A damaged, forged or newer file, or another encoder.
    #[staticmethod]
    #[pyo3(signature = (path, lam, alpha=0.01, encoder=None))]
    fn load(
        py: Python<'_>,
        path: std::path::PathBuf,
        lam: f64,
        alpha: f64,
        encoder: Option<(String, String)>,
    ) -> PyResult<Self> {
        let router = open(py, &path, encoder)?;
        device::DeviceRouter::new(&router, lam, alpha).map(Self).map_err(core)
    }

    /// The same from a router in memory.
    #[staticmethod]
    #[pyo3(signature = (router, lam, alpha=0.01))]
    fn from_router(router: &Router, lam: f64, alpha: f64) -> PyResult<Self> {
        device::DeviceRouter::new(&router.0, lam, alpha).map(Self).map_err(core)
    }

    /// Cost weight λ.
    #[getter]
    fn lam(&self) -> f64 {
        self.0.lam()
    }

    /// Risk level α.
    #[getter]
    fn alpha(&self) -> f64 {
        self.0.alpha()
    }

    /// Threshold, as a margin.
    #[getter]
    fn threshold(&self) -> f32 {
        self.0.threshold()
    }

    /// Embedding width d.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Decide one query.
    ///
    /// Parameters
    /// ----------
    /// embedding : ndarray of float32, (d,)
    ///
    /// Returns
    /// -------
    /// Decision
    fn route(&self, embedding: &Bound<'_, PyAny>) -> PyResult<Decision> {
        let x = vector_f32(embedding, "embedding")?;
        self.0.route(x.slice()).map(Decision).map_err(core)
    }

    /// Decide N queries: bool (N,), True for local. `threads` 0 is one a core.
    #[pyo3(signature = (embeddings, threads=1))]
    fn route_batch<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let x = check_width(embeddings, self.0.dim())?;
        let values = x.slice();
        let out = py.detach(|| self.0.route_batch(values, threads)).map_err(core)?;
        Ok(out1(py, &out))
    }

    /// Margins of N queries: float32 (N,), the same bits as from :meth:`route`.
    #[pyo3(signature = (embeddings, threads=1))]
    fn margins<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let x = check_width(embeddings, self.0.dim())?;
        let values = x.slice();
        let out = py.detach(|| self.0.margins(values, threads)).map_err(core)?;
        Ok(out1(py, &out))
    }

    fn __repr__(&self) -> String {
        format!(
            "DeviceRouter(lam={}, alpha={}, threshold={})",
            self.0.lam(),
            self.0.alpha(),
            self.0.threshold()
        )
    }
}
