//! All of rust-numpy: arrays in, checked, and arrays out.
//!
//! A wrong type, number of dimensions or dtype is a `TypeError` or a `Cr2Error` that names the
//! argument, what was expected and what came.

use numpy::ndarray::Dim;
use numpy::{
    Element, Ix1, Ix2, PyArray, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods,
    PyReadonlyArray, PyUntypedArray, PyUntypedArrayMethods, ToPyArray,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::base::errors::Cr2Error;

/// A read-only, C-contiguous view of an argument.
pub struct View<'py, T: Element, D: numpy::ndarray::Dimension>(PyReadonlyArray<'py, T, D>);

impl<T: Element, D: numpy::ndarray::Dimension> View<'_, T, D> {
    /// The values in row-major order.
    pub fn slice(&self) -> &[T] {
        self.0.as_slice().expect("contiguity was checked")
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }
}

/// What came, in words.
pub fn describe(obj: &Bound<'_, PyAny>) -> String {
    match obj.cast::<PyUntypedArray>() {
        Ok(a) => format!("an array of {} with shape {:?}", a.dtype(), a.shape()),
        Err(_) => obj.get_type().name().map_or_else(|_| "another object".into(), |n| n.to_string()),
    }
}

/// Refuse an array some of whose values are masked: what stands under a mask is no value.
pub fn check_unmasked(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<()> {
    // A plain array has no mask, and nearly every one is plain.
    if obj.is_exact_instance_of::<PyUntypedArray>() {
        return Ok(());
    }
    let ma = obj.py().import("numpy")?.getattr("ma")?;
    if !obj.is_instance(&ma.getattr("MaskedArray")?)? {
        return Ok(());
    }
    let masked = ma.call_method1("getmaskarray", (obj,))?.call_method0("sum")?;
    match masked.extract::<usize>()? {
        0 => Ok(()),
        n => Err(Cr2Error::new_err(format!(
            "{what}: expected an array without a mask, got {n} masked values; leave those rows out, \
             or fill them with what you mean"
        ))),
    }
}

fn view<'py, T: Element, D: numpy::ndarray::Dimension>(
    obj: &Bound<'py, PyAny>,
    what: &str,
    expected: &str,
) -> PyResult<View<'py, T, D>> {
    check_unmasked(obj, what)?;
    let Ok(array) = obj.cast::<PyArray<T, D>>() else {
        let got = describe(obj);
        let dtype_is_right = obj
            .cast::<PyUntypedArray>()
            .is_ok_and(|a| a.dtype().is_equiv_to(&T::get_dtype(obj.py())));
        let message = format!("{what}: expected {expected}, got {got}");
        return Err(if dtype_is_right {
            Cr2Error::new_err(message)
        } else {
            PyTypeError::new_err(message)
        });
    };
    // Strided or unaligned memory (a view into a byte buffer) is copied first.
    let aligned = (array.data() as usize).is_multiple_of(align_of::<T>());
    let array = if array.is_c_contiguous() && aligned {
        array.clone()
    } else {
        array.call_method1("copy", ("C",))?.cast_into::<PyArray<T, D>>()?
    };
    Ok(View(array.try_readonly().map_err(|e| Cr2Error::new_err(format!("{what}: {e}")))?))
}

/// (d,) float32.
pub fn vector_f32<'py>(obj: &Bound<'py, PyAny>, what: &str) -> PyResult<View<'py, f32, Ix1>> {
    view(obj, what, "a float32 array of one dimension (use .astype(np.float32) on other dtypes)")
}

/// (N, d) float32.
pub fn matrix_f32<'py>(obj: &Bound<'py, PyAny>, what: &str) -> PyResult<View<'py, f32, Ix2>> {
    view(obj, what, "a float32 array of two dimensions (use .astype(np.float32) on other dtypes)")
}

