//! From token counts and a link state to seconds, joules and the normalised cost.

pub mod cost;
pub mod link;
pub mod schema;
