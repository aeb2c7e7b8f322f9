//! The TOML file as it is written: every setting, its name and its default.
//!
//! In: text. Out: a [`File`], or an error with the line; an unknown setting names those that are known.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::encoder::EncoderFile;
use super::energy::EnergyFile;
use super::explain::{explain, neither};
use super::operations::{HealthFile, TlsFile};
use super::promise::PromiseFile;
use super::traces::TracesFile;

/// A whole file, of a device or of an edge.
#[derive(Debug)]
pub enum File {
    /// In front of a local server, with an edge behind it.
    Device(Box<DeviceFile>),
    /// In front of the larger models.
    Edge(Box<EdgeFile>),
}

/// A device's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFile {
    /// `127.0.0.1:8080`, say.
    pub listen: Spanned<String>,
    /// What decides.
    pub router: RouterFile,
    /// The endpoint that embeds, in place of a static encoder.
    pub encoder: Option<EncoderFile>,
    /// The local server.
    pub local: LocalFile,
    /// The edge gateway.
    pub edge: EdgeHopFile,
    /// Where requests go that hold no text, or more than text.
    #[serde(default)]
    pub not_text: NotText,
    /// Which requests the other place answers too.
    pub shadow: Option<ShadowFile>,
    /// How long upstreams may take.
    #[serde(default)]
    pub deadlines: DeadlinesFile,
    /// What a client may take.
    #[serde(default)]
    pub limits: LimitsFile,
    /// When an upstream is left alone.
    #[serde(default)]
    pub breaker: BreakerFile,
    /// Who may ask.
    #[serde(default)]
    pub access: AccessFile,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsFile,
    /// The decision log.
    pub log: Option<LogFile>,
    /// How the promise is watched.
    pub promise: Option<PromiseFile>,
    /// Where joules are read.
    pub energy: Option<EnergyFile>,
    /// Where spans are sent.
    pub traces: Option<TracesFile>,
}

/// An edge's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeFile {
    /// `127.0.0.1:8090`, say.
    pub listen: Spanned<String>,
    /// What decides.
    pub router: RouterFile,
    /// The endpoint that embeds, in place of a static encoder.
    pub encoder: Option<EncoderFile>,
    /// The larger models.
    pub models: Vec<ModelFile>,
    /// Which models a deferred request may go to.
    #[serde(default)]
    pub rule: RuleFile,
    /// The one edge model that every routed request goes to; none selects by utility.
    pub fallback: Option<Spanned<String>>,
    /// The model that takes requests with no text, or more than text.
    pub not_text: Option<Spanned<String>>,
    /// How the models' servers are asked whether they are well.
    #[serde(default)]
    pub health: HealthFile,
    /// How long upstreams may take.
    #[serde(default)]
    pub deadlines: DeadlinesFile,
    /// What a client may take.
    #[serde(default)]
    pub limits: LimitsFile,
    /// When an upstream is left alone.
    #[serde(default)]
    pub breaker: BreakerFile,
    /// Who may ask.
    #[serde(default)]
    pub access: AccessFile,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsFile,
    /// The decision log.
    pub log: Option<LogFile>,
    /// Where joules are read.
    pub energy: Option<EnergyFile>,
    /// Where spans are sent.
    pub traces: Option<TracesFile>,
}

/// What decides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterFile {
    /// A calibrated `router.safetensors`.
    pub path: Spanned<PathBuf>,
    /// The static encoder whose embeddings it was fitted on; none where `[encoder]` names an endpoint.
    pub encoder: Option<Spanned<PathBuf>>,
    /// λ of requests that name none.
    pub lam: Option<Spanned<f64>>,
    /// α of requests that name none.
    pub alpha: Option<Spanned<f64>>,
    /// A chosen point in place of both: the JSON that `cr2fast choose --write` wrote.
    pub point: Option<Spanned<PathBuf>>,
}

/// The local server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalFile {
    /// `http://127.0.0.1:8081`, say.
    pub url: Spanned<String>,
    /// What the server calls the model; the router's name by default.
    pub model: Option<Spanned<String>>,
    /// Tokens that the model's context holds, input and output.
    pub context_tokens: Option<Spanned<i64>>,
    /// Environment variable with the server's token.
    pub token_env: Option<Spanned<String>>,
    /// Overrides `deadlines.first_content_ms`.
    pub first_content_ms: Option<Spanned<i64>>,
    /// Overrides `deadlines.answer_ms`.
    pub answer_ms: Option<Spanned<i64>>,
}

/// The edge gateway, as a device sees it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeHopFile {
    /// `http://10.0.0.1:8090`, say.
    pub url: Spanned<String>,
    /// Environment variable with the token that the edge knows as `access.device_token_env`.
    pub token_env: Spanned<String>,
    /// Overrides `deadlines.first_content_ms`.
    pub first_content_ms: Option<Spanned<i64>>,
    /// Overrides `deadlines.answer_ms`.
    pub answer_ms: Option<Spanned<i64>>,
}

/// One of the larger models.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Where its server is asked whether it is well; `/v1/models` by default.
    pub health_path: Option<Spanned<String>>,
    /// Its name in the router; another name is reached by name only.
    pub name: Spanned<String>,
    /// `http://127.0.0.1:8000`, say.
    pub url: Spanned<String>,
    /// What the server calls the model; `name` by default.
    pub model: Option<Spanned<String>>,
    /// Tokens that the model's context holds, input and output.
    pub context_tokens: Option<Spanned<i64>>,
    /// Environment variable with the server's token.
    pub token_env: Option<Spanned<String>>,
    /// Overrides `deadlines.first_content_ms`.
    pub first_content_ms: Option<Spanned<i64>>,
    /// Overrides `deadlines.answer_ms`.
    pub answer_ms: Option<Spanned<i64>>,
}

