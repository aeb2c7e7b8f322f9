//! `_core.Router`: the immutable artifact behind `cr2fast.Router`.

use cr2fast_core::{
    EncoderInfo, Grid, Grouping, Judge, LINK, LINK_FEATURES, Lengths, Named, Precision, Probes,
    Promise, Router as CoreRouter, Split, Typicality, shown,
};
use numpy::{Ix2, PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::base::arrays::{View, matrix_f32, matrix_u64, out1, out2, real, same_shape, vector_f32};
use crate::base::errors::{Cr2Error, core};
use crate::base::scalars::{args, levels};
use crate::calibration::run::{described, infeasible, reported};
use crate::encoder::info;
use crate::features::{Reads, check_width, describe, inputs};
use crate::pricing::{CostTable, LinkStates, link_states};

/// A fitted, perhaps calibrated router.
#[pyclass(frozen, module = "cr2fast._core")]
pub struct Router(pub CoreRouter);

#[pymethods]
impl Router {
    #[staticmethod]
    fn load(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Self> {
        py.detach(|| CoreRouter::load(&path)).map(Self).map_err(core)
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        py.detach(|| CoreRouter::from_bytes(data)).map(Self).map_err(core)
    }

    fn save(&self, py: Python<'_>, path: std::path::PathBuf) -> PyResult<()> {
        py.detach(|| self.0.save(&path)).map_err(core)
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.0.to_bytes()).map_err(core)?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[getter]
    fn models(&self) -> Vec<String> {
        self.0.models().to_vec()
    }

    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Embedding width.
    #[getter]
    fn embedding_dim(&self) -> usize {
        self.0.embedding_dim()
    }

    /// What it looks at beside the embedding, by name, or None.
    #[getter]
    fn features<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        describe(py, self.0.features().map(AsRef::as_ref))
    }

    /// Whether a row of one router is a row of the other: the same features, scaled alike.
    fn same_features(&self, other: &Self) -> bool {
        self.0.features() == other.0.features()
    }

    /// Rows that it reads, float32 (N, d + F): embeddings (N, d) with the features of their `texts`,
    /// or with `features` (N, F) as of :func:`text_features`; a router without features reads the
    /// embeddings as they are.
    #[pyo3(signature = (embeddings, texts=None, features=None))]
    fn inputs<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        texts: Option<&Bound<'py, PyAny>>,
        features: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        inputs(py, self.reads(), embeddings, texts, features)
    }

    #[getter]
    fn encoder<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        info(py, self.0.encoder())
    }

    /// How its encoder is known where no hash names it, or None.
    #[getter]
    fn probes<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(probes) = self.0.probes() else { return Ok(None) };
        let out = PyDict::new(py);
        let n = probes.texts().len();
        out.set_item("texts", probes.texts())?;
        out.set_item("vectors", out2(py, probes.vectors().to_vec(), n, probes.dim())?)?;
        out.set_item("max_chars", probes.max_chars())?;
        Ok(Some(out))
    }

    /// The router with probes: texts, and the encoder's vectors (n, d) of them.
    fn with_probes(
        &self,
        texts: Vec<String>,
        vectors: &Bound<'_, PyAny>,
        max_chars: usize,
    ) -> PyResult<Self> {
        let v = matrix_f32(vectors, "probes")?;
        same_shape("probes", &[texts.len(), self.0.embedding_dim()], v.shape())?;
        let probes = Probes::new(texts, v.slice().to_vec(), max_chars).map_err(core)?;
        self.0.with_probes(probes).map(Self).map_err(core)
    }

    /// How far vectors (n, d) of the probes' texts are from those kept, relative to their length, (n,).
    fn probe_distances<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let v = matrix_f32(vectors, "probes")?;
        let n = self.0.probes().map_or(0, |p| p.texts().len());
        same_shape("probes", &[n, self.0.embedding_dim()], v.shape())?;
        let rows = v.slice().chunks_exact(self.0.embedding_dim()).enumerate();
        let far = rows.map(|(i, row)| self.0.probes().expect("n rows").distance(i, row));
        Ok(out1(py, &far.collect::<Result<Vec<_>, _>>().map_err(core)?))
    }

    #[getter]
    fn training(&self) -> String {
        self.0.training().into()
    }

    #[getter]
    fn costs(&self) -> CostTable {
        CostTable(self.0.costs().clone())
    }

    /// Precision of the weight matrices.
    #[getter]
    fn precision(&self) -> &'static str {
        self.0.precision().name()
    }

    /// The same router with weight matrices of another precision, not calibrated.
    fn rounded(&self, py: Python<'_>, precision: &str) -> PyResult<Self> {
        let to = Precision::ALL.into_iter().find(|p| p.name() == precision).ok_or_else(|| {
            let known = Precision::ALL.map(Precision::name).join(", ");
            Cr2Error::new_err(format!(
                "precision: expected one of {known}, got \"{}\"",
                shown(precision)
            ))
        })?;
        py.detach(|| self.0.rounded(to)).map(Self).map_err(core)
    }

    /// The α of a device that is told none.
    #[getter]
    fn usual_alpha(&self) -> Option<f64> {
        self.0.calibration().map(cr2fast_core::Calibration::usual_alpha)
    }

    /// (gate, teacher, smoother) parameter counts.
    #[getter]
    fn parameters(&self) -> (usize, usize, usize) {
        let teacher = self.0.teacher();
        let smoother = teacher.smoother().map_or(0, cr2fast_core::SmootherWeights::parameter_count);
        let heads = teacher.weights().parameter_count();
        (self.0.gate().weights().parameter_count(), heads, smoother)
    }

    /// What was calibrated, by name, or None.
    #[getter]
    fn calibration<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(c) = self.0.calibration() else { return Ok(None) };
        described(py, c).map(Some)
    }

    fn check_models(&self, what: &str, models: Vec<String>) -> PyResult<()> {
        self.0.check_models(what, &models).map_err(core)
    }

    fn check_encoder(&self, name: String, sha256: String) -> PyResult<()> {
        self.0.encoder().check(&EncoderInfo { id: name, sha256 }).map_err(core)
    }

    /// Refuse queries seen in training, and in calibration when `calibration` is true.
    fn check_disjoint(
        &self,
        py: Python<'_>,
        what: &str,
        ids: Vec<String>,
        asked: &Bound<'_, PyAny>,
        calibration: bool,
    ) -> PyResult<()> {
        let asked = matrix_u64(asked, "content")?;
        let queries = Named { ids: &ids, kept: &[], asked: asked.slice() };
        py.detach(|| self.0.check_disjoint(what, &queries, calibration)).map_err(core)
    }

    /// Which of the queries those are, (N,) bool.
    fn shared<'py>(
        &self,
        py: Python<'py>,
        ids: Vec<String>,
        asked: &Bound<'py, PyAny>,
        calibration: bool,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let asked = matrix_u64(asked, "content")?;
        let queries = Named { ids: &ids, kept: &[], asked: asked.slice() };
        let found = py.detach(|| self.0.shared(&queries, calibration));
        Ok(out1(py, &found.iter().map(Option::is_some).collect::<Vec<_>>()))
    }

    /// The router with a typicality score (directions (m, d), offsets (m,)), not calibrated.
    fn with_typicality(
        &self,
        py: Python<'_>,
        directions: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let a = matrix_f32(directions, "directions")?;
        let b = vector_f32(offsets, "offsets")?;
        let (d, a, b) = (a.shape()[1], a.slice(), b.slice());
        py.detach(|| self.0.with_typicality(Typicality::new(d, a.to_vec(), b.to_vec())?))
            .map(Self)
            .map_err(core)
    }

    /// Typicality p-values (N,), as calibrated.
    fn p_values<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let x = self.embeddings(embeddings)?;
        let values = x.slice();
        Ok(out1(py, &py.detach(|| self.0.p_values(values, threads)).map_err(core)?))
    }

    /// What of the link the gate looks at: name → (mean, standard deviation) of its logarithm over
    /// training's link states; 0 for what did not vary there.
    #[getter]
    fn link_features(&self) -> Option<Vec<(&'static str, f32, f32)>> {
        let scale = self.0.gate().weights().link.as_ref()?.scale;
        let sd = |s: f32| if s > 0.0 { 1.0 / s } else { 0.0 };
        let one = |j: usize| (LINK_FEATURES[j], scale.shift[j], sd(scale.scale[j]));
        Some((0..LINK).map(one).collect())
    }

    /// Δ̂ (L, N).
    #[pyo3(signature = (embeddings, lams, threads, states=None))]
    fn margins<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        lams: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
        states: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let x = self.embeddings(embeddings)?;
        let lams = levels(lams, "lams")?;
        let states = link_states(states, x.shape()[0])?;
        let (gate, values) = (self.0.gate(), x.slice());
        let out = py
            .detach(|| {
                let films = lams.iter().map(|l| gate.film(*l)).collect::<Result<Vec<_>, _>>()?;
                gate.margins_at(values, &films, states.as_deref(), threads)
            })
            .map_err(core)?;
        out2(py, out, lams.len(), x.shape()[0])
    }

    /// p (N, M).
    fn accuracies<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let x = self.embeddings(embeddings)?;
        let values = x.slice();
        let out = py.detach(|| self.0.teacher().accuracies(values, threads)).map_err(core)?;
        out2(py, out, x.shape()[0], self.0.models().len())
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
        let out = py.detach(|| self.0.length().predict(values, &n_in)).map_err(core)?;
        out2(py, out, n_in.len(), self.0.models().len())
    }

    /// The router with thresholds, and what the calibration did, by name.
    #[pyo3(signature = (embeddings, n_input_tokens, ids, lams, alphas, *, content=None, outcomes=None, n_output_tokens=None, recorded=None, on_infeasible="raise", delta=None, defer_atypical=None, groups=None, pooled=false, states=None, seed=0, threads=0))]
    #[allow(clippy::too_many_arguments)]
    fn calibrate<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        n_input_tokens: &Bound<'py, PyAny>,
        ids: Vec<String>,
        lams: Vec<f64>,
        alphas: Vec<f64>,
        content: Option<&Bound<'py, PyAny>>,
        outcomes: Option<&Bound<'py, PyAny>>,
        n_output_tokens: Option<&Bound<'py, PyAny>>,
        recorded: Option<&Bound<'py, PyAny>>,
        on_infeasible: &str,
        #[pyo3(from_py_with = args::delta)] delta: Option<f64>,
        #[pyo3(from_py_with = args::defer_atypical)] defer_atypical: Option<f64>,
        groups: Option<(Vec<String>, Vec<usize>)>,
        pooled: bool,
        states: Option<&LinkStates>,
        #[pyo3(from_py_with = args::seed)] seed: u64,
        #[pyo3(from_py_with = args::threads)] threads: usize,
    ) -> PyResult<(Self, Bound<'py, PyDict>)> {
        let x = self.embeddings(embeddings)?;
        let (n_input, _) = real(n_input_tokens, "n_input_tokens", 1)?;
        same_shape("n_input_tokens", &x.shape()[..1], &[n_input.len()])?;
        let shape = [n_input.len(), self.0.models().len()];
        let y = outcomes.map(|y| matrix_f32(y, "outcomes")).transpose()?;
        if let Some(y) = &y {
            same_shape("outcomes", &shape, y.shape())?;
        }
        let tokens = |given: &Bound<'py, PyAny>| {
            let (values, got) = real(given, "n_output_tokens", 2)?;
            same_shape("n_output_tokens", &shape, &got).map(|()| values)
        };
        let n_output = n_output_tokens.map(tokens).transpose()?;
        let recorded = recorded.map(tokens).transpose()?;
        let content = content.map(|c| matrix_u64(c, "content")).transpose()?;
        let kept = content.as_ref().map_or(&[][..], View::slice);
        let split = Split {
            embeddings: x.slice(),
            n_input_tokens: &n_input,
            queries: Named { ids: &ids, kept, asked: &[] },
            judge: y.as_ref().map_or(Judge::Teacher, |y| Judge::Outcomes(y.slice())),
            lengths: n_output.as_ref().map_or(Lengths::Predicted, |o| Lengths::Known(o)),
            recorded: recorded.as_deref(),
            states: states.map(|s| s.0.as_slice()),
            seed,
            defer_atypical,
            groups: groups.as_ref().map(|(names, of)| Grouping { names, of, pooled }),
        };
        let grid = Grid { lams, alphas, on_infeasible: infeasible(on_infeasible)? };
        let promise = delta.map_or(Promise::Each, |delta| Promise::AtOnce { delta });
        let (router, report) =
            py.detach(|| self.0.calibrate(&split, &grid, promise, threads)).map_err(core)?;
        let out = reported(py, report, grid.lams.len())?;
        Ok((Self(router), out))
    }
}

impl Router {
    fn reads(&self) -> Reads<'_> {
        (self.0.dim(), self.0.features().map(AsRef::as_ref))
    }

    fn embeddings<'py>(&self, obj: &Bound<'py, PyAny>) -> PyResult<View<'py, f32, Ix2>> {
        check_width(obj, self.reads())
    }
}

/// Read an artifact, and refuse another encoder's.
pub fn open(
    py: Python<'_>,
    path: &std::path::Path,
    encoder: Option<(String, String)>,
) -> PyResult<CoreRouter> {
    py.detach(|| {
        let router = CoreRouter::load(path)?;
        if let Some((id, sha256)) = encoder {
            router.encoder().check(&EncoderInfo { id, sha256 })?;
        }
        Ok(router)
    })
    .map_err(core)
}