/// (N, K) uint64.
pub fn matrix_u64<'py>(obj: &Bound<'py, PyAny>, what: &str) -> PyResult<View<'py, u64, Ix2>> {
    view(obj, what, "a uint64 array of two dimensions")
}

/// (N, M) bool.
pub fn matrix_bool<'py>(obj: &Bound<'py, PyAny>, what: &str) -> PyResult<View<'py, bool, Ix2>> {
    truths(obj, what, "a bool array of two dimensions")
}

/// (N,) bool.
pub fn bools<'py>(obj: &Bound<'py, PyAny>, what: &str) -> PyResult<View<'py, bool, Ix1>> {
    truths(obj, what, "a bool array of one dimension")
}

/// NumPy's bools may hold any byte (through views); Rust's may not.
fn truths<'py, D: numpy::ndarray::Dimension>(
    obj: &Bound<'py, PyAny>,
    what: &str,
    expected: &str,
) -> PyResult<View<'py, bool, D>> {
    let bools: View<bool, D> = view(obj, what, expected)?;
    let bytes = bools.0.call_method1("view", ("uint8",))?;
    let bytes: View<u8, D> = view(&bytes, what, expected)?;
    let highest = bytes.slice().iter().fold(0_u8, |most, b| most.max(*b));
    if highest > 1 {
        return Err(Cr2Error::new_err(format!(
            "{what}: expected {expected} holding 0 and 1, got bytes up to {highest}"
        )));
    }
    Ok(bools)
}

/// (N,) float64, of booleans or numbers.
pub fn doubles<'py>(obj: &Bound<'py, PyAny>, what: &str) -> PyResult<View<'py, f64, Ix1>> {
    check_unmasked(obj, what)?;
    let np = obj.py().import("numpy")?;
    let array = np.call_method1("asarray", (obj,))?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    if !matches!(kind.as_str(), "b" | "i" | "u" | "f") {
        return Err(PyTypeError::new_err(format!(
            "{what}: expected booleans or numbers, got {}",
            describe(&array)
        )));
    }
    let array = array.call_method1("astype", ("float64",))?;
    view(&array, what, "an array of one dimension")
}

/// Refuse another shape.
pub fn same_shape(what: &str, expected: &[usize], got: &[usize]) -> PyResult<()> {
    if expected == got {
        return Ok(());
    }
    Err(Cr2Error::new_err(format!("{what}: expected shape {expected:?}, got {got:?}")))
}

/// Numbers of any real dtype, or a sequence of them, as float64 with their shape.
pub fn real(obj: &Bound<'_, PyAny>, what: &str, ndim: usize) -> PyResult<(Vec<f64>, Vec<usize>)> {
    let np = obj.py().import("numpy")?;
    check_unmasked(obj, what)?;
    let array = np.call_method1("asarray", (obj,))?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    if !matches!(kind.as_str(), "i" | "u" | "f") {
        return Err(PyTypeError::new_err(format!(
            "{what}: expected integers or floats, got {}",
            describe(&array)
        )));
    }
    if shape.len() != ndim {
        return Err(Cr2Error::new_err(format!(
            "{what}: expected {ndim} dimension(s), got shape {shape:?}"
        )));
    }
    let array = np.call_method1("ascontiguousarray", (array, "float64"))?;
    let values = view::<f64, numpy::IxDyn>(&array, what, "float64")?.slice().to_vec();
    Ok((values, shape))
}

/// (N,) out.
pub fn out1<'py, T: Element>(py: Python<'py>, xs: &[T]) -> Bound<'py, PyArray1<T>> {
    xs.to_pyarray(py)
}

/// (rows, columns) out, from row-major values.
pub fn out2<T: Element>(
    py: Python<'_>,
    xs: Vec<T>,
    rows: usize,
    columns: usize,
) -> PyResult<Bound<'_, PyArray2<T>>> {
    PyArray1::from_vec(py, xs).reshape(Dim([rows, columns]))
}
