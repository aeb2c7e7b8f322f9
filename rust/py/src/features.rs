//! Features of queries, and the rows that a router with features reads.
//!
//! In: texts; embeddings with texts, or with features. Out: NumPy arrays.

use cr2fast_core::{Features, TEXT_FEATURES};
use numpy::{Ix2, PyArray2};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::base::arrays::{View, matrix_f32, out2, same_shape};
use crate::base::errors::{Cr2Error, core};
use crate::encoder::messages::{MANY, texts as strings_of};

/// What a device sees of a text for nothing: float32 (N, 16), one column per name in
/// :data:`TEXT_FEATURES`.
///
/// Parameters
/// ----------
/// texts : sequence of str or of chats
///     Of a chat, the last user turn counts.
///
/// Returns
/// -------
/// ndarray of float32, (N, 16)
///     Counts n as log(1 + n) (`pieces`, `words`, `lines`, `numbers`, `question_marks`,
///     `code_fences`, `turns`, `tools`); `options` as a number up to 26; shares of all characters
///     (`digits`, `symbols`, `capitals`, `accented`, `other_script`, `east_asian`); `word_length` in
///     characters. The same bits on every machine.
///
/// Raises
/// ------
/// TypeError
///     One text in place of a list, or what is no text.
#[pyfunction]
fn text_features<'py>(
    py: Python<'py>,
    texts: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (strings, true) = strings_of(texts)? else {
        return Err(PyTypeError::new_err(
            "texts: expected a list of texts or chats, got one; give it as [text]",
        ));
    };
    let values: Vec<f32> =
        py.detach(|| strings.iter().flat_map(|text| cr2fast_core::text_features(text)).collect());
    out2(py, values, strings.len(), TEXT_FEATURES.len())
}

/// What a router reads: the width of its rows, and the features in them.
pub type Reads<'a> = (usize, Option<&'a Features>);

/// Rows (N, width) float32; embeddings alone are refused where the router also looks at features.
pub fn check_width<'py>(
    obj: &Bound<'py, PyAny>,
    (width, features): Reads,
) -> PyResult<View<'py, f32, Ix2>> {
    let x = matrix_f32(obj, "embeddings")?;
    if x.shape()[1] != width {
        cr2fast_core::check_width(features, x.shape()[1]).map_err(core)?;
        return Err(Cr2Error::new_err(format!(
            "embeddings: expected shape (N, {width}), got {:?}; are these another encoder's?",
            x.shape()
        )));
    }
    Ok(x)
}

/// Rows (N, d + F) of embeddings and texts, or features; the embeddings where there are no features.
pub fn inputs<'py>(
    py: Python<'py>,
    (width, features): Reads,
    embeddings: &Bound<'py, PyAny>,
    texts: Option<&Bound<'py, PyAny>>,
    values: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let x = matrix_f32(embeddings, "embeddings")?;
    let d = features.map_or(width, Features::embedding_dim);
    if features.is_some_and(|of| x.shape()[1] == of.dim()) {
        return Err(Cr2Error::new_err(format!(
            "embeddings: expected shape (N, {d}), got {:?}, as of rows that inputs has made already",
            x.shape()
        )));
    }
    same_shape("embeddings", &[x.shape()[0], d], x.shape())?;
    let n = x.shape()[0];
    let Some(of) = features else {
        if values.is_some() {
            return Err(Cr2Error::new_err(
                "features: expected none, since this router looks at embeddings only, got some",
            ));
        }
        return out2(py, x.slice().to_vec(), n, d);
    };
    let given = values.map(|v| matrix_f32(v, "features")).transpose()?;
    let all = match (texts, &given) {
        (None, Some(v)) => {
            same_shape("features", &[n, of.count()], v.shape())?;
            v.slice().to_vec()
        }
        (Some(texts), v) if of.of_text() => {
            let (strings, true) = strings_of(texts)? else {
                return Err(PyTypeError::new_err(MANY));
            };
            same_shape("texts", &[n], &[strings.len()])?;
            let columns = of.columns().len();
            match v {
                Some(v) => same_shape("features", &[n, columns], v.shape())?,
                None if columns > 0 => {
                    return Err(Cr2Error::new_err(format!(
                        "features: expected (N, {columns}) values of the columns {:?}, got none",
                        of.columns()
                    )));
                }
                None => {}
            }
            let own = |i: usize| {
                v.as_ref().map_or(&[][..], |v| &v.slice()[i * columns..(i + 1) * columns])
            };
            let rows = strings.iter().enumerate();
            rows.flat_map(|(i, text)| {
                let mut row = cr2fast_core::text_features(text).to_vec();
                row.extend_from_slice(own(i));
                row
            })
            .collect()
        }
        _ => {
            let (what, expected) = if of.of_text() {
                ("texts", "the texts, or features=[...]")
            } else {
                ("features", "features=[...]")
            };
            return Err(Cr2Error::new_err(format!(
                "{what}: expected {expected}, beside the embeddings, got none: this router also looks \
                 at {}; or fit with features=False for a router that looks at embeddings only",
                of.looks_at(),
            )));
        }
    };
    let values = x.slice();
    let out = py.detach(|| of.rows(values, &all)).map_err(core)?;
    out2(py, out, n, width)
}

/// What a router's features are, by name; None for embeddings only.
pub fn describe<'py>(
    py: Python<'py>,
    features: Option<&Features>,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(of) = features else { return Ok(None) };
    let out = PyDict::new(py);
    out.set_item("text", of.of_text())?;
    out.set_item("columns", of.columns())?;
    out.set_item("names", of.names())?;
    out.set_item("weight", of.weight())?;
    Ok(Some(out))
}

/// Add the stage to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("TEXT_FEATURES", PyTuple::new(m.py(), TEXT_FEATURES)?)?;
    m.add_function(wrap_pyfunction!(text_features, m)?)
}
