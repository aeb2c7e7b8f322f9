//! `DeviceRouter`.

use cr2fast_core::row_of_text;
use numpy::{PyArray1, PyArray2};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::base::arrays::{out1, vector_f32};
use crate::base::errors::core;
use crate::base::scalars::{args, group_names};
use crate::decide::decision::Decision;
use crate::decide::encode;
use crate::encoder::messages::{MANY, ROUTE_TEXTS, check_only_text, one_text, texts as strings_of};
use crate::encoder::static_encoder::StaticEncoder;
use crate::features::{Reads, check_width, describe, inputs};
use crate::pricing::{LinkState, link_states, state};
use crate::router::{Router, open};

/// Stage one, on the device, at one calibrated operating point (λ, α).
///
/// Immutable and safe to share between threads. Needs numpy alone.
#[pyclass(frozen, module = "cr2fast")]
pub struct DeviceRouter(cr2fast_core::DeviceRouter);

/// α, or that of a caller who names none.
pub fn usual(router: &cr2fast_core::Router, alpha: Option<f64>) -> f64 {
    // Without a calibration any will do: the error is about that.
    let usual = || {
        router
            .calibration()
            .map_or(cr2fast_core::USUAL_ALPHA, cr2fast_core::Calibration::usual_alpha)
    };
    alpha.unwrap_or_else(usual)
}

impl DeviceRouter {
    fn bind(router: &cr2fast_core::Router, lam: f64, alpha: Option<f64>) -> PyResult<Self> {
        let alpha = usual(router, alpha);
        cr2fast_core::DeviceRouter::new(router, lam, alpha).map(Self).map_err(core)
    }

    fn reads(&self) -> Reads<'_> {
        (self.0.dim(), self.0.features())
    }
}

#[pymethods]
impl DeviceRouter {
    /// Read a calibrated ``router.safetensors``.
    ///
    /// Parameters
    /// ----------
    /// path : path
    /// lam : float
    ///     Cost weight λ, on the calibrated grid.
    /// alpha : float, optional
    ///     Risk level α, calibrated; by default 0.01 or, where that is not calibrated, the level
    ///     nearest to it (which :attr:`alpha` then says).
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
    #[pyo3(signature = (path, lam, alpha=None, encoder=None))]
    fn load(
        py: Python<'_>,
        path: std::path::PathBuf,
        #[pyo3(from_py_with = args::lam)] lam: f64,
        #[pyo3(from_py_with = args::alpha)] alpha: Option<f64>,
        encoder: Option<(String, String)>,
    ) -> PyResult<Self> {
        let router = open(py, &path, encoder)?;
        Self::bind(&router, lam, alpha)
    }

    /// The same from a router in memory.
    #[staticmethod]
    #[pyo3(signature = (router, lam, alpha=None))]
    fn from_router(
        router: &Router,
        #[pyo3(from_py_with = args::lam)] lam: f64,
        #[pyo3(from_py_with = args::alpha)] alpha: Option<f64>,
    ) -> PyResult<Self> {
        Self::bind(&router.0, lam, alpha)
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

    /// Level at which atypical queries are deferred, as calibrated, or None.
    #[getter]
    fn defer_atypical(&self) -> Option<f64> {
        self.0.defer_atypical()
    }

    /// Names of the groups that have thresholds of their own (``calibrate(groups=...)``), or None.
    #[getter]
    fn groups(&self) -> Option<Vec<String>> {
        self.0.groups().map(<[String]>::to_vec)
    }

    /// What it looks at beside the embedding, as of :attr:`Router.features`; None: nothing.
    #[getter]
    fn features<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        describe(py, self.0.features())
    }

    /// Whether decisions depend on the link's state (``fit(link_features=True)``).
    #[getter]
    fn sees_link(&self) -> bool {
        self.0.sees_link()
    }

    /// What a query of a group is compared with.
    ///
    /// Parameters
    /// ----------
    /// group : str, optional
    ///     Where the router was calibrated with groups: one that calibration did not see, or none, is
    ///     deferred (+inf) or, where calibration asked for it, has the threshold of all.
    #[pyo3(signature = (group=None))]
    fn threshold_of(&self, group: Option<&str>) -> PyResult<f32> {
        self.0.threshold_of(group).map_err(core)
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

    /// Decide one query.
    ///
    /// Parameters
    /// ----------
    /// embedding : ndarray of float32, (d,)
    /// typicality : bool
    ///     Whether the decision says how typical the query is (`p_value`); it takes some microseconds.
    /// group : str, optional
    ///     The query's group, as of :meth:`threshold_of`.
    /// state : LinkState, optional
    ///     ξ, for a router fitted with `link_features` (others do not look at it). Without one its gate
    ///     decides as at the mean of training's links. Thresholds promise their risk for queries that
    ///     are routed with their state.
    ///
    /// Returns
    /// -------
    /// Decision
    #[pyo3(signature = (embedding, typicality=false, *, group=None, state=None))]
    fn route(
        &self,
        embedding: &Bound<'_, PyAny>,
        typicality: bool,
        #[pyo3(from_py_with = args::group)] group: Option<String>,
        #[pyo3(from_py_with = state)] state: Option<LinkState>,
    ) -> PyResult<Decision> {
        let x = vector_f32(embedding, "embedding")?;
        let beside = (group.as_deref(), state.as_ref().map(|s| &s.0));
        self.0.route_in(beside, x.slice(), typicality).map(Decision).map_err(core)
    }

    /// Typicality of N queries: float64 (N,) p-values in (0, 1], as from :meth:`route`.
    ///
    /// Raises
    /// ------
    /// Cr2Error
    ///     The router was fitted or calibrated by a version without typicality.
    #[pyo3(signature = (embeddings, threads=1))]
    fn p_values<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let x = check_width(embeddings, self.reads())?;
        let values = x.slice();
        let out = py.detach(|| self.0.p_values(values, threads)).map_err(core)?;
        Ok(out1(py, &out))
    }

