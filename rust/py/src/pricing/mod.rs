//! From token counts and a link state to seconds, joules, dollars and costs.

mod link;
mod table;

pub use link::{LinkState, LinkStates, link_states, state, state_given};
pub use table::CostTable;
