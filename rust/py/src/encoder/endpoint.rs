//! What an OpenAI-compatible embeddings endpoint is asked, and what it says; Python does the asking.

use cr2fast_core as core_crate;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::base::arrays::out1;
use crate::base::errors::core;

/// What is sent of a text: all of it, or both ends of one longer than `max_chars`.
#[pyfunction]
fn endpoint_text(text: &str, max_chars: usize) -> String {
    core_crate::endpoint_text(text, max_chars).into_owned()
}

/// The body of a request.
#[pyfunction]
fn endpoint_question(model: &str, text: &str) -> String {
    core_crate::endpoint_question(model, text)
}

/// From the body of an answer the vector (d,) at unit length, or as it came, and the tokens it counts.
#[pyfunction]
#[pyo3(signature = (body, width=None, normalize=true))]
fn endpoint_answer<'py>(
    py: Python<'py>,
    body: &[u8],
    width: Option<usize>,
    normalize: bool,
) -> PyResult<(Bound<'py, PyArray1<f32>>, Option<u64>)> {
    let said = core_crate::endpoint_answer(body, width).map_err(core)?;
    let vector = if normalize { core_crate::normalised(said.vector) } else { said.vector };
    Ok((out1(py, &vector), said.prompt_tokens))
}

/// Tokens of `n_bytes` bytes of text, of which the endpoint saw `sent` bytes and counted `counted` tokens: as
/// many per byte; a quarter of the bytes without a count, or with one below a token per 16 bytes.
#[pyfunction]
fn endpoint_tokens(counted: Option<u64>, sent: usize, n_bytes: usize) -> u64 {
    core_crate::endpoint_tokens(counted, sent, n_bytes)
}

/// Add the functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("ENDPOINT_CHARS", core_crate::ENDPOINT_CHARS)?;
    m.add("PROBE_TOLERANCE", core_crate::PROBE_TOLERANCE)?;
    m.add_function(wrap_pyfunction!(endpoint_text, m)?)?;
    m.add_function(wrap_pyfunction!(endpoint_question, m)?)?;
    m.add_function(wrap_pyfunction!(endpoint_answer, m)?)?;
    m.add_function(wrap_pyfunction!(endpoint_tokens, m)?)
}
