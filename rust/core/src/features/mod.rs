//! What a device sees of a text for nothing, beside its embedding.
//!
//! In: a text, or columns of the caller's own. Out: numbers ([`text`]), and the row that the networks
//! read: an embedding with these numbers appended ([`inputs`]).

pub mod inputs;
pub mod text;
