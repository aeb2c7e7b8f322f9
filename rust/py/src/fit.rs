//! `_core.fit`: training on worker threads, progress and Ctrl-C on the caller's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use cr2fast_core::gate::Gate;
use cr2fast_core::length::LengthPredictor;
use cr2fast_core::precision::Precision;
use cr2fast_core::router::{Encoder, IdSet, Router as CoreRouter};
use cr2fast_core::teacher::Teacher;
use cr2fast_train::{FitConfig, Fitted, Frozen, Progress, TrainData, TrainError};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::arrays::{matrix_bool, matrix_f32, real, same_shape};
use crate::costs::CostTable;
use crate::errors::{core, train};
use crate::router::Router;

/// Process of the first fit.
static FITTING_PROCESS: OnceLock<u32> = OnceLock::new();
/// How often signals are looked at while training runs.
const POLL: Duration = Duration::from_millis(50);

/// Run the fit on its own threads; call `progress` and look for signals on this one.
fn watch(
    data: &TrainData,
    costs: &CostTable,
    config: &FitConfig,
    frozen: Option<Frozen>,
    threads: usize,
    progress: Option<&Py<PyAny>>,
) -> PyResult<Fitted> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| {
        PyRuntimeError::new_err(format!("training: expected threads to start, got {e}"))
    })?;
    let stop = AtomicBool::new(false);
    let (sender, receiver) = channel::<Progress>();
    thread::scope(|scope| {
        let stop = &stop;
        let worker = scope.spawn(move || {
            let report = move |p: Progress| {
                if stop.load(Ordering::Relaxed) {
                    return Err(TrainError::Interrupted);
                }
                // The receiver lives until this thread ends.
                let _ = sender.send(p);
                Ok(())
            };
            pool.install(|| cr2fast_train::fit(data, &costs.0, config, frozen, &report))
        });
        let mut failure = None;
        loop {
            let mut news = Vec::new();
            match receiver.recv_timeout(POLL) {
                Ok(p) => news.push(p),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Of what has piled up, the last of each stage.
            for p in receiver.try_iter() {
                if news.last().is_some_and(|last: &Progress| last.stage == p.stage) {
                    news.pop();
                }
                news.push(p);
            }
            if failure.is_some() {
                continue;
            }
            let answer = Python::attach(|py| {
                py.check_signals()?;
                if let Some(call) = progress {
                    for p in &news {
                        call.call1(py, (p.stage, p.done, p.total, p.loss))?;
                    }
                }
                Ok(())
            });
            if let Err(e) = answer {
                failure = Some(e);
                stop.store(true, Ordering::Relaxed);
            }
        }
        let result = worker
            .join()
            .map_err(|_| PyRuntimeError::new_err("training stopped on an internal error"))?;
        match failure {
            Some(e) => Err(e),
            None => result.map_err(train),
        }
    })
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn fit(
    py: Python<'_>,
    embeddings: &Bound<'_, PyAny>,
    correct: &Bound<'_, PyAny>,
    n_input_tokens: &Bound<'_, PyAny>,
    n_output_tokens: &Bound<'_, PyAny>,
    costs: &CostTable,
    config: &str,
    encoder: (String, String),
    ids: Vec<String>,
    frozen: Option<&Router>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Router> {
    // Worker threads do not survive a fork, and what they held stays locked in the child.
    let first = *FITTING_PROCESS.get_or_init(std::process::id);
    if first != std::process::id() {
        return Err(PyRuntimeError::new_err(
            "fit: expected the process that fitted before, got a forked child of it; start workers \
             with multiprocessing's \"spawn\" method",
        ));
    }
    let config = FitConfig::from_json(config).map_err(train)?;
    let x = matrix_f32(embeddings, "embeddings")?;
    let y = matrix_bool(correct, "correct")?;
    let (n_input, _) = real(n_input_tokens, "n_input_tokens", 1)?;
    let (n_output, shape) = real(n_output_tokens, "n_output_tokens", 2)?;
    let expected = [n_input.len(), costs.0.table().models.len()];
    same_shape("n_output_tokens", &expected, &shape)?;
    same_shape("correct", &expected, y.shape())?;
    same_shape("embeddings", &[n_input.len(), x.shape()[1]], x.shape())?;
    let data = TrainData {
        d: x.shape()[1],
        embeddings: x.slice(),
        correct: y.slice(),
        n_input: &n_input,
        n_output: &n_output,
    };
    let mut seen = IdSet::new(&ids);
    if let Some(r) = frozen {
        seen = IdSet::from_hashes([seen.hashes(), r.0.train_ids.hashes()].concat());
    }
    let frozen = frozen.map(|r| (r.0.teacher.weights().clone(), r.0.length.weights().clone()));
    let fitted = py.detach(|| watch(&data, costs, &config, frozen, threads, progress.as_ref()))?;
    let router = CoreRouter {
        models: costs.0.models(),
        encoder: Encoder { id: encoder.0, sha256: encoder.1 },
        gate: Arc::new(Gate::new(fitted.gate).map_err(core)?),
        teacher: Arc::new(Teacher::new(fitted.teacher).map_err(core)?),
        length: Arc::new(LengthPredictor::new(fitted.length).map_err(core)?),
        costs: costs.0.clone(),
        training: fitted.record,
        train_ids: seen,
        calibration: None,
        precision: Precision::default(),
    };
    router.check().map_err(core)?;
    Ok(Router(router))
}

/// Add the function to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(fit, m)?)
}
