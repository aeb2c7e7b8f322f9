//! Checks of arguments, each written once.
//!
//! In: a value and the name its caller knows it by. Out: nothing, or an error that names the argument,
//! what was expected and what came.

use crate::base::error::{Error, Result};
use crate::base::limits::MAX_LAM;

/// Refuse a λ that is not a positive number of sensible size.
pub fn check_lam(lam: f64) -> Result<()> {
    if lam > 0.0 && lam <= MAX_LAM {
        return Ok(());
    }
    Err(Error::argument("lam", "a positive, finite cost weight, at most 1e12", lam))
}

/// Refuse an α outside (0, 1).
pub fn check_alpha(alpha: f64) -> Result<()> {
    if alpha > 0.0 && alpha < 1.0 {
        return Ok(());
    }
    Err(Error::argument("alpha", "a risk level strictly between 0 and 1", alpha))
}

/// Token counts are finite and not negative.
pub fn check_tokens(what: &str, xs: &[f64]) -> Result<()> {
    match xs.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
        None => Ok(()),
        Some(i) => Err(Error::argument(
            format!("{what}[{i}]"),
            "a token count, finite and at least 0",
            xs[i],
        )),
    }
}

/// Refuse NaN and infinities, naming the first.
pub fn check_finite(what: &str, xs: &[f32]) -> Result<()> {
    // OR, not a short-circuit: the compiler vectorises it, and the happy path reads all anyway.
    if !xs.iter().fold(false, |bad, x| bad | !x.is_finite()) {
        return Ok(());
    }
    let index = xs.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Err(Error::NotFinite { what: what.into(), index, value: f64::from(xs[index]) })
}

/// The same for double precision.
pub fn check_finite_f64(what: &str, xs: &[f64]) -> Result<()> {
    match xs.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { what: what.into(), index, value: xs[index] }),
    }
}

/// An empty vector with room for `rows`·`columns` values, or an error where memory has none.
pub fn room<T>(what: &str, rows: usize, columns: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    let size = rows.checked_mul(columns);
    match size.map(|n| out.try_reserve_exact(n)) {
        Some(Ok(())) => Ok(out),
        _ => Err(Error::argument(
            what,
            "a result that fits in memory",
            format!("{rows} x {columns} values"),
        )),
    }
}

/// The same, filled.
pub fn filled<T: Clone>(what: &str, rows: usize, columns: usize, value: T) -> Result<Vec<T>> {
    let mut out = room(what, rows, columns)?;
    out.resize(rows * columns, value);
    Ok(out)
}

/// Refuse a length that is not the expected one.
pub fn check_len(what: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::argument(what, format!("length {expected}"), format!("length {got}")))
}
