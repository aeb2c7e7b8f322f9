//! Where spans are sent.
//!
//! In: the section `[traces]`. Out: a [`TracesConfig`], or the line that is wrong.

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::check::Checker;

/// Spans of OpenTelemetry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesFile {
    /// A collector that takes OTLP over HTTP: `http://127.0.0.1:4318`, say.
    pub endpoint: Spanned<String>,
    /// Of requests whose client has not decided.
    #[serde(default = "ratio")]
    pub ratio: Spanned<f64>,
}

fn ratio() -> Spanned<f64> {
    Spanned::new(0..0, 1.0)
}

/// Spans of OpenTelemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// `http://host:port` of the collector.
    pub base: String,
    /// Sampled, of traces that begin here.
    pub ratio: f64,
    /// The line of the endpoint.
    pub line: usize,
}

impl Checker<'_> {
    pub(super) fn traces(&self, file: &TracesFile) -> Result<TracesConfig, ConfigError> {
        let ratio = self.real("traces.ratio", &file.ratio, 0.0..=1.0)?;
        let base = self.base("traces.endpoint", &file.endpoint)?;
        Ok(TracesConfig { base, ratio, line: self.line(&file.endpoint) })
    }
}
