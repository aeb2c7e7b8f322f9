//! How many tokens a text counts for, of BERT's tokenizer and of any other.

use cr2fast_core::{Reading, WordPiece, unknown_tokens};
use pyo3::prelude::*;

use crate::base::errors::core;
use crate::encoder::messages::{EACH, one_text};

/// Counts tokens as a static encoder with the same vocabulary does.
///
/// Parameters
/// ----------
/// vocabulary : list of str
///     (V,) tokens of a BERT (uncased) vocabulary, by id.
#[pyclass(frozen, module = "cr2fast._core")]
pub struct TokenCounter(WordPiece);

#[pymethods]
impl TokenCounter {
    #[new]
    #[allow(clippy::needless_pass_by_value)] // As extracted.
    fn new(py: Python<'_>, vocabulary: Vec<String>) -> PyResult<Self> {
        py.detach(|| WordPiece::new(&vocabulary.join("\n"))).map(Self).map_err(core)
    }

    /// Tokens that a whole text counts for, special ones left out.
    fn count_tokens(&self, py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<usize> {
        let text = one_text(text, EACH)?;
        Ok(py.detach(|| self.0.encode_counted(&text).1))
    }
}

/// Tokens that a text of `n_bytes` bytes counts for, of which another tokenizer made `n_ids` ids, some of
/// them for words that it does not know, which have `unknown` bytes each.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)] // As extracted.
fn counted_tokens(n_ids: usize, unknown: Vec<usize>, n_bytes: usize) -> usize {
    let beyond = unknown.iter().map(|bytes| unknown_tokens(*bytes).saturating_sub(1)).sum();
    Reading { ids: n_ids, beyond, hidden: 0, bytes: n_bytes }.tokens()
}

/// Add both to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<TokenCounter>()?;
    m.add_function(wrap_pyfunction!(counted_tokens, m)?)
}
