//! `_core.Router`: the immutable artifact behind `cr2fast.Router`.

use cr2fast_core::artifact;
use cr2fast_core::precision::Precision;
use cr2fast_core::router::{Calibration, Encoder, IdSet, Router as CoreRouter};
use numpy::{PyArray2, ToPyArray};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::arrays::{matrix_f32, out2, real, same_shape};
use crate::costs::CostTable;
use crate::errors::{Cr2Error, core};

/// A fitted, perhaps calibrated router.
#[pyclass(frozen, module = "cr2fast._core")]
pub struct Router(pub CoreRouter);

#[pymethods]
impl Router {
    #[staticmethod]
    fn load(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Self> {
        py.detach(|| artifact::load(&path)).map(Self).map_err(core)
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        py.detach(|| artifact::from_bytes(data)).map(Self).map_err(core)
    }

    fn save(&self, py: Python<'_>, path: std::path::PathBuf) -> PyResult<()> {
        py.detach(|| artifact::save(&self.0, &path)).map_err(core)
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| artifact::to_bytes(&self.0)).map_err(core)?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[getter]
    fn models(&self) -> Vec<String> {
        self.0.models.clone()
    }

    #[getter]
    fn dim(&self) -> usize {
        self.0.gate.weights().d
    }

    #[getter]
    fn encoder(&self) -> (String, String) {
        (self.0.encoder.id.clone(), self.0.encoder.sha256.clone())
    }

    #[getter]
    fn training(&self) -> String {
        self.0.training.clone()
    }

    #[getter]
    fn costs(&self) -> CostTable {
        CostTable(self.0.costs.clone())
    }

    /// Number type of the weight matrices.
    #[getter]
    fn weights(&self) -> &'static str {
        self.0.precision.name()
    }

    /// The same router with weight matrices of another number type, not calibrated.
    fn rounded(&self, py: Python<'_>, weights: &str) -> PyResult<Self> {
        let to = Precision::ALL.into_iter().find(|p| p.name() == weights).ok_or_else(|| {
            let known = Precision::ALL.map(Precision::name).join(", ");
            Cr2Error::new_err(format!("weights: expected one of {known}, got {weights:?}"))
        })?;
        py.detach(|| self.0.rounded(to)).map(Self).map_err(core)
    }

    /// (gate, teacher) parameter counts.
    #[getter]
    fn parameters(&self) -> (usize, usize) {
        (self.0.gate.weights().parameter_count(), self.0.teacher.weights().parameter_count())
    }

