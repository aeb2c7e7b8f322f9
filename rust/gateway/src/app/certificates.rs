//! The files that `[tls]` names, loaded; what is wrong with one is an error with its line.

use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;

use crate::config::{Config, ConfigError, RoleConfig};
use crate::tls::{self, Trust, Wrong};

/// What https upstreams have to show. The system's roots are read only where an upstream needs them.
pub fn trust(config: &Config) -> Result<Trust, ConfigError> {
    let ca = config.tls.ca.as_ref();
    let https = |base: &str| base.starts_with("https:");
    let encoder = config.router.encoder.endpoint().map(|e| &e.address);
    let meter = config.energy.as_ref().and_then(|e| e.source.address());
    let beside = encoder.into_iter().chain(meter).map(|address| &address.base);
    let beside = beside.chain(config.traces.as_ref().map(|t| &t.base)).any(|base| https(base));
    let system = match &config.role {
        RoleConfig::Device { local, edge, .. } => https(&local.address.base) || https(&edge.0.base),
        RoleConfig::Edge { models, .. } => models.iter().any(|m| https(&m.address.base)),
    };
    Trust::load(ca.map(|ca| ca.value.as_path()), system || beside)
        .map_err(|words| wrong(config, ca.map(|ca| ca.line), "ca", &words))
}

/// What clients are served with; none where the file names no certificate.
pub fn served(config: &Config) -> Result<Option<Arc<ServerConfig>>, ConfigError> {
    let Some((cert, key)) = &config.tls.serve else { return Ok(None) };
    tls::server(&cert.value, &key.value).map(Some).map_err(|e| match e {
        Wrong::Cert(words) => wrong(config, Some(cert.line), "cert", &words),
        Wrong::Key(words) => wrong(config, Some(key.line), "key", &words),
    })
}

fn wrong(config: &Config, line: Option<usize>, key: &str, words: &str) -> ConfigError {
    ConfigError { path: config.path.clone(), line, message: format!("tls.{key}: {words}") }
}
