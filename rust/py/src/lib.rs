//! cr2fast._core: thin bindings, one file a stage. Arguments are checked and converted here; everything
//! else is `cr2fast-core` and `cr2fast-train`. The GIL is released in every call that loops.

mod base;
mod calibration;
mod choice;
mod decide;
mod encoder;
mod features;
mod fit;
mod pricing;
mod router;

use pyo3::prelude::*;

use crate::base::scalars::args;

/// The instruction set in use.
#[pyfunction]
fn simd_isa() -> PyResult<&'static str> {
    Ok(cr2fast_core::Simd::best().map_err(base::errors::core)?.isa().name())
}

/// "release" or "debug": benchmarks refuse the second.
#[pyfunction]
fn build_profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// Threads for a call that allows `threads` (0: one per core), within the process's CPU affinity and
/// its control group's quota.
#[pyfunction]
#[pyo3(signature = (threads=0))]
fn thread_count(#[pyo3(from_py_with = args::threads)] threads: usize) -> usize {
    cr2fast_core::thread_count(threads)
}

/// The extension module.
#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<pricing::LinkState>()?;
    m.add_class::<pricing::LinkStates>()?;
    m.add_class::<pricing::CostTable>()?;
    m.add_class::<calibration::alarm::RiskAlarm>()?;
    m.add_class::<calibration::counts::MarginCounts>()?;
    m.add_class::<calibration::counts::CellCounts>()?;
    m.add_class::<calibration::rolling::RollingThreshold>()?;
    m.add_class::<router::Router>()?;
    m.add_class::<decide::device::DeviceRouter>()?;
    m.add_class::<decide::decision::Decision>()?;
    m.add_class::<decide::edge::EdgeSelector>()?;
    m.add_class::<decide::selection::Selection>()?;
    m.add_class::<decide::selection::Selections>()?;
    m.add_class::<decide::two_stage::TwoStage>()?;
    m.add_class::<decide::choice::Choice>()?;
    m.add_class::<decide::choice::Choices>()?;
    base::errors::register(m)?;
    base::scalars::register(m)?;
    encoder::register(m)?;
    features::register(m)?;
    calibration::register(m)?;
    choice::register(m)?;
    fit::register(m)?;
    m.add_function(wrap_pyfunction!(build_profile, m)?)?;
    m.add_function(wrap_pyfunction!(thread_count, m)?)?;
    m.add_function(wrap_pyfunction!(simd_isa, m)?)
}
