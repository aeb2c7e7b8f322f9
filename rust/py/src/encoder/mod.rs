//! Text in: what of a request is embedded, who made an embedding, and the static encoder.

use cr2fast_core::EncoderInfo;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

pub mod count;
pub mod endpoint;
pub mod messages;
pub mod static_encoder;

static INFO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

const INFO_DOC: &str = "Name and fingerprint of an encoder.

Attributes
----------
id : str
    A name for people, e.g. ``sentence-transformers/all-MiniLM-L6-v2``.
sha256 : str
    SHA-256 of its files and settings, lower-case hex; empty when unknown. Then names alone are
    compared, which tells neither files nor settings apart: `cr2fast fit` and `cr2fast inspect`
    say so.
";

/// The class `EncoderInfo`: a named tuple, so that it unpacks, compares and pickles as one.
fn info_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    let class = INFO.get_or_try_init(py, || {
        let options = PyDict::new(py);
        options.set_item("defaults", ("unknown", ""))?;
        options.set_item("module", "cr2fast")?;
        let factory = py.import("collections")?.getattr("namedtuple")?;
        let class = factory.call(("EncoderInfo", ("id", "sha256")), Some(&options))?;
        class.setattr("__doc__", INFO_DOC)?;
        Ok::<_, PyErr>(class.unbind())
    })?;
    Ok(class.bind(py))
}

/// An `EncoderInfo` of Python.
pub fn info<'py>(py: Python<'py>, info: &EncoderInfo) -> PyResult<Bound<'py, PyAny>> {
    info_class(py)?.call1((&info.id, &info.sha256))
}

/// Add the stage to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("EncoderInfo", info_class(m.py())?)?;
    m.add_class::<static_encoder::StaticEncoder>()?;
    count::register(m)?;
    endpoint::register(m)?;
    m.add_function(wrap_pyfunction!(messages::text_of, m)?)?;
    m.add_function(wrap_pyfunction!(messages::texts_of, m)?)
}
