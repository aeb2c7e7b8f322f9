//! `TwoStage`, `Choice` and `Choices`.

use std::sync::Arc;

use cr2fast_core::{Call, OVERRUN, Rule};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::arrays::{real, same_shape, vector_f32};
use crate::base::errors::core;
use crate::base::scalars::{args, group_names};
use crate::decide::choice::{Choice, Choices, Parts};
use crate::decide::device::usual;
use crate::decide::edge::{available, waiting};
use crate::decide::{budget, of_text};
use crate::encoder::messages::ROUTE_BATCH;
use crate::features::{Reads, check_width, inputs};
use crate::pricing::{LinkState, link_states, state};
use crate::router::{Router, open};

/// Both stages at one calibrated operating point (λ, α): place and model in one call.
///
/// Without a budget the choice is what :class:`DeviceRouter` and then :class:`EdgeSelector` say. With
/// one, candidates are restricted: an accepted query whose answer on the device may overrun is
/// deferred; a deferred one stays on the device where only the device keeps the budget (`forced`).
///
/// Immutable and safe to share between threads. Needs only numpy.
#[pyclass(frozen, module = "cr2fast")]
pub struct TwoStage(Arc<Parts>);

impl TwoStage {
    fn bind(
        router: &cr2fast_core::Router,
        lam: f64,
        alpha: Option<f64>,
        name: &str,
        fallback: Option<String>,
    ) -> PyResult<Self> {
        let alpha = usual(router, alpha);
        let rule = Rule::named(router.models(), name, fallback.as_deref()).map_err(core)?;
        Ok(Self::of(cr2fast_core::TwoStage::new(router, lam, alpha, rule).map_err(core)?))
    }

    fn of(inner: cr2fast_core::TwoStage) -> Self {
        let models = inner.edge().models();
        let places = inner.edge().places();
        Self(Arc::new(Parts { inner, models, places }))
    }

    fn reads(&self) -> Reads<'_> {
        (self.0.inner.device().dim(), self.0.inner.device().features())
    }
}

/// Both stages' bytes.
type Bytes<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pymethods]
impl TwoStage {
    /// Read a calibrated ``router.safetensors``.
    ///
    /// Parameters
    /// ----------
    /// path : path
    /// lam, alpha : float
    ///     As of :meth:`DeviceRouter.load`.
    /// rule, fallback
    ///     As of :meth:`EdgeSelector.load`.
    /// encoder : EncoderInfo, optional
    ///     The encoder at hand; another one than the router's is an error.
    #[staticmethod]
    #[pyo3(signature = (path, lam, alpha=None, rule="edge-only", fallback=None, encoder=None))]
    fn load(
        py: Python<'_>,
        path: std::path::PathBuf,
        #[pyo3(from_py_with = args::lam)] lam: f64,
        #[pyo3(from_py_with = args::alpha)] alpha: Option<f64>,
        rule: &str,
        fallback: Option<String>,
        encoder: Option<(String, String)>,
    ) -> PyResult<Self> {
        let router = open(py, &path, encoder)?;
        Self::bind(&router, lam, alpha, rule, fallback)
    }

    /// The same from a router in memory.
    #[staticmethod]
    #[pyo3(signature = (router, lam, alpha=None, rule="edge-only", fallback=None))]
    fn from_router(
        router: &Router,
        #[pyo3(from_py_with = args::lam)] lam: f64,
        #[pyo3(from_py_with = args::alpha)] alpha: Option<f64>,
        rule: &str,
        fallback: Option<String>,
    ) -> PyResult<Self> {
        Self::bind(&router.0, lam, alpha, rule, fallback)
    }

    /// Cost weight λ.
    #[getter]
    fn lam(&self) -> f64 {
        self.0.inner.device().lam()
    }

    /// Risk level α.
    #[getter]
    fn alpha(&self) -> f64 {
        self.0.inner.device().alpha()
    }

    /// Threshold, as a margin.
    #[getter]
    fn threshold(&self) -> f32 {
        self.0.inner.device().threshold()
    }

    /// Model names, the device's first.
    #[getter]
    fn models(&self) -> Vec<String> {
        self.0.models.clone()
    }

    /// The link state of a call that names none: medians of the cost table's states.
    #[getter]
    fn typical_state(&self) -> LinkState {
        LinkState(self.0.inner.edge().typical())
    }

