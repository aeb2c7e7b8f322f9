//! Settings for whoever runs the gateway: TLS, and how the models' health is asked for.
//!
//! In: sections of the file. Out: [`Tls`] and [`HealthSettings`], or the line that is wrong.

use std::path::PathBuf;

use hyper::Uri;
use serde::Deserialize;
use toml::Spanned;

use super::check::{Checker, ms};
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
    pub every_ms: Spanned<u64>,
    /// For an answer, ms.
    pub timeout_ms: Spanned<u64>,
    /// Failures in a row after which a server is passed over.
    pub failures: Spanned<u64>,
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
        if *file.every_ms.get_ref() == 0 {
            return Ok(None);
        }
        let times = vec![("every_ms", &file.every_ms), ("timeout_ms", &file.timeout_ms)];
        self.times("health", times)?;
        let failures = u32::try_from(*file.failures.get_ref()).ok().filter(|n| *n > 0);
        let failures = failures.ok_or_else(|| {
            let expected = "a number from 1 to 4294967295";
            self.wrong(&file.failures, "health.failures", expected, file.failures.get_ref())
        })?;
        let (every, timeout) = (ms(&file.every_ms), ms(&file.timeout_ms));
        Ok(Some(HealthSettings { every, timeout, failures }))
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
