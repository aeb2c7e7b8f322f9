//! Settings for whoever runs the gateway: TLS, and how the models' health is asked for.
//!
//! In: sections of the file. Out: [`Tls`] and [`HealthSettings`], or the line that is wrong.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::check::Checker;
use super::{ConfigError, Lined};
use crate::upstream::HealthSettings;

/// Certificates.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    /// The certificate chain that clients are shown, PEM.
    pub cert: Option<Spanned<PathBuf>>,
    /// Its private key, PEM.
    pub key: Option<Spanned<PathBuf>>,
    /// Certificates that https upstreams may be signed by, beside the system's, PEM.
    pub ca: Option<Spanned<PathBuf>>,
}

/// Certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Chain and key that clients are served with; none serves plain HTTP.
    pub serve: Option<(Lined<PathBuf>, Lined<PathBuf>)>,
    /// What upstreams may be signed by, beside the system's.
    pub ca: Option<Lined<PathBuf>>,
}

/// How an edge asks whether its models' servers are well.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthFile {
    /// Between two questions to one server, ms; 0 asks none.
    pub every_ms: Spanned<i64>,
    /// For an answer, ms.
    pub timeout_ms: Spanned<i64>,
    /// Failures in a row after which a server is passed over.
    pub failures: Spanned<i64>,
}

impl Default for HealthFile {
    fn default() -> Self {
        let value = |x| Spanned::new(0..0, x);
        Self { every_ms: value(5_000), timeout_ms: value(1_000), failures: value(2) }
    }
}

/// Where a server is asked, when its file says nothing.
const HEALTH_PATH: &str = "/v1/models";

impl Checker<'_> {
    /// None where nothing is to be asked.
    pub(super) fn health(&self, file: &HealthFile) -> Result<Option<HealthSettings>, ConfigError> {
        let never = *file.every_ms.get_ref() == 0;
        let every =
            if never { Ok(Duration::ZERO) } else { self.ms("health.every_ms", &file.every_ms) };
        let settings = HealthSettings {
            every: every?,
            timeout: self.ms("health.timeout_ms", &file.timeout_ms)?,
            failures: self.times("health.failures", &file.failures)?,
        };
        Ok((!never).then_some(settings))
    }

    /// Where a model's server is asked.
    pub(super) fn health_path(
        &self,
        path: Option<&Spanned<String>>,
    ) -> Result<String, ConfigError> {
        let Some(path) = path else { return Ok(HEALTH_PATH.into()) };
        let text = path.get_ref();
        if text.starts_with('/') && text.parse::<Uri>().is_ok() {
            return Ok(text.clone());
        }
        let shown = text.split('?').next().unwrap_or_default();
        Err(self.wrong(path, "models.health_path", "a path such as \"/health\"", &shown))
    }

    pub(super) fn tls(&self, file: &TlsFile) -> Result<Tls, ConfigError> {
        let serve = match (&file.cert, &file.key) {
            (Some(cert), Some(key)) => Some((self.near(cert), self.near(key))),
            (None, None) => None,
            (Some(one), None) => {
                return Err(self.wrong(one, "tls.cert", "tls.key beside it", &"none"));
            }
            (None, Some(one)) => {
                return Err(self.wrong(one, "tls.key", "tls.cert beside it", &"none"));
            }
        };
        Ok(Tls { serve, ca: file.ca.as_ref().map(|ca| self.near(ca)) })
    }
}