    /// Share of a model's answers that may exceed the bound by which a budget is kept: 0.05.
    #[getter]
    #[allow(clippy::unused_self)] // A constant today, of the artifact one day.
    fn overrun(&self) -> f64 {
        OVERRUN
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

    /// Choose for one query.
    ///
    /// Parameters
    /// ----------
    /// embedding : ndarray of float32, (d,)
    /// n_input_tokens : float
    ///     L_in.
    /// state : LinkState, optional
    ///     ξ; `typical_state` by default, and for a gate that sees the link
    ///     (``fit(link_features=True)``) the mean of training's links.
    /// available : iterable of str, or M booleans, optional
    ///     Edge models that are up; all by default.
    /// max_latency_s, max_energy_j, max_usd : float, optional
    ///     What the call may cost at most, s, J, $; kept as :meth:`EdgeSelector.select` says.
    /// group : str, optional
    ///     The query's group, as of :meth:`DeviceRouter.route`.
    /// waiting_s : mapping of str to float, or M numbers, optional
    ///     For how long each model's queue holds a request back, s, as of :meth:`EdgeSelector.select`.
    ///
    /// Returns
    /// -------
    /// Choice
    ///
    /// Raises
    /// ------
    /// BudgetError
    ///     No model keeps the limits; the nearest is named.
    /// Cr2Error, TypeError
    ///     An argument out of range; a limit on what the cost table does not know, or with a router
    ///     calibrated without output lengths.
    #[pyo3(signature = (embedding, n_input_tokens, state=None, available=None, *, max_latency_s=None, max_energy_j=None, max_usd=None, group=None, waiting_s=None))]
    #[allow(clippy::too_many_arguments)]
    fn route(
        &self,
        py: Python<'_>,
        embedding: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = args::n_input_tokens)] n_input_tokens: f64,
        #[pyo3(from_py_with = state)] state: Option<LinkState>,
        available: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = args::max_latency_s)] max_latency_s: Option<f64>,
        #[pyo3(from_py_with = args::max_energy_j)] max_energy_j: Option<f64>,
        #[pyo3(from_py_with = args::max_usd)] max_usd: Option<f64>,
        #[pyo3(from_py_with = args::group)] group: Option<String>,
        waiting_s: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Choice> {
        let x = vector_f32(embedding, "embedding")?;
        let mask = self::available(&self.0.models, available)?;
        let waits = waiting(&self.0.models, waiting_s)?;
        let call = Call {
            state: state.map(|s| s.0),
            available: mask.as_deref(),
            budget: budget(max_latency_s, max_energy_j, max_usd),
            group: group.as_deref(),
            waiting_s: waits.as_deref(),
            ..Call::default()
        };
        let values = x.slice();
        let made = py.detach(|| self.0.inner.route(values, n_input_tokens, &call)).map_err(core)?;
        Ok(Choice::new(&self.0, (made, values.to_vec(), n_input_tokens), call.state))
    }

    /// Choose for N queries: the arguments of :meth:`route` with a leading axis.
    ///
    /// Parameters
    /// ----------
    /// embeddings : ndarray of float32, (N, d)
    /// n_input_tokens : array_like, (N,)
    /// states : LinkStates, N of them, optional
    /// available, max_latency_s, max_energy_j, max_usd : optional
    /// threads : int
    ///     0 is one per core.
    /// groups : sequence of (str or None), (N,), optional
    ///     The queries' groups.
    ///
    /// Returns
    /// -------
    /// Choices
    #[pyo3(signature = (embeddings, n_input_tokens, states=None, available=None, threads=1, *, max_latency_s=None, max_energy_j=None, max_usd=None, groups=None))]
    #[allow(clippy::too_many_arguments)]
    fn route_batch(
        &self,
        py: Python<'_>,
        embeddings: &Bound<'_, PyAny>,
        n_input_tokens: &Bound<'_, PyAny>,
        states: Option<&Bound<'_, PyAny>>,
        available: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
        #[pyo3(from_py_with = args::max_latency_s)] max_latency_s: Option<f64>,
        #[pyo3(from_py_with = args::max_energy_j)] max_energy_j: Option<f64>,
        #[pyo3(from_py_with = args::max_usd)] max_usd: Option<f64>,
        groups: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Choices> {
        let x = check_width(embeddings, self.reads())?;
        let mask = self::available(&self.0.models, available)?;
        let (n_in, shape) = real(n_input_tokens, "n_input_tokens", 1)?;
        same_shape("n_input_tokens", &x.shape()[..1], &shape)?;
        let call = Call {
            available: mask.as_deref(),
            budget: budget(max_latency_s, max_energy_j, max_usd),
            ..Call::default()
        };
        let states = link_states(states, x.shape()[0])?;
        let (values, states) = (x.slice(), states.as_deref());
        let groups = group_names(groups)?;
        let groups = groups.as_deref();
        let made = py
            .detach(|| self.0.inner.route_batch(values, &n_in, states, groups, &call, threads))
            .map_err(core)?;
        Ok(Choices::new(py, &self.0.models, self.threshold(), &made))
    }

    /// Choose for one prompt.
    ///
    /// Parameters
    /// ----------
    /// text : str or list of dict
    ///     A text, or chat messages; of messages the last user turn is embedded. A chat with an image,
    ///     audio or a file in any turn is an error: text does not decide it.
    /// encoder : Encoder or StaticEncoder
    ///     The one behind the router's training embeddings; another one is an ArtifactError. With a
    ///     static one all of it is one call that holds no lock.
    /// state, available, max_latency_s, max_energy_j, max_usd, group : optional
    ///     As of :meth:`route`.
    /// n_input_tokens : float, optional
    ///     L_in; by default the encoder's count, over all turns of a chat and the calls of tools in them.
    ///     Where tools or a schema come with the chat, give the sum: models read those too.
    ///
    /// Returns
    /// -------
    /// Choice
    #[pyo3(signature = (text, encoder, state=None, n_input_tokens=None, available=None, *, max_latency_s=None, max_energy_j=None, max_usd=None, group=None))]
    #[allow(clippy::too_many_arguments)]
    fn route_text(
        &self,
        text: &Bound<'_, PyAny>,
        encoder: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = state)] state: Option<LinkState>,
        #[pyo3(from_py_with = args::counted)] n_input_tokens: Option<f64>,
        available: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = args::max_latency_s)] max_latency_s: Option<f64>,
        #[pyo3(from_py_with = args::max_energy_j)] max_energy_j: Option<f64>,
        #[pyo3(from_py_with = args::max_usd)] max_usd: Option<f64>,
        #[pyo3(from_py_with = args::group)] group: Option<String>,
    ) -> PyResult<Choice> {
        let mask = self::available(&self.0.models, available)?;
        let budget = budget(max_latency_s, max_energy_j, max_usd);
        let xi = state.map(|s| s.0);
        let inner = &self.0.inner;
        let route = |x: Vec<f32>, n| {
            let (available, group) = (mask.as_deref(), group.as_deref());
            let call = Call { state: xi, available, budget, group, ..Call::default() };
            Ok((inner.route(&x, n, &call)?, x, n))
        };
        let made = of_text(
            (inner.device().encoder(), inner.device().features(), ROUTE_BATCH),
            text,
            encoder,
            n_input_tokens,
            route,
        )?;
        Ok(Choice::new(&self.0, made, xi))
    }

    /// :meth:`route_text` for an event loop: a coroutine; the work is done on a thread of the loop's
    /// own executor, so the loop goes on.
    #[pyo3(signature = (text, encoder, state=None, n_input_tokens=None, available=None, *, max_latency_s=None, max_energy_j=None, max_usd=None, group=None))]
    #[allow(clippy::too_many_arguments)]
    fn route_text_async<'py>(
        slf: &Bound<'py, Self>,
        text: &Bound<'py, PyAny>,
        encoder: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = state)] state: Option<LinkState>,
        #[pyo3(from_py_with = args::counted)] n_input_tokens: Option<f64>,
        available: Option<&Bound<'py, PyAny>>,
        #[pyo3(from_py_with = args::max_latency_s)] max_latency_s: Option<f64>,
        #[pyo3(from_py_with = args::max_energy_j)] max_energy_j: Option<f64>,
        #[pyo3(from_py_with = args::max_usd)] max_usd: Option<f64>,
        #[pyo3(from_py_with = args::group)] group: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let limits = pyo3::types::PyDict::new(py);
        limits.set_item("max_latency_s", max_latency_s)?;
        limits.set_item("max_energy_j", max_energy_j)?;
        limits.set_item("max_usd", max_usd)?;
        limits.set_item("group", group)?;
        let call = slf.getattr("route_text")?;
        py.import("asyncio")?.call_method(
            "to_thread",
            (call, text, encoder, state, n_input_tokens, available),
            Some(&limits),
        )
    }

    #[staticmethod]
    fn _restore(py: Python<'_>, device: &[u8], edge: &[u8]) -> PyResult<Self> {
        let both = py.detach(|| {
            let device = cr2fast_core::DeviceRouter::from_bytes(device)?;
            cr2fast_core::TwoStage::of(device, cr2fast_core::EdgeSelector::from_bytes(edge)?)
        });
        both.map(Self::of).map_err(core)
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bytes<'py>)> {
        let (py, inner) = (slf.py(), &slf.get().0.inner);
        let device = inner.device().to_bytes().map_err(core)?;
        let edge = inner.edge().to_bytes().map_err(core)?;
        Ok((slf.getattr("_restore")?, (PyBytes::new(py, &device), PyBytes::new(py, &edge))))
    }

    fn __repr__(&self) -> String {
        format!(
            "TwoStage(lam={}, alpha={}, threshold={}, models={:?})",
            self.lam(),
            self.alpha(),
            self.threshold(),
            self.0.models
        )
    }
}
