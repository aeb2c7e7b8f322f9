//! From text to embedding, and who made an embedding.

pub mod identity;
pub mod static_encoder;
pub mod wordpiece;
