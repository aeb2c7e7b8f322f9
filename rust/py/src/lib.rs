//! cr2fast._core: thin bindings. Arguments are checked and converted here; everything else is
//! `cr2fast-core` and `cr2fast-train`. The GIL is released in every call that loops.

mod arrays;
mod costs;
mod device;
mod edge;
mod errors;
mod fit;
mod functions;
mod router;
mod static_encoder;

use pyo3::prelude::*;

/// The extension module.
#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<costs::LinkState>()?;
    m.add_class::<costs::LinkStates>()?;
    m.add_class::<costs::CostTable>()?;
    m.add_class::<router::Router>()?;
    m.add_class::<device::DeviceRouter>()?;
    m.add_class::<device::Decision>()?;
    m.add_class::<static_encoder::StaticEncoder>()?;
    m.add_class::<edge::EdgeSelector>()?;
    m.add_class::<edge::Selection>()?;
    m.add_class::<edge::Selections>()?;
    errors::register(m)?;
    functions::register(m)?;
    fit::register(m)
}
