//! From text to embedding, and who made an embedding.

pub mod count;
pub mod endpoint;
pub mod identity;
pub mod probes;
pub mod static_encoder;
pub mod wordpiece;