/// Which requests the other place answers too, for comparison.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowFile {
    /// π.
    pub probability: Spanned<f64>,
    /// How many may be under way.
    #[serde(default = "at_once")]
    pub at_once: Spanned<i64>,
}

fn at_once() -> Spanned<i64> {
    Spanned::new(0..0, 2)
}

/// Where a device sends what it cannot decide by text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotText {
    /// To the edge.
    #[default]
    Edge,
    /// To the local server.
    Device,
}

/// Which models a deferred request may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleFile {
    /// The edge's.
    #[default]
    EdgeOnly,
    /// The device's too: then the device is told to answer by itself.
    Inclusive,
}

macro_rules! settings {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident = $default:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[allow(clippy::struct_field_names)] // units are in names
        pub struct $name { $($(#[$field_doc])* pub $field: Spanned<i64>,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: Spanned::new(0..0, $default),)* }
            }
        }
    };
}

settings! {
    /// How long upstreams may take.
    DeadlinesFile {
        /// To accept a connection, ms.
        connect_ms = 1_000,
        /// To the first content of a stream, ms.
        first_content_ms = 10_000,
        /// To the end of an answer in one piece, ms.
        answer_ms = 120_000,
        /// Between parts of a stream, ms.
        idle_ms = 30_000,
    }
}

settings! {
    /// What a client may take.
    LimitsFile {
        /// Threads that answer requests.
        threads = 1,
        /// Requests at once.
        concurrency = 256,
        /// Connections at once.
        connections = 1_024,
        /// Bytes of a request's body.
        body_bytes = 8_388_608,
        /// Bytes of a request's head.
        header_bytes = 65_536,
        /// For a request's head to arrive, and for a connection to stand idle, ms.
        header_ms = 30_000,
        /// For a request's body to arrive, ms.
        body_ms = 30_000,
        /// For a client to take what was written, ms.
        write_ms = 30_000,
        /// Bytes of an answer in one piece.
        answer_bytes = 33_554_432,
        /// For requests in flight to end at a stop, ms.
        drain_ms = 30_000,
    }
}

settings! {
    /// When an upstream is left alone.
    BreakerFile {
        /// Failures in a row.
        failures = 3,
        /// For how long the first time, ms.
        open_ms = 1_000,
        /// For how long at most, ms.
        max_open_ms = 30_000,
    }
}

/// Who may ask.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_field_names)] // tokens stand in the environment: the names say so
pub struct AccessFile {
    /// Environment variable with the clients' bearer token; needed beyond loopback.
    pub token_env: Option<Spanned<String>>,
    /// Environment variable with the device gateways' bearer token; an edge without it takes no deferrals.
    pub device_token_env: Option<Spanned<String>>,
    /// Environment variable with the bearer token of `POST /v1/reload`; without it nobody may call that.
    pub admin_token_env: Option<Spanned<String>>,
}

/// The decision log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFile {
    /// JSON lines are appended to this file.
    pub path: Spanned<PathBuf>,
    /// Between writes, ms: what a kill may lose.
    #[serde(default = "flush_ms")]
    pub flush_ms: Spanned<i64>,
    /// Records that may wait; more are dropped and counted.
    #[serde(default = "queue")]
    pub queue: Spanned<i64>,
    /// Bytes that they may hold in memory, about; more are dropped and counted.
    #[serde(default = "queue_bytes")]
    pub queue_bytes: Spanned<i64>,
    /// Bytes after which a new file begins.
    #[serde(default = "max_bytes")]
    pub max_bytes: Spanned<i64>,
    /// Hours after which a new file begins.
    #[serde(default = "max_age_h")]
    pub max_age_h: Spanned<i64>,
    /// Whether embeddings are written.
    #[serde(default)]
    pub embedding: bool,
    /// Whether the texts that are embedded are written.
    #[serde(default)]
    pub texts: bool,
}

fn flush_ms() -> Spanned<i64> {
    Spanned::new(0..0, 200)
}

fn queue() -> Spanned<i64> {
    Spanned::new(0..0, 8_192)
}

fn queue_bytes() -> Spanned<i64> {
    Spanned::new(0..0, 1 << 25)
}

fn max_bytes() -> Spanned<i64> {
    Spanned::new(0..0, 1 << 28)
}

fn max_age_h() -> Spanned<i64> {
    Spanned::new(0..0, 24)
}

/// Parse; an edge's file is one with `[[models]]`. The error's offset is into `text`.
pub fn parse(text: &str) -> Result<File, (Option<usize>, String)> {
    let wrong = |e: toml::de::Error| explain(text, &e);
    let table: toml::Table = toml::from_str(text).map_err(wrong)?;
    if !table.contains_key("local") && !table.contains_key("models") {
        return Err(neither(text, &table));
    }
    // What is a list would be read as a section without names.
    if let Some((key, _)) = table.iter().find(|(key, x)| *key != "models" && x.is_array()) {
        let key: String = key.chars().take(40).collect();
        let at = text.find(&format!("[[{key}")).or(text.find(&key));
        return Err((at, format!("{key}: expected a section, [{key}], got a list")));
    }
    if table.contains_key("models") {
        if table.contains_key("local") {
            let words = "models: expected a device's file, with [local] and [edge], or an edge's, with [[models]]; got both";
            return Err((text.find("[[models").or(text.find("models")), words.into()));
        }
        if table.contains_key("promise") {
            let words = "promise: expected no such section in an edge's file, got one: a device watches the promise, since it is the device that accepts";
            return Err((text.find("[promise").or(text.find("promise")), words.into()));
        }
        return toml::from_str(text).map(|file| File::Edge(Box::new(file))).map_err(wrong);
    }
    toml::from_str(text).map(|file| File::Device(Box::new(file))).map_err(wrong)
}
