//! `_core.fit`: training on worker threads, progress and Ctrl-C on the caller's.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use cr2fast_core::{EncoderInfo, Named};
use cr2fast_train::{FeatureData, FitConfig, Progress, TrainData, TrainError, fit_router};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::base::arrays::{View, matrix_bool, matrix_f32, matrix_u64, real, same_shape};
use crate::base::errors;
use crate::base::scalars::args;
use crate::pricing::CostTable;
use crate::router::Router;

/// Process of the first fit.
static FITTING_PROCESS: OnceLock<u32> = OnceLock::new();
/// How often signals are looked at while training runs.
const POLL: Duration = Duration::from_millis(50);

/// A piece of training that reports its progress.
type Training<'a, T> = &'a (dyn Fn(cr2fast_train::Report) -> cr2fast_train::Result<T> + Sync);

/// Train on threads of its own; call `progress` and look for signals on this one.
fn watch<T: Send>(train: Training<T>, threads: usize, progress: Option<&Py<PyAny>>) -> PyResult<T> {
    let threads = cr2fast_core::thread_count(threads);
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
            pool.install(|| train(&report))
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
            None => result.map_err(errors::train),
        }
    })
}

/// Answers (N, M) of a bool array, or of float32 grades, which the training crate checks.
fn answers(obj: &Bound<'_, PyAny>) -> PyResult<(Vec<f32>, Vec<usize>)> {
    if let Ok(y) = matrix_f32(obj, "correct") {
        return Ok((y.slice().to_vec(), y.shape().to_vec()));
    }
    let y = matrix_bool(obj, "correct")?;
    Ok((y.slice().iter().map(|y| f32::from(*y)).collect(), y.shape().to_vec()))
}

#[pyfunction]
#[pyo3(signature = (embeddings, correct, n_input_tokens, n_output_tokens, costs, config, encoder, ids, frozen, threads, progress, content=None, features=None))]
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
    #[pyo3(from_py_with = args::threads)] threads: usize,
    progress: Option<Py<PyAny>>,
    content: Option<&Bound<'_, PyAny>>,
    features: Option<(bool, Vec<String>, Bound<'_, PyAny>)>,
) -> PyResult<Router> {
    // Worker threads do not survive a fork, and what they held stays locked in the child.
    let first = *FITTING_PROCESS.get_or_init(std::process::id);
    if first != std::process::id() {
        return Err(PyRuntimeError::new_err(
            "fit: expected the process that fitted before, got a forked child of it; start workers \
             with multiprocessing's \"spawn\" method",
        ));
    }
    let config = FitConfig::from_json(config).map_err(errors::train)?;
    let x = matrix_f32(embeddings, "embeddings")?;
    let (y, y_shape) = answers(correct)?;
    let (n_input, _) = real(n_input_tokens, "n_input_tokens", 1)?;
    let (n_output, shape) = real(n_output_tokens, "n_output_tokens", 2)?;
    let expected = [n_input.len(), costs.0.table().models.len()];
    same_shape("n_output_tokens", &expected, &shape)?;
    same_shape("correct", &expected, &y_shape)?;
    same_shape("embeddings", &[n_input.len(), x.shape()[1]], x.shape())?;
    let data = TrainData {
        d: x.shape()[1],
        embeddings: x.slice(),
        correct: &y,
        n_input: &n_input,
        n_output: &n_output,
    };
    let (id, sha256) = encoder;
    let (costs, teacher) = (&costs.0, frozen.map(|r| &r.0));
    let content = content.map(|c| matrix_u64(c, "content")).transpose()?;
    let kept = content.as_ref().map_or(&[][..], View::slice);
    let queries = Named { ids: &ids, kept, asked: &[] };
    let values =
        features.as_ref().map(|(_, _, values)| matrix_f32(values, "features")).transpose()?;
    if let Some(values) = &values {
        same_shape("features", &[n_input.len(), values.shape()[1]], values.shape())?;
    }
    let of = |values: &View<f32, numpy::Ix2>| values.slice().to_vec();
    let values = values.as_ref().map(of);
    let named = features.map(|(text, columns, _)| (text, columns));
    let train = |report: cr2fast_train::Report| {
        let features = named.as_ref().zip(values.as_ref()).map(|((text, columns), values)| {
            FeatureData { text: *text, columns: columns.clone(), values }
        });

        let encoder = EncoderInfo { id: id.clone(), sha256: sha256.clone() };
        fit_router(&data, costs, &config, encoder, &queries, features, teacher, report)
    };
    py.detach(|| watch(&train, threads, progress.as_ref())).map(Router)
}

/// Add the function to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(fit, m)?)
}
