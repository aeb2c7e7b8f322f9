//! `EdgeSelector` and `Selection`.

use cr2fast_core::{Batch, Query, Rule, shown};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::base::arrays::{real, same_shape, vector_f32};
use crate::base::errors::{Cr2Error, core};
use crate::base::scalars::args;
use crate::decide::selection::{Selection, Selections};
use crate::decide::{budget, of_text};
use crate::encoder::messages::SELECT_BATCH;
use crate::features::{Reads, check_width, inputs};
use crate::pricing::{LinkState, LinkStates, state, state_given};
use crate::router::{Router, open};

/// Stage two, at the edge: the allowed model of greatest utility p - λ·c (equations 33-35).
///
/// Immutable and safe to share between threads. Needs numpy alone.
#[pyclass(frozen, module = "cr2fast")]
pub struct EdgeSelector {
    inner: cr2fast_core::EdgeSelector,
    models: Vec<String>,
}

impl EdgeSelector {
    fn bind(
        router: &cr2fast_core::Router,
        lam: f64,
        name: &str,
        fallback: Option<String>,
    ) -> PyResult<Self> {
        let rule = Rule::named(router.models(), name, fallback.as_deref()).map_err(core)?;
        let inner = cr2fast_core::EdgeSelector::new(router, lam, rule).map_err(core)?;
        Ok(Self { inner, models: router.models().to_vec() })
    }

    fn reads(&self) -> Reads<'_> {
        (self.inner.dim(), self.inner.features())
    }

    fn selection(&self, s: &cr2fast_core::Selection) -> Selection {
        Selection::new(&self.models, s)
    }
}

