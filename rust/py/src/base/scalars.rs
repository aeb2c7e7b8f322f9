//! One rule for numbers and counts, whoever makes them.
//!
//! In: an argument and its name. Out: f64, usize or u64. A float32 0.05 is 0.05, the shortest decimal
//! that reads back as it; NumPy scalars and 0-d arrays are what they hold; no bool, text or masked value
//! is a number.

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyComplex, PyFloat, PyString};

use crate::base::arrays::{check_unmasked, describe, real};
use crate::base::errors::Cr2Error;

/// The NumPy scalar behind a scalar, a 0-d array or what can become one; `None` for plain Python.
fn numpy_scalar<'py>(obj: &Bound<'py, PyAny>, what: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    if !obj.hasattr("dtype")? {
        return Ok(None);
    }
    check_unmasked(obj, what)?;
    let array = obj.py().import("numpy")?.call_method1("asarray", (obj,))?;
    if array.getattr("ndim")?.extract::<usize>()? != 0 {
        return Ok(None);
    }
    array.get_item(()).map(Some)
}

/// A real number as the double that it means.
pub fn number(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    if let Ok(plain) = obj.cast_exact::<PyFloat>() {
        return Ok(plain.value());
    }
    let wrong =
        || PyTypeError::new_err(format!("{what}: expected a number, got {}", describe(obj)));
    let value = match numpy_scalar(obj, what)? {
        Some(scalar) => {
            let dtype = scalar.getattr("dtype")?;
            let kind: String = dtype.getattr("kind")?.extract()?;
            if !matches!(kind.as_str(), "i" | "u" | "f") {
                return Err(wrong());
            }
            if kind == "f" && dtype.getattr("itemsize")?.extract::<usize>()? < size_of::<f64>() {
                return scalar.str()?.to_str()?.parse().map_err(|_| wrong());
            }
            scalar
        }
        None => obj.clone(),
    };
    let is_none_of = !value.is_instance_of::<PyBool>()
        && !value.is_instance_of::<PyString>()
        && !value.is_instance_of::<PyComplex>();
    if !is_none_of {
        return Err(wrong());
    }
    value.extract::<f64>().map_err(|e| {
        if e.is_instance_of::<PyOverflowError>(obj.py()) {
            return Cr2Error::new_err(format!(
                "{what}: expected a number within 1e308, got a larger one"
            ));
        }
        wrong()
    })
}

