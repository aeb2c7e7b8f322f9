//! Rust errors as Python exceptions.

use cr2fast_core::Error;
use cr2fast_train::TrainError;
use pyo3::create_exception;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(cr2fast, Cr2Error, PyValueError, "Base of every error cr2fast raises itself.");
create_exception!(
    cr2fast,
    ArtifactError,
    Cr2Error,
    "A router file that is damaged, forged, newer, or another encoder's."
);
create_exception!(cr2fast, CostTableError, Cr2Error, "A cost table that breaks its schema.");
create_exception!(cr2fast, BudgetError, Cr2Error, "Limits of one call that no model keeps.");
create_exception!(
    cr2fast,
    InfeasibleAlphaError,
    Cr2Error,
    "alpha < 1/(N+1): no threshold can promise it."
);
create_exception!(
    cr2fast,
    OperatingPointError,
    Cr2Error,
    "A (lam, alpha) that was never calibrated."
);
create_exception!(
    cr2fast,
    StateError,
    Cr2Error,
    "A saved state that is damaged, forged, or of other settings."
);
create_exception!(
    cr2fast,
    SplitOverlapError,
    Cr2Error,
    "Query ids shared with a split already used."
);

/// The exception for a core error.
pub fn core(e: Error) -> PyErr {
    let message = e.to_string();
    match e {
        Error::Io { path, source } => match source.raw_os_error() {
            // Called with (errno, text, file name), OSError picks its own subclass.
            Some(errno) => PyOSError::new_err((errno, source.to_string(), path)),
            None => PyOSError::new_err(message),
        },
        Error::Artifact { .. } | Error::Version { .. } | Error::Encoder { .. } => {
            ArtifactError::new_err(message)
        }
        Error::CostTable { .. } => CostTableError::new_err(message),
        Error::Infeasible { .. } | Error::InfeasibleAtOnce { .. } => {
            InfeasibleAlphaError::new_err(message)
        }
        Error::LamOffGrid { .. } | Error::AlphaOffGrid { .. } | Error::NotCalibrated => {
            OperatingPointError::new_err(message)
        }
        Error::State { .. } => StateError::new_err(message),
        Error::Budget { .. } => BudgetError::new_err(message),
        Error::Overlap { .. } => SplitOverlapError::new_err(message),
        _ => Cr2Error::new_err(message),
    }
}

/// The exception for a training error.
pub fn train(e: TrainError) -> PyErr {
    match e {
        TrainError::Core(e) => core(e),
        TrainError::Interrupted => PyKeyboardInterrupt::new_err(()),
        TrainError::Diverged { .. } => Cr2Error::new_err(e.to_string()),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}

/// Add the exceptions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("Cr2Error", py.get_type::<Cr2Error>())?;
    m.add("ArtifactError", py.get_type::<ArtifactError>())?;
    m.add("BudgetError", py.get_type::<BudgetError>())?;
    m.add("CostTableError", py.get_type::<CostTableError>())?;
    m.add("InfeasibleAlphaError", py.get_type::<InfeasibleAlphaError>())?;
    m.add("OperatingPointError", py.get_type::<OperatingPointError>())?;
    m.add("SplitOverlapError", py.get_type::<SplitOverlapError>())?;
    m.add("StateError", py.get_type::<StateError>())
}
