//! Spans of OpenTelemetry: a request, its decision, each try of an upstream.
//!
//! In: what a trace finds out. Out: spans, sent in batches to a collector by a thread of
//! the SDK, with what was decided as attributes; none holds text of a prompt or an answer, or a token.
//! The queue is bounded, and what finds it full is dropped and counted: a collector that is dead costs
//! nobody anything. Without the feature `otel` a file that asks for spans is refused.

#[cfg(feature = "otel")]
mod counted;
#[cfg(not(feature = "otel"))]
mod none;
#[cfg(feature = "otel")]
mod otel;

#[cfg(not(feature = "otel"))]
pub use none::{Span, Tracer};
#[cfg(feature = "otel")]
pub use otel::{Span, Tracer};
