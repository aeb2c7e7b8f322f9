//! From token counts and a link state to seconds, joules, dollars and the normalised cost.

pub mod cost;
mod fields;
pub mod link;
pub mod model;
pub mod scale;
pub mod schema;
pub mod version;