    /// Decide N queries: bool (N,), True for local. `threads` 0 is one per core; `groups` are N names, or
    /// None among them, and `states` N :class:`LinkStates`, both as of :meth:`route`.
    #[pyo3(signature = (embeddings, threads=1, *, groups=None, states=None))]
    fn route_batch<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
        groups: Option<&Bound<'py, PyAny>>,
        states: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let x = check_width(embeddings, self.reads())?;
        let (groups, states) = (group_names(groups)?, link_states(states, x.shape()[0])?);
        let (values, besides) = (x.slice(), (groups.as_deref(), states.as_deref()));
        let out = py.detach(|| self.0.route_batch(values, besides, threads)).map_err(core)?;
        Ok(out1(py, &out))
    }

    /// Decide one prompt.
    ///
    /// Parameters
    /// ----------
    /// text : str or list of dict
    ///     A text, or chat messages; of messages the last user turn is embedded. A chat with an image,
    ///     audio or a file in any turn is an error: text does not decide it.
    /// encoder : Encoder or StaticEncoder
    ///     The one behind the router's training embeddings; another one is an ArtifactError. With a
    ///     static one, tokenizer, embedding and gate are one call that holds no lock.
    /// typicality : bool
    ///     As of :meth:`route`.
    /// group, state : optional
    ///     As of :meth:`route`.
    ///
    /// Returns
    /// -------
    /// Decision
    #[pyo3(signature = (text, encoder, typicality=false, *, group=None, state=None))]
    fn route_text(
        &self,
        text: &Bound<'_, PyAny>,
        encoder: &Bound<'_, PyAny>,
        typicality: bool,
        #[pyo3(from_py_with = args::group)] group: Option<String>,
        #[pyo3(from_py_with = state)] state: Option<LinkState>,
    ) -> PyResult<Decision> {
        let beside = (group.as_deref(), state.as_ref().map(|s| &s.0));
        check_only_text(text)?;
        if let Ok(table) = encoder.cast::<StaticEncoder>() {
            let table = &table.get().0;
            let text = one_text(text, ROUTE_TEXTS)?;
            let decide = || self.0.route_text_in(beside, &text, table, typicality);
            return encoder.py().detach(decide).map(Decision).map_err(core);
        }
        let x = encode(self.0.encoder(), encoder, text, false)?;
        let x = vector_f32(&x, "embedding")?.slice().to_vec();
        let row = row_of_text(self.0.features(), x, &one_text(text, ROUTE_TEXTS)?).map_err(core)?;
        self.0.route_in(beside, &row, typicality).map(Decision).map_err(core)
    }

    /// Decide N prompts, each a text or chat messages: bool (N,), True for local. `groups` and `states` are
    /// as of :meth:`route_batch`.
    #[pyo3(signature = (texts, encoder, *, groups=None, states=None))]
    fn route_texts<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        encoder: &Bound<'py, PyAny>,
        groups: Option<&Bound<'py, PyAny>>,
        states: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        check_only_text(texts)?;
        if let Ok(table) = encoder.cast::<StaticEncoder>() {
            let table = &table.get().0;
            let (strings, true) = strings_of(texts)? else {
                return Err(PyTypeError::new_err(MANY));
            };
            let (groups, states) = (group_names(groups)?, link_states(states, strings.len())?);
            let besides = (groups.as_deref(), states.as_deref());
            let decide = || self.0.route_texts(&strings, besides, table);
            return Ok(out1(py, &py.detach(decide).map_err(core)?));
        }
        let x = encode(self.0.encoder(), encoder, texts, true)?;
        let rows = self.inputs(py, &x, Some(texts), None)?;
        self.route_batch(py, rows.as_any(), 1, groups, states)
    }

    /// :meth:`route_text` for an event loop: a coroutine; the work is done on a thread of the loop's
    /// own executor, so the loop goes on.
    #[pyo3(signature = (text, encoder, typicality=false, *, group=None, state=None))]
    fn route_text_async<'py>(
        slf: &Bound<'py, Self>,
        text: &Bound<'py, PyAny>,
        encoder: &Bound<'py, PyAny>,
        typicality: bool,
        #[pyo3(from_py_with = args::group)] group: Option<String>,
        #[pyo3(from_py_with = state)] state: Option<LinkState>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, call) = (slf.py(), slf.getattr("route_text")?);
        let named = pyo3::types::PyDict::new(py);
        named.set_item("group", group)?;
        named.set_item("state", state)?;
        let to_thread = (call, text, encoder, typicality);
        py.import("asyncio")?.call_method("to_thread", to_thread, Some(&named))
    }

    /// Margins of N queries: float32 (N,), the same bits as from :meth:`route`.
    #[pyo3(signature = (embeddings, threads=1, *, states=None))]
    fn margins<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
        states: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let x = check_width(embeddings, self.reads())?;
        let states = link_states(states, x.shape()[0])?;
        let values = x.slice();
        let out = py.detach(|| self.0.margins(values, states.as_deref(), threads)).map_err(core)?;
        Ok(out1(py, &out))
    }

    /// The same from the bytes of :meth:`to_bytes`.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        py.detach(|| cr2fast_core::DeviceRouter::from_bytes(data)).map(Self).map_err(core)
    }

    /// What the device runs at this operating point, and no more: gate and threshold, hashed.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.detach(|| self.0.to_bytes()).map_err(core)?))
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.getattr("from_bytes")?, (slf.get().to_bytes(slf.py())?,)))
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
