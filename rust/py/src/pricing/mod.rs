//! From token counts and a link state to seconds, joules, dollars and costs.

mod link;
mod table;

pub use link::{LinkState, LinkStates};
pub use table::CostTable;
