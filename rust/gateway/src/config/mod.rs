//! Configuration: a TOML file, checked whole before anything starts.
//!
//! In: a path, and the environment for tokens. Out: a [`Config`] that holds together, or a
//! [`ConfigError`] that names the file, the line, what was expected and what came. Paths in the file
//! are relative to the file's folder.

mod bounds;
mod check;
mod encoder;
mod energy;
mod explain;
mod file;
mod operations;
mod own;
mod point;
mod promise;
mod tokens;
mod traces;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::upstream::{Address, BreakerSettings, Deadlines, HealthSettings};

pub use encoder::{EncoderConfig, EndpointConfig};
pub use energy::{EnergyConfig, EnergySource};
pub use file::NotText;
pub use operations::Tls;
pub use point::PointConfig;
pub use promise::{OnAlarm, PromiseConfig, Threshold};
pub use traces::TracesConfig;

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, where one is to blame.
    pub line: Option<usize>,
    /// What was expected and what came.
    pub message: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, message) = (self.path.display(), masked(&crate::plain(&self.message)));
        match self.line {
            Some(line) => write!(f, "{path}:{line}: {message}"),
            None => write!(f, "{path}: {message}"),
        }
    }
}

/// Words without the user and password of any URL that they quote.
fn masked(words: &str) -> String {
    let mut parts = words.split("://");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = part.find(['/', '?', '#', '"', ' ']).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        out.push_str("://");
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend(["***@", host]),
            None => out.push_str(authority),
        }
        out.push_str(rest);
    }
    out
}

impl std::error::Error for ConfigError {}

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Where to listen.
    pub listen: Lined<SocketAddr>,
    /// What decides.
    pub router: RouterConfig,
    /// Device or edge.
    pub role: RoleConfig,
    /// When an upstream is left alone.
    pub breaker: BreakerSettings,
    /// What a client may take.
    pub limits: Limits,
    /// Who may ask.
    pub access: Access,
    /// Certificates.
    pub tls: Tls,
    /// The decision log.
    pub log: Option<LogConfig>,
    /// How the promise is watched.
    pub promise: Option<PromiseConfig>,
    /// Where joules are read.
    pub energy: Option<EnergyConfig>,
    /// Where spans are sent.
    pub traces: Option<TracesConfig>,
}

/// A value and the line that it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lined<T> {
    /// The value.
    pub value: T,
    /// Its line, from 1.
    pub line: usize,
}

/// What decides.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// `router.safetensors`.
    pub path: Lined<PathBuf>,
    /// What embeds texts.
    pub encoder: EncoderConfig,
    /// λ and α by default.
    pub point: PointConfig,
}

/// Device or edge.
#[derive(Clone, Debug)]
pub enum RoleConfig {
    /// A device.
    Device {
        /// The local server.
        local: Box<ModelConfig>,
        /// The edge gateway.
        edge: Box<(Address, Deadlines)>,
        /// Where requests go that text does not decide.
        not_text: NotText,
        /// Which requests the other place answers too.
        shadow: Option<ShadowConfig>,
    },
    /// An edge.
    Edge {
        /// The larger models.
        models: Vec<ModelConfig>,
        /// The one model that all routed requests go to.
        fallback: Option<Lined<String>>,
        /// Whether a deferred request may go back to the device.
        inclusive: bool,
        /// Index of the model for requests that text does not decide.
        not_text: Option<usize>,
        /// How the models' health is asked for.
        health: Option<HealthSettings>,
    },
}

/// Which requests the other place answers too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShadowConfig {
    /// π.
    pub probability: f64,
    /// How many may be under way.
    pub at_once: usize,
}

/// One model behind a server.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Its server.
    pub address: Address,
    /// The line of its name.
    pub line: usize,
    /// What the server calls it; none keeps the router's name.
    pub model: Option<String>,
    /// Tokens that its context holds.
    pub context_tokens: Option<u64>,
    /// How long it may take.
    pub deadlines: Deadlines,
    /// Where its server is asked whether it is well.
    pub health_path: String,
}

/// What a client may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads that answer requests.
    pub threads: usize,
    /// Requests at once.
    pub concurrency: usize,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// For a head to arrive.
    pub header: Duration,
    /// For a body to arrive.
    pub body: Duration,
    /// For a client to take what was written.
    pub write: Duration,
    /// Bytes of an answer in one piece.
    pub answer_bytes: usize,
    /// For requests in flight to end at a stop.
    pub drain: Duration,
}

/// SHA-256 of the tokens that open the door; nobody needs one where it is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The clients'.
    pub client: Option<[u8; 32]>,
    /// The device gateways'.
    pub device: Option<[u8; 32]>,
    /// Of whoever may reload.
    pub admin: Option<[u8; 32]>,
}

/// The decision log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The file.
    pub path: Lined<PathBuf>,
    /// Between writes.
    pub flush: Duration,
    /// Records that may wait.
    pub queue: usize,
    /// Bytes that they may hold, about.
    pub queue_bytes: usize,
    /// Bytes after which a new file begins.
    pub max_bytes: u64,
    /// Time after which a new file begins.
    pub max_age: Duration,
    /// Whether embeddings are written.
    pub embedding: bool,
    /// Whether the texts that are embedded are written.
    pub texts: bool,
}

impl Config {
    /// A socket at the address, which takes no connection yet: whoever listens there already is not
    /// disturbed, and is the error.
    pub fn socket(&self) -> std::io::Result<TcpSocket> {
        let address = self.listen.value;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    }

    /// The error of an address that cannot be listened on.
    pub fn cannot_listen(&self, e: &std::io::Error) -> ConfigError {
        let message =
            format!("listen: expected an address that is free, got {}: {e}", self.listen.value);
        ConfigError { path: self.path.clone(), line: Some(self.listen.line), message }
    }

    /// Read and check a file; tokens come from the environment.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            path: path.into(),
            line: None,
            message: format!("expected a TOML file that can be read, got: {e}"),
        })?;
        Self::parse(path, &text, &|name| std::env::var(name).ok())
    }

    /// Check a text; `env` looks variables up.
    pub fn parse(
        path: &Path,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let checker = check::Checker { path, text, env };
        let config = match file::parse(text) {
            Ok(file::File::Device(file)) => checker.device(*file),
            Ok(file::File::Edge(file)) => checker.edge(*file),
            Err((at, message)) => Err(ConfigError {
                path: path.into(),
                line: at.map(|at| check::line(text, at)),
                message,
            }),
        }?;
        config.apart()?;
        Ok(config)
    }
}
