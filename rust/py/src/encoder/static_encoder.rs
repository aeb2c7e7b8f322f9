//! `StaticEncoder`: text to embedding without a network, the GIL released.

use cr2fast_core::{EncoderInfo, StaticSettings};
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::base::arrays::{matrix_f32, out1, out2};
use crate::base::errors::core;
use crate::base::scalars::args;
use crate::encoder::info;
use crate::encoder::messages::{EACH, one_text, texts as strings_of};

/// A sentence encoder that is a table: the sum of its tokens' vectors, made unit length.
///
/// Made from a frozen encoder by ``cr2fast distill-encoder`` (:func:`cr2fast.distill.distill`), and
/// read by :meth:`load`. Needs numpy alone: tokenizer, sum and, in :meth:`DeviceRouter.route_text`,
/// the gate run in one call that holds no lock. A text's vector is the same bits alone, in any list,
/// on any number of threads and any processor. Immutable and safe to share between threads.
///
/// Texts of more than `max_tokens` keep both ends (truncation "head-tail"), as the encoder it
/// learned from: prompts share their beginnings, and a mean over all of a few-shot prompt would be a
/// mean over its examples. Of texts beyond 32,768 characters the 16,384 at either end are read.
#[pyclass(frozen, module = "cr2fast")]
pub struct StaticEncoder(pub cr2fast_core::StaticEncoder);

#[pymethods]
impl StaticEncoder {
    /// Read a file that :meth:`save` wrote.
    ///
    /// Raises
    /// ------
    /// ArtifactError
    ///     A damaged, forged or newer file, or none of a static encoder.
    /// OSError
    ///     No such file, no permission.
    #[staticmethod]
    fn load(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Self> {
        py.detach(|| cr2fast_core::StaticEncoder::load(&path)).map(Self).map_err(core)
    }

    /// The same from a file's bytes.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        py.detach(|| cr2fast_core::StaticEncoder::from_bytes(data)).map(Self).map_err(core)
    }

    /// From token vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : ndarray of float32, (V, d)
    ///     One a token, its weight in it; each is rounded to bytes with a scale of its own.
    /// vocabulary : list of str
    ///     (V,) tokens of a BERT (uncased) vocabulary, by id.
    /// id : str
    ///     A name for people.
    /// source : (str, str)
    ///     Name and SHA-256 of the encoder they come from.
    /// max_tokens, truncation
    ///     As of :class:`Encoder`.
    /// record : str
    ///     How they were made, JSON.
    #[staticmethod]
    #[pyo3(signature = (vectors, vocabulary, *, id, source, max_tokens, truncation, record))]
    #[allow(clippy::too_many_arguments)]
    fn from_vectors(
        py: Python<'_>,
        vectors: &Bound<'_, PyAny>,
        vocabulary: Vec<String>,
        id: String,
        source: (String, String),
        #[pyo3(from_py_with = args::max_tokens)] max_tokens: usize,
        truncation: String,
        record: String,
    ) -> PyResult<Self> {
        let view = matrix_f32(vectors, "vectors")?;
        let (values, d) = (view.slice(), view.shape()[1]);
        let (source_id, source_sha256) = source;
        let settings =
            StaticSettings { id, source_id, source_sha256, max_tokens, truncation, record };
        let vocabulary = vocabulary.join("\n");
        py.detach(|| cr2fast_core::StaticEncoder::new(settings, vocabulary, values, d))
            .map(Self)
            .map_err(core)
    }

    /// Write one file, to a temporary one first; the same encoder gives the same bytes.
    fn save(&self, py: Python<'_>, path: std::path::PathBuf) -> PyResult<()> {
        py.detach(|| self.0.save(&path)).map_err(core)
    }

    /// The file's bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.detach(|| self.0.to_bytes()).map_err(core)?))
    }

    /// Name, and the SHA-256 over everything in the file: what a router remembers.
    #[getter]
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        info(py, self.0.info())
    }

    /// The encoder it was distilled from.
    #[getter]
    fn source<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let s = self.0.settings();
        info(py, &EncoderInfo { id: s.source_id.clone(), sha256: s.source_sha256.clone() })
    }

    /// Embedding width d.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Longer texts are cut to this many tokens.
    #[getter]
    fn max_tokens(&self) -> usize {
        self.0.settings().max_tokens
    }

    /// Which of them are kept: "head-tail" or "head".
    #[getter]
    fn truncation(&self) -> &str {
        &self.0.settings().truncation
    }

    /// How it was made, JSON.
    #[getter]
    fn record(&self) -> &str {
        &self.0.settings().record
    }

    /// Embed one text or many.
    ///
    /// Parameters
    /// ----------
    /// texts : str, chat messages, or a sequence of these
    /// threads : int
    ///     For this call; 0 is one per core.
    ///
    /// Returns
    /// -------
    /// ndarray of float32
    ///     (d,) for one text, (N, d) for a sequence; unit length.
    ///
    /// Raises
    /// ------
    /// TypeError, Cr2Error
    ///     Something that is no text, named by its place; text that no UTF-8 can hold.
    #[pyo3(signature = (texts, threads=1))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = args::threads)] threads: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (strings, many) = strings_of(texts)?;
        let out = py.detach(|| self.0.encode_batch(&strings, threads)).map_err(core)?;
        if many {
            let out: Bound<'py, PyArray2<f32>> = out2(py, out, strings.len(), self.0.dim())?;
            return Ok(out.into_any());
        }
        let out: Bound<'py, PyArray1<f32>> = out1(py, &out);
        Ok(out.into_any())
    }

    /// Tokens that a whole text counts for, special ones left out: L_in, an estimate of what models count.
    ///
    /// They are the vocabulary's, except where it cannot read the text. A word that it does not know, or of more
    /// than 100 characters, has a token per three bytes. No text has fewer than a token per three bytes of
    /// control, format and combining characters and per 16 bytes of all else, white space included.
    fn count_tokens(&self, py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<usize> {
        let text = one_text(text, EACH)?;
        Ok(py.detach(|| self.0.count_tokens(&text)))
    }

    /// Ids of the tokens that are summed, special ones included, cut to `max_tokens`.
    fn tokens(&self, py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let text = one_text(text, EACH)?;
        Ok(py.detach(|| self.0.tokens(&text)))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Py<PyBytes>,))> {
        let bytes = slf.get().to_bytes(slf.py())?.unbind();
        Ok((slf.get_type().getattr("from_bytes")?, (bytes,)))
    }

    fn __repr__(&self) -> String {
        format!("StaticEncoder({:?}, dim={})", self.0.info().id, self.0.dim())
    }
}
