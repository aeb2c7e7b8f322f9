//! A gateway without spans: neither type has a value.

use crate::config::{Config, ConfigError};
use crate::context::Context;
use crate::job::Job;
use crate::log::Record;
use crate::metrics::Labelled;
use crate::tls::Trust;

/// What begins spans.
#[derive(Debug)]
pub enum Tracer {}

/// A span.
#[derive(Debug)]
pub enum Span {}

impl Tracer {
    /// None, or the line that asks for one.
    pub fn start(config: &Config, _: &Trust, _: &Labelled) -> Result<Option<Self>, ConfigError> {
        let Some(traces) = &config.traces else { return Ok(None) };
        let message = "traces.endpoint: expected a gateway that was built with the feature otel, got one without; leave [traces] out, or build with --features otel".into();
        Err(ConfigError { path: config.path.clone(), line: Some(traces.line), message })
    }

    /// Of a request.
    pub fn request(&self, _: &Job) -> Span {
        match *self {}
    }
}

impl Span {
    /// What whoever is asked is told.
    pub fn context(&self) -> Context {
        match *self {}
    }

    /// One within it: the decision.
    pub fn decides(&self) -> Self {
        match *self {}
    }

    /// One within it: a try of an upstream.
    pub fn tries(&self, _: &str, _: &Record) -> Self {
        match *self {}
    }

    /// Ends in a failure.
    pub fn failed(self, _: &'static str) {
        match self {}
    }

    /// Ends, with what the log says.
    pub fn ended(self, _: &Record) {
        match self {}
    }
}