/// A time per model, s, from a mapping of names or a sequence of M numbers.
pub fn waiting(models: &[String], obj: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<f64>>> {
    let Some(obj) = obj else { return Ok(None) };
    let wrong = || {
        Cr2Error::new_err(format!(
            "waiting_s: expected seconds by model name, or {} numbers, got {}",
            models.len(),
            shown(&obj.to_string())
        ))
    };
    let Ok(named) = obj.cast::<PyDict>() else {
        let known = real(obj, "waiting_s", 1).ok().filter(|(w, _)| w.len() == models.len());
        return known.map(|(w, _)| Some(w)).ok_or_else(wrong);
    };
    let mut waits = vec![0.0; models.len()];
    for (name, seconds) in named {
        let (name, seconds): (String, f64) =
            (name.extract().map_err(|_| wrong())?, seconds.extract().map_err(|_| wrong())?);
        let Some(k) = models.iter().position(|m| *m == name) else {
            return Err(Cr2Error::new_err(format!(
                "waiting_s: expected names among {}, got {}",
                shown(&format!("{models:?}")),
                shown(&format!("{name:?}"))
            )));
        };
        waits[k] = seconds;
    }
    Ok(Some(waits))
}

/// One flag per model from a set of names or a sequence of M booleans.
pub fn available(models: &[String], obj: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<bool>>> {
    let Some(obj) = obj else { return Ok(None) };
    // An empty sequence is no names: nothing is up.
    if let Ok(flags) = obj.extract::<Vec<bool>>()
        && !flags.is_empty()
    {
        return Ok(Some(flags));
    }
    let names: Vec<String> =
        obj.try_iter().and_then(|it| it.map(|x| x?.extract()).collect()).map_err(|_| {
            Cr2Error::new_err(format!(
                "available: expected model names, or {} booleans, got {}",
                models.len(),
                shown(&obj.to_string())
            ))
        })?;
    if let Some(unknown) = names.iter().find(|n| !models.contains(n)) {
        return Err(Cr2Error::new_err(format!(
            "available: expected names among {}, got {}",
            shown(&format!("{models:?}")),
            shown(&format!("{unknown:?}"))
        )));
    }
    Ok(Some(models.iter().map(|m| names.contains(m)).collect()))
}

#[pymethods]
impl EdgeSelector {
    /// Read a ``router.safetensors``.
    ///
    /// Parameters
    /// ----------
    /// path : path
    /// lam : float
    ///     Cost weight λ; the device's.
    /// rule : {"edge-only", "inclusive", "fallback"}
    ///     Edge models; or all models, which may send a query back; or one fixed model.
    /// fallback : str, optional
    ///     The model of ``rule="fallback"``.
    /// encoder : EncoderInfo, optional
    ///     The encoder at hand; another one than the router's is an error.
    #[staticmethod]
    #[pyo3(signature = (path, lam, rule="edge-only", fallback=None, encoder=None))]
    fn load(
        py: Python<'_>,
        path: std::path::PathBuf,
        #[pyo3(from_py_with = args::lam)] lam: f64,
        rule: &str,
        fallback: Option<String>,
        encoder: Option<(String, String)>,
    ) -> PyResult<Self> {
        let router = open(py, &path, encoder)?;
        Self::bind(&router, lam, rule, fallback)
    }

    /// The same from a router in memory.
    #[staticmethod]
    #[pyo3(signature = (router, lam, rule="edge-only", fallback=None))]
    fn from_router(
        router: &Router,
        #[pyo3(from_py_with = args::lam)] lam: f64,
        rule: &str,
        fallback: Option<String>,
    ) -> PyResult<Self> {
        Self::bind(&router.0, lam, rule, fallback)
    }

    /// Cost weight λ.
    #[getter]
    fn lam(&self) -> f64 {
        self.inner.lam()
    }

    /// Model names, the device's first.
    #[getter]
    fn models(&self) -> Vec<String> {
        self.models.clone()
    }

    /// Select for one deferred query.
    ///
    /// Parameters
    /// ----------
    /// embedding : ndarray of float32, (d,)
    /// n_input_tokens : float
    ///     L_in.
    /// state : LinkState
    ///     ξ.
    /// available : iterable of str, or M booleans, optional
    ///     Models that are up; all by default.
    /// n_output_tokens : array_like, (M,), optional
    ///     Known output lengths; predicted when absent.
    /// max_latency_s, max_energy_j, max_usd : float, optional
    ///     What the call may cost at most, s, J, $: only models that keep it are candidates, by a bound
    ///     of their output length that at most 5 % of their answers exceed (a conformal quantile of the
    ///     calibration split, on average over such splits).
    /// waiting_s : mapping of str to float, or M numbers, optional
    ///     For how long each model's queue holds a request back, s, which its cost counts; 0 by default.
    ///
    /// Returns
    /// -------
    /// Selection
    ///
    /// Raises
    /// ------
    /// BudgetError
    ///     No candidate keeps the limits; the nearest is named.
    /// Cr2Error, TypeError
    ///     An argument out of range; a limit on what the cost table does not know, or with a router
    ///     calibrated without output lengths.
    #[pyo3(signature = (embedding, n_input_tokens, state, available=None, n_output_tokens=None, *, max_latency_s=None, max_energy_j=None, max_usd=None, waiting_s=None))]
    #[allow(clippy::too_many_arguments)]
    fn select(
        &self,
        py: Python<'_>,
        embedding: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = args::n_input_tokens)] n_input_tokens: f64,
        #[pyo3(from_py_with = state_given)] state: LinkState,
        available: Option<&Bound<'_, PyAny>>,
        n_output_tokens: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = args::max_latency_s)] max_latency_s: Option<f64>,
        #[pyo3(from_py_with = args::max_energy_j)] max_energy_j: Option<f64>,
        #[pyo3(from_py_with = args::max_usd)] max_usd: Option<f64>,
        waiting_s: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Selection> {
        let x = vector_f32(embedding, "embedding")?;
        let mask = self::available(&self.models, available)?;
        let waits = waiting(&self.models, waiting_s)?;
        let n_out = n_output_tokens.map(|o| real(o, "n_output_tokens", 1)).transpose()?;
        let query = Query {
            embedding: x.slice(),
            n_input_tokens,
            n_output_tokens: n_out.as_ref().map(|o| o.0.as_slice()),
            state: state.0,
            available: mask.as_deref(),
            waiting_s: waits.as_deref(),
            budget: budget(max_latency_s, max_energy_j, max_usd),
        };
        let s = py.detach(|| self.inner.select(&query)).map_err(core)?;
        Ok(self.selection(&s))
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

    /// Select for one prompt.
    ///
    /// Parameters
    /// ----------
    /// text : str or list of dict
    ///     A text, or chat messages; of messages the last user turn is embedded.
    /// encoder : Encoder or StaticEncoder
    ///     The one behind the router's training embeddings; another one is an ArtifactError. With a
    ///     static one all of it is one call that holds no lock.
    /// state : LinkState, optional
    ///     ξ; by default the cost table's typical one, the medians of its states.
    /// available, max_latency_s, max_energy_j, max_usd : optional
    ///     As of :meth:`select`.
    /// n_input_tokens : float, optional
    ///     L_in; by default the encoder's count, over all turns of a chat.
    ///
    /// Returns
    /// -------
    /// Selection
    #[pyo3(signature = (text, encoder, state=None, available=None, *, n_input_tokens=None, max_latency_s=None, max_energy_j=None, max_usd=None))]
    #[allow(clippy::too_many_arguments)]
    fn select_text(
        &self,
        text: &Bound<'_, PyAny>,
        encoder: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = state)] state: Option<LinkState>,
        available: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = args::counted)] n_input_tokens: Option<f64>,
        #[pyo3(from_py_with = args::max_latency_s)] max_latency_s: Option<f64>,
        #[pyo3(from_py_with = args::max_energy_j)] max_energy_j: Option<f64>,
        #[pyo3(from_py_with = args::max_usd)] max_usd: Option<f64>,
    ) -> PyResult<Selection> {
        let mask = self::available(&self.models, available)?;
        let state = state.map_or(self.inner.typical(), |s| s.0);
        let budget = budget(max_latency_s, max_energy_j, max_usd);
        let select = |x: Vec<f32>, n_input_tokens| {
            let available = mask.as_deref();
            let (embedding, n_output_tokens) = (&x[..], None);
            self.inner.select(&Query {
                embedding,
                n_input_tokens,
                n_output_tokens,
                state,
                available,
                waiting_s: None,
                budget,
            })
        };
        let s = of_text(
            (self.inner.encoder(), self.inner.features(), SELECT_BATCH),
            text,
            encoder,
            n_input_tokens,
            select,
        )?;
        Ok(self.selection(&s))
    }

    /// Select for N deferred queries.
    ///
    /// Parameters
    /// ----------
    /// embeddings : ndarray of float32, (N, d)
    /// n_input_tokens : array_like, (N,)
    ///     L_in.
    /// states : LinkStates, N of them
    /// available, max_latency_s, max_energy_j, max_usd : optional
    ///     As of :meth:`select`, the same for all.
    /// n_output_tokens : array_like, (N, M), optional
    ///     Known output lengths; predicted when absent.
    /// threads : int
    ///     0 is one per core.
    ///
    /// Returns
    /// -------
    /// Selections
    ///
    /// Raises
    /// ------
    /// BudgetError, Cr2Error, TypeError
    ///     As of :meth:`select`; the first query that is wrong is named.
    #[pyo3(signature = (embeddings, n_input_tokens, states, available=None, n_output_tokens=None, threads=1, *, max_latency_s=None, max_energy_j=None, max_usd=None))]
    #[allow(clippy::too_many_arguments)]
    fn select_batch<'py>(
        &self,
        py: Python<'py>,
        embeddings: &Bound<'py, PyAny>,
        n_input_tokens: &Bound<'py, PyAny>,
        states: &LinkStates,
        available: Option<&Bound<'py, PyAny>>,
        n_output_tokens: Option<&Bound<'py, PyAny>>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
        #[pyo3(from_py_with = args::max_latency_s)] max_latency_s: Option<f64>,
        #[pyo3(from_py_with = args::max_energy_j)] max_energy_j: Option<f64>,
        #[pyo3(from_py_with = args::max_usd)] max_usd: Option<f64>,
    ) -> PyResult<Selections> {
        let x = check_width(embeddings, self.reads())?;
        let mask = self::available(&self.models, available)?;
        let (n_in, shape) = real(n_input_tokens, "n_input_tokens", 1)?;
        same_shape("n_input_tokens", &x.shape()[..1], &shape)?;
        let n_out = n_output_tokens.map(|o| real(o, "n_output_tokens", 2)).transpose()?;
        if let Some((_, shape)) = &n_out {
            same_shape("n_output_tokens", &[n_in.len(), self.models.len()], shape)?;
        }
        let batch = Batch {
            embeddings: x.slice(),
            n_input_tokens: &n_in,
            n_output_tokens: n_out.as_ref().map(|o| o.0.as_slice()),
            states: &states.0,
            available: mask.as_deref(),
            budget: budget(max_latency_s, max_energy_j, max_usd),
        };
        let s = py.detach(|| self.inner.select_batch(&batch, threads)).map_err(core)?;
        Ok(Selections::new(py, &self.models, &s))
    }

    /// The same from the bytes of :meth:`to_bytes`.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let inner = py.detach(|| cr2fast_core::EdgeSelector::from_bytes(data)).map_err(core)?;
        Ok(Self { models: inner.models(), inner })
    }

    /// What the edge runs at this cost weight, and no more: heads, lengths and costs, hashed.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.detach(|| self.inner.to_bytes()).map_err(core)?))
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
        format!("EdgeSelector(lam={}, models={:?})", self.inner.lam(), self.models)
    }
}
