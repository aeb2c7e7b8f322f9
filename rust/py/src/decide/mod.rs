//! Decisions: the device accepts or defers, the edge selects; or both in one call.

use cr2fast_core::{Budget, EncoderInfo, Features, Result, row_of_text};
use numpy::{Element, PyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::base::arrays::vector_f32;
use crate::base::errors::core;
use crate::encoder::messages::{MANY, ROUTE_TEXTS, check_only_text, not_one, one_text, turns};
use crate::encoder::static_encoder::StaticEncoder;

pub mod choice;
pub mod decision;
pub mod device;
pub mod edge;
pub mod selection;
pub mod two_stage;

/// The limits of a call.
pub fn budget(latency_s: Option<f64>, energy_j: Option<f64>, usd: Option<f64>) -> Budget {
    Budget { latency_s, energy_j, usd }
}

/// (N,) values.
fn column<T: Element>(py: Python<'_>, xs: impl Iterator<Item = T>) -> Py<PyArray1<T>> {
    PyArray1::from_iter(py, xs).unbind()
}

/// (N,) numbers, NaN for `None`.
fn known(py: Python<'_>, xs: impl Iterator<Item = Option<f64>>) -> Py<PyArray1<f64>> {
    column(py, xs.map(|x| x.unwrap_or(f64::NAN)))
}

/// (N,) models.
fn indices(py: Python<'_>, models: impl Iterator<Item = usize>) -> Py<PyArray1<i64>> {
    column(py, models.map(|m| i64::try_from(m).expect("few models")))
}

/// Embeddings of `texts` by an encoder that is the router's: (d,) of one, (N, d) of a list.
fn encode<'py>(
    expected: &EncoderInfo,
    encoder: &Bound<'py, PyAny>,
    texts: &Bound<'py, PyAny>,
    many: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (id, sha256) = encoder.getattr("info").and_then(|info| info.extract()).map_err(|_| {
        PyTypeError::new_err(format!(
            "encoder: expected an Encoder (with `info` and `encode`), got {}",
            encoder.get_type()
        ))
    })?;
    expected.check(&EncoderInfo { id, sha256 }).map_err(core)?;
    let out = encoder.call_method1("encode", (texts,))?;
    if out.getattr("ndim")?.extract::<usize>()? != 1 + usize::from(many) {
        return Err(if many { PyTypeError::new_err(MANY) } else { not_one(ROUTE_TEXTS) });
    }
    Ok(out)
}

/// Call `decide` with the row (the embedding, and features where there are any) and L_in of one text or
/// chat; without `n_input_tokens`, L_in is counted, over all turns of a chat. With a static encoder
/// nothing in it holds the GIL. `instead` is what takes a list of texts.
fn of_text<T: Send>(
    (expected, features, instead): (&EncoderInfo, Option<&Features>, &str),
    text: &Bound<'_, PyAny>,
    encoder: &Bound<'_, PyAny>,
    n_input_tokens: Option<f64>,
    decide: impl FnOnce(Vec<f32>, f64) -> Result<T> + Send,
) -> PyResult<T> {
    let py = text.py();
    check_only_text(text)?;
    let one = one_text(text, instead)?;
    let history = if n_input_tokens.is_none() { turns(text)? } else { None };
    if let Ok(table) = encoder.cast::<StaticEncoder>() {
        let table = &table.get().0;
        let text = one;
        let decide = |x, n| decide(row_of_text(features, x, &text)?, n);
        let run = || {
            expected.check(table.info())?;
            if n_input_tokens.is_none() && history.is_none() {
                let (x, n) = table.encode_counted(&text)?;
                return decide(x, n as f64);
            }
            let turns = history.iter().flatten();
            let counted = || turns.map(|t| table.count_tokens(t) as f64).sum();
            decide(table.encode(&text)?, n_input_tokens.unwrap_or_else(counted))
        };
        return py.detach(run).map_err(core);
    }
    let x = encode(expected, encoder, text, false)?;
    let n_input = if let Some(n) = n_input_tokens {
        n
    } else {
        let turns = if history.is_some() { encoder.getattr_opt("count_turns")? } else { None };
        let count = encoder.getattr("count_tokens").map_err(|_| {
            PyTypeError::new_err(
                "n_input_tokens: expected it with an encoder that has no `count_tokens`, got none",
            )
        })?;
        match (history, turns) {
            (None, _) => count.call1((text,))?.extract()?,
            // An endpoint counts what it embeds; the other turns have as many tokens per byte.
            (Some(all), Some(turns)) => {
                let all: Vec<&str> = all.iter().map(|turn| &**turn).collect();
                turns.call1((all, &*one))?.extract()?
            }
            (Some(all), None) => {
                let counts = all.iter().map(|turn| count.call1((&**turn,))?.extract::<f64>());
                counts.sum::<PyResult<f64>>()?
            }
        }
    };
    let x = vector_f32(&x, "embedding")?.slice().to_vec();
    py.detach(|| decide(row_of_text(features, x, &one)?, n_input)).map_err(core)
}
