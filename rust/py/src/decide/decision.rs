//! `Decision`.

use pyo3::prelude::*;

/// Accept or defer, with the numbers behind it.
///
/// Attributes
/// ----------
/// local : bool
///     True: answer on the device.
/// margin, threshold : float
///     Compared: local is margin >= threshold. The threshold is +inf to defer all, -inf to accept all.
/// score : float
///     sigmoid(margin / T), in [0, 1]; for people.
/// p_value : float or None
///     How typical the query is of the calibration split, in (0, 1], where that was asked for: of
///     queries like those of the split a fraction u at most has a p-value of u or less. With
///     `defer_atypical`, local also needs a p-value above that level.
#[pyclass(frozen, eq, module = "cr2fast")]
#[derive(PartialEq)]
pub struct Decision(pub(super) cr2fast_core::Decision);

/// The fields of [`Decision`], in their order.
type Fields = (bool, f32, f32, f64, Option<f64>);

#[pymethods]
impl Decision {
    #[getter]
    fn local(&self) -> bool {
        self.0.local
    }

    #[getter]
    fn margin(&self) -> f32 {
        self.0.margin
    }

    #[getter]
    fn threshold(&self) -> f32 {
        self.0.threshold
    }

    #[getter]
    fn score(&self) -> f64 {
        self.0.score
    }

    #[getter]
    fn p_value(&self) -> Option<f64> {
        self.0.p_value
    }

    #[staticmethod]
    fn _restore(
        local: bool,
        margin: f32,
        threshold: f32,
        score: f64,
        p_value: Option<f64>,
    ) -> Self {
        Self(cr2fast_core::Decision { local, margin, threshold, score, p_value })
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Fields)> {
        let d = slf.get().0;
        Ok((slf.getattr("_restore")?, (d.local, d.margin, d.threshold, d.score, d.p_value)))
    }

    fn __repr__(&self) -> String {
        let d = self.0;
        let local = if d.local { "True" } else { "False" };
        let typical = d.p_value.map_or_else(String::new, |p| format!(", p_value={p:.6}"));
        format!(
            "Decision(local={local}, margin={}, threshold={}, score={:.6}{typical})",
            d.margin, d.threshold, d.score
        )
    }
}