/// Cost weights or risk levels, (K,): each by the rule of [`number`].
pub fn levels(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<Vec<f64>> {
    let (values, _) = real(obj, what, 1)?;
    let short = |d: Bound<'_, PyAny>| d.getattr("itemsize")?.lt(size_of::<f64>());
    // A list may hold float32 values; an array of doubles holds doubles.
    if obj.getattr("dtype").and_then(short).unwrap_or(true) {
        return obj.try_iter()?.map(|x| number(&x?, what)).collect();
    }
    Ok(values)
}

/// A whole number from 0 to 2^64 − 1.
pub fn whole(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<u64> {
    let wrong =
        || PyTypeError::new_err(format!("{what}: expected a whole number, got {}", describe(obj)));
    let value = numpy_scalar(obj, what)?.unwrap_or_else(|| obj.clone());
    let kind = value.getattr("dtype").and_then(|d| d.getattr("kind")?.extract::<String>());
    if value.is_instance_of::<PyBool>() || kind.is_ok_and(|k| !matches!(k.as_str(), "i" | "u")) {
        return Err(wrong());
    }
    match value.extract::<u64>() {
        Err(e) if e.is_instance_of::<PyOverflowError>(obj.py()) => Err(Cr2Error::new_err(format!(
            "{what}: expected a whole number from 0 to 2**64 - 1, got one beyond"
        ))),
        found => found.map_err(|_| wrong()),
    }
}

/// A whole number that counts things in memory.
pub fn count(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<usize> {
    let n = whole(obj, what)?;
    usize::try_from(n)
        .map_err(|_| Cr2Error::new_err(format!("{what}: expected a smaller number, got {n}")))
}

/// Extractors of arguments, each under its argument's name.
macro_rules! named {
    ($($name:ident: $rule:ident -> $kind:ty),* $(,)?) => {
        $(pub fn $name(obj: &Bound<'_, PyAny>) -> PyResult<$kind> {
            super::$rule(obj, stringify!($name))
        })*
    };
}

/// `#[pyo3(from_py_with = args::lam)]`.
pub mod args {
    use pyo3::prelude::*;

    named! {
        lam: number -> f64,
        n_input_tokens: number -> f64,
        rate_ul_bps: number -> f64,
        rate_dl_bps: number -> f64,
        rtt_s: number -> f64,
        latency_s: optional -> Option<f64>,
        energy_j: optional -> Option<f64>,
        usd: optional -> Option<f64>,
        max_latency_s: optional -> Option<f64>,
        max_energy_j: optional -> Option<f64>,
        max_usd: optional -> Option<f64>,
        delta: optional -> Option<f64>,
        defer_atypical: optional -> Option<f64>,
        alpha: optional -> Option<f64>,
        loss: number_or_truth -> f64,
        weight: number -> f64,
        margin: number -> f64,
        decay: number -> f64,
        low: optional -> Option<f64>,
        high: optional -> Option<f64>,
        step: optional -> Option<f64>,
        start: optional -> Option<f64>,
        decided_by: optional -> Option<f64>,
        prefers_edge: truth -> bool,
        late: whole -> u64,
        threads: count -> usize,
        lams: count -> usize,
        first: count -> usize,
        max_tokens: count -> usize,
        counted: tokens -> Option<f64>,
        n: count -> usize,
        seed: whole -> u64,
    }

    /// The name of a group, or none.
    pub fn group(obj: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
        if obj.is_none() {
            return Ok(None);
        }
        obj.extract().map(Some).map_err(|_| super::wrong_type("group", "a str, or None", obj))
    }

    /// α that has to be given.
    pub fn alpha_given(obj: &Bound<'_, PyAny>) -> PyResult<f64> {
        super::number(obj, "alpha")
    }

    /// δ that has to be given.
    pub fn delta_given(obj: &Bound<'_, PyAny>) -> PyResult<f64> {
        super::number(obj, "delta")
    }

    /// A start that has to be given.
    pub fn start_given(obj: &Bound<'_, PyAny>) -> PyResult<f64> {
        super::number(obj, "start")
    }

    /// A number of labels, or none.
    pub fn labels(obj: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        if obj.is_none() { Ok(None) } else { super::whole(obj, "n").map(Some) }
    }
}

/// What an argument is not.
pub fn wrong_type(what: &str, expected: &str, got: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{what}: expected {expected}, got {}", describe(got)))
}

/// Names of groups, or None among them.
pub fn group_names(groups: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<Option<String>>>> {
    let Some(groups) = groups else { return Ok(None) };
    let wrong = || {
        PyTypeError::new_err(format!(
            "groups: expected a list of names (str, or None), one per query, got {}",
            describe(groups)
        ))
    };
    // A text is a list of its letters, and never meant as one.
    if groups.is_instance_of::<PyString>() {
        return Err(wrong());
    }
    let names = groups.try_iter().map_err(|_| wrong())?;
    names.map(|name| name?.extract().map_err(|_| wrong())).collect::<PyResult<_>>().map(Some)
}

/// A number; of True and False, 1 and 0.
fn number_or_truth(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    obj.extract::<bool>().map_or_else(|_| number(obj, what), |b| Ok(f64::from(u8::from(b))))
}

/// True or false, Python's or NumPy's; a number is neither.
fn truth(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<bool> {
    obj.extract().map_err(|_| {
        PyTypeError::new_err(format!("{what}: expected True or False, got {}", describe(obj)))
    })
}

/// A number, or none.
fn optional(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<Option<f64>> {
    if obj.is_none() { Ok(None) } else { number(obj, what).map(Some) }
}

/// L_in, or none where it is to be counted.
fn tokens(obj: &Bound<'_, PyAny>, _: &str) -> PyResult<Option<f64>> {
    optional(obj, "n_input_tokens")
}

/// A number as the double that it means: the rule of every cost weight and risk level.
///
/// Parameters
/// ----------
/// value : float, or anything that is a real number
/// what : str
///     What errors call it.
#[pyfunction]
#[pyo3(name = "number")]
fn number_of(value: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    number(value, what)
}

/// A whole number, at least 0, from any integer: the rule of every count.
///
/// Parameters
/// ----------
/// value : int, or anything that is one
/// what : str
///     What errors call it.
#[pyfunction]
#[pyo3(name = "count")]
fn count_of(value: &Bound<'_, PyAny>, what: &str) -> PyResult<u64> {
    whole(value, what)
}

/// Add the functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(number_of, m)?)?;
    m.add_function(wrap_pyfunction!(count_of, m)?)
}