    /// What was calibrated, by name, or None.
    #[getter]
    fn calibration<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(c) = &self.0.calibration else { return Ok(None) };
        let rows = c.lams.len();
        let out = PyDict::new(py);
        out.set_item("lams", c.lams.to_pyarray(py))?;
        out.set_item("alphas", c.alphas.to_pyarray(py))?;
        out.set_item("thresholds", out2(py, c.thresholds.clone(), rows, c.alphas.len())?)?;
        out.set_item("n", c.n)?;
        out.set_item("reference", &c.reference)?;
        out.set_item("lengths", &c.lengths)?;
        out.set_item("delta", c.delta)?;
        out.set_item("quantiles", out2(py, c.quantiles.clone(), rows, c.quantiles.len() / rows)?)?;
        Ok(Some(out))
    }

    fn check_models(&self, what: &str, models: Vec<String>) -> PyResult<()> {
        self.0.check_models(what, &models).map_err(core)
    }

    fn check_encoder(&self, name: String, sha256: String) -> PyResult<()> {
        self.0.check_encoder(&Encoder { id: name, sha256 }).map_err(core)
    }

    /// Refuse ids seen in training, and in calibration when `calibration` is true.
    fn check_disjoint(
        &self,
        py: Python<'_>,
        what: &str,
        ids: Vec<String>,
        calibration: bool,
    ) -> PyResult<()> {
        let check = || {
            self.0.train_ids.check_disjoint("training", what, &ids)?;
            match &self.0.calibration {
                Some(c) if calibration => c.ids.check_disjoint("calibration", what, &ids),
                _ => Ok(()),
            }
        };
        py.detach(check).map_err(core)
    }

    /// Δ̂ (L, N).
    fn margins<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        lams: &Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let x = self.embeddings(embeddings)?;
        let (lams, _) = real(lams, "lams", 1)?;
        let (gate, values) = (&self.0.gate, x.slice());
        let out = py
            .detach(|| {
                let films = lams.iter().map(|l| gate.film(*l)).collect::<Result<Vec<_>, _>>()?;
                gate.margins(values, &films, threads)
            })
            .map_err(core)?;
        out2(py, out, lams.len(), x.shape()[0])
    }

    /// p (N, M).
    fn accuracies<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let x = self.embeddings(embeddings)?;
        let values = x.slice();
        let out = py.detach(|| self.0.teacher.accuracies(values, threads)).map_err(core)?;
        out2(py, out, x.shape()[0], self.0.models.len())
    }

    /// Expected output tokens (N, M).
    fn predict_lengths<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        n_input_tokens: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let x = self.embeddings(embeddings)?;
        let (n_in, shape) = real(n_input_tokens, "n_input_tokens", 1)?;
        same_shape("n_input_tokens", &x.shape()[..1], &shape)?;
        let values = x.slice();
        let out = py.detach(|| self.0.length.predict(values, &n_in)).map_err(core)?;
        out2(py, out, n_in.len(), self.0.models.len())
    }

    #[allow(clippy::too_many_arguments)]
    fn with_calibration(
        &self,
        py: Python<'_>,
        lams: Vec<f64>,
        alphas: Vec<f64>,
        thresholds: &Bound<'_, PyAny>,
        n: usize,
        reference: String,
        lengths: String,
        delta: Option<f64>,
        quantiles: &Bound<'_, PyAny>,
        ids: Vec<String>,
    ) -> PyResult<Self> {
        let thresholds = matrix_f32(thresholds, "thresholds")?;
        same_shape("thresholds", &[lams.len(), alphas.len()], thresholds.shape())?;
        let thresholds = thresholds.slice().to_vec();
        let quantiles = matrix_f32(quantiles, "quantiles")?;
        same_shape("quantiles", &[lams.len(), quantiles.shape()[1]], quantiles.shape())?;
        let quantiles = quantiles.slice().to_vec();
        let ids = py.detach(|| IdSet::new(&ids));
        let calibration =
            Calibration { lams, alphas, thresholds, n, reference, lengths, delta, quantiles, ids };
        self.0.with_calibration(calibration).map(Self).map_err(core)
    }
}

impl Router {
    fn embeddings<'py>(
        &self,
        obj: &Bound<'py, PyAny>,
    ) -> PyResult<crate::arrays::View<'py, f32, numpy::Ix2>> {
        check_width(obj, self.0.gate.weights().d)
    }
}

/// (N, d) float32 with the router's d.
pub fn check_width<'py>(
    obj: &Bound<'py, PyAny>,
    d: usize,
) -> PyResult<crate::arrays::View<'py, f32, numpy::Ix2>> {
    let x = matrix_f32(obj, "embeddings")?;
    if x.shape()[1] != d {
        return Err(Cr2Error::new_err(format!(
            "embeddings: expected shape (N, {d}), got {:?}; are these another encoder's?",
            x.shape()
        )));
    }
    Ok(x)
}

/// Read an artifact, and refuse another encoder's.
pub fn open(
    py: Python<'_>,
    path: &std::path::Path,
    encoder: Option<(String, String)>,
) -> PyResult<CoreRouter> {
    py.detach(|| {
        let router = artifact::load(path)?;
        if let Some((id, sha256)) = encoder {
            router.check_encoder(&Encoder { id, sha256 })?;
        }
        Ok(router)
    })
    .map_err(core)
}
