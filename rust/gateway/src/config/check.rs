//! From what a file says to what can be run, or to the line that is wrong.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use toml::Spanned;

use super::encoder::EncoderConfig;
use super::file::{
    AccessFile, BreakerFile, DeadlinesFile, DeviceFile, EdgeFile, LimitsFile, LogFile, ModelFile,
    RouterFile, RuleFile, ShadowFile,
};
use super::operations::TlsFile;
use super::tokens::Shown;
use super::{
    Config, ConfigError, Limits, Lined, LogConfig, ModelConfig, RoleConfig, RouterConfig,
    ShadowConfig,
};
use crate::upstream::{Address, BreakerSettings, Deadlines};

/// A file under check.
pub struct Checker<'a> {
    pub path: &'a Path,
    pub text: &'a str,
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// The line of an offset, from 1.
pub fn line(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or(text);
    1 + before.matches('\n').count()
}

/// Sections that a device's file shares with an edge's.
type Rest = (LimitsFile, BreakerFile, AccessFile, TlsFile, Option<LogFile>);

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

impl Checker<'_> {
    pub fn device(&self, file: DeviceFile) -> Result<Config> {
        if let Some(name) = &file.access.device_token_env {
            let expected = "no such setting: only an edge takes requests of device gateways";
            return Err(self.wrong(name, "access.device_token_env", expected, name.get_ref()));
        }
        let deadlines = self.deadlines(&file.deadlines)?;
        let beside = (file.encoder.as_ref(), file.energy.as_ref(), file.traces.as_ref());
        let upstreams = [("local.url", &file.local.url), ("edge.url", &file.edge.url)];
        self.elsewhere(&file.listen, &upstreams, beside)?;
        let (local, edge) = (&file.local, &file.edge);
        let of_local = (local.first_content_ms.as_ref(), local.answer_ms.as_ref());
        let of_edge = (edge.first_content_ms.as_ref(), edge.answer_ms.as_ref());
        let of_local = self.overridden(deadlines, "local", of_local)?;
        let of_edge = self.overridden(deadlines, "edge", of_edge)?;
        let local = ModelConfig {
            address: Address {
                name: "device".into(),
                base: self.base("local.url", &file.local.url)?,
                token: self.bearer("local.token_env", file.local.token_env.as_ref())?,
            },
            line: self.line(&file.local.url),
            model: file.local.model.map(Spanned::into_inner),
            context_tokens: self
                .tokens("local.context_tokens", file.local.context_tokens.as_ref())?,
            deadlines: of_local,
            health_path: self.health_path(None)?,
        };
        let edge = Address {
            name: "edge".into(),
            base: self.base("edge.url", &file.edge.url)?,
            token: self.bearer("edge.token_env", Some(&file.edge.token_env))?,
        };
        let role = RoleConfig::Device {
            local: Box::new(local),
            edge: Box::new((edge, of_edge)),
            not_text: file.not_text,
            shadow: file.shadow.map(|shadow| self.shadow(&shadow)).transpose()?,
        };
        let shown = Shown {
            edge: self.shown("edge.token_env", Some(&file.edge.token_env))?,
            servers: self
                .shown("local.token_env", file.local.token_env.as_ref())?
                .into_iter()
                .chain(self.encoder_token(file.encoder.as_ref())?)
                .chain(self.energy_token(file.energy.as_ref())?)
                .collect(),
        };
        let rest = (file.limits, file.breaker, file.access, file.tls, file.log);
        let encoder = self.encoder(&file.router, file.encoder.as_ref())?;
        let promise = file.promise.map(|promise| self.promise(&promise)).transpose()?;
        let config = self.config(&file.listen, (&file.router, encoder), role, rest, &shown)?;
        self.sensed(Config { promise, ..config }, (file.energy, file.traces), None)
    }

    pub fn edge(&self, file: EdgeFile) -> Result<Config> {
        let deadlines = self.deadlines(&file.deadlines)?;
        let beside = (file.encoder.as_ref(), file.energy.as_ref(), file.traces.as_ref());
        let upstreams: Vec<_> = file.models.iter().map(|m| ("models.url", &m.url)).collect();
        self.elsewhere(&file.listen, &upstreams, beside)?;
        let mut models: Vec<ModelConfig> = Vec::with_capacity(file.models.len());
        let mut shown = Shown::default();
        shown.servers.extend(self.encoder_token(file.encoder.as_ref())?);
        shown.servers.extend(self.energy_token(file.energy.as_ref())?);
        for entry in file.models {
            shown.servers.extend(self.shown("models.token_env", entry.token_env.as_ref())?);
            let name = entry.name.get_ref();
            if name.is_empty() || name == "cr2fast" || name.starts_with("cr2fast:") {
                return Err(self.wrong(&entry.name, "models.name", "a model's name", name));
            }
            if models.iter().any(|m| m.address.name == *name) {
                return Err(self.wrong(&entry.name, "models.name", "each name once", name));
            }
            models.push(self.model(entry, deadlines)?);
        }
        if models.is_empty() {
            let at = self.text.find("models").map(|at| line(self.text, at));
            return Err(self.error(at, "models: expected at least one, got none".into()));
        }
        let find = |key: &str, name: &Spanned<String>| {
            let at = models.iter().position(|m| m.address.name == *name.get_ref());
            at.ok_or_else(|| {
                self.wrong(name, key, "one of the names in [[models]]", name.get_ref())
            })
        };
        let not_text = file.not_text.as_ref().map(|name| find("not_text", name)).transpose()?;
        if let Some(name) = &file.fallback {
            find("fallback", name)?;
        }
        let inclusive = file.rule == RuleFile::Inclusive;
        if let Some(name) = file.fallback.as_ref().filter(|_| inclusive) {
            let expected = "no fallback beside rule = \"inclusive\"";
            return Err(self.wrong(name, "fallback", expected, name.get_ref()));
        }
        let fallback = file.fallback.map(|name| self.lined(name));
        let health = self.health(&file.health)?;
        let names = models.iter().map(|m| m.address.name.clone()).collect();
        let role = RoleConfig::Edge { models, fallback, inclusive, not_text, health };
        let rest = (file.limits, file.breaker, file.access, file.tls, file.log);
        let encoder = self.encoder(&file.router, file.encoder.as_ref())?;
        if let (None, Some(file)) = (not_text, &file.encoder) {
            let expected = "not_text beside it, the model that takes requests while the endpoint gives no embedding";
            return Err(self.wrong(&file.url, "encoder.url", expected, &"none"));
        }
        let config = self.config(&file.listen, (&file.router, encoder), role, rest, &shown)?;
        self.sensed(config, (file.energy, file.traces), Some(names))
    }

    fn model(&self, file: ModelFile, deadlines: Deadlines) -> Result<ModelConfig> {
        Ok(ModelConfig {
            line: self.line(&file.name),
            address: Address {
                name: file.name.get_ref().clone(),
                base: self.base("models.url", &file.url)?,
                token: self.bearer("models.token_env", file.token_env.as_ref())?,
            },
            model: file.model.map(Spanned::into_inner),
            context_tokens: self.tokens("models.context_tokens", file.context_tokens.as_ref())?,
            health_path: self.health_path(file.health_path.as_ref())?,
            deadlines: self.overridden(
                deadlines,
                "models",
                (file.first_content_ms.as_ref(), file.answer_ms.as_ref()),
            )?,
        })
    }

    fn config(
        &self,
        listen: &Spanned<String>,
        (router, encoder): (&RouterFile, EncoderConfig),
        role: RoleConfig,
        (limits, breaker, access, tls, log): Rest,
        shown: &Shown,
    ) -> Result<Config> {
        let address: SocketAddr = listen.get_ref().parse().map_err(|_| {
            self.wrong(listen, "listen", "ADDRESS:PORT, such as 127.0.0.1:8080", listen.get_ref())
        })?;
        let access = self.access(&access)?;
        self.apart(&access, shown)?;
        if !address.ip().is_loopback() && access.client.is_none() {
            let expected = "a loopback address, or access.token_env with the clients' token";
            return Err(self.wrong(listen, "listen", expected, listen.get_ref()));
        }
        Ok(Config {
            path: self.path.into(),
            listen: Lined { value: address, line: self.line(listen) },
            router: RouterConfig {
                path: self.near(&router.path),
                encoder,
                point: self.point(router)?,
            },
            role,
            breaker: self.breaker(&breaker)?,
            limits: self.limits(&limits)?,
            access,
            tls: self.tls(&tls)?,
            log: log.map(|log| self.log(&log)).transpose()?,
            promise: None,
            energy: None,
            traces: None,
        })
    }

    fn deadlines(&self, file: &DeadlinesFile) -> Result<Deadlines> {
        Ok(Deadlines {
            connect: self.ms("deadlines.connect_ms", &file.connect_ms)?,
            first_content: self.ms("deadlines.first_content_ms", &file.first_content_ms)?,
            answer: self.ms("deadlines.answer_ms", &file.answer_ms)?,
            idle: self.ms("deadlines.idle_ms", &file.idle_ms)?,
        })
    }

    /// The deadlines of a section that has some of its own.
    fn overridden(
        &self,
        deadlines: Deadlines,
        section: &str,
        (first, answer): (Option<&Spanned<i64>>, Option<&Spanned<i64>>),
    ) -> Result<Deadlines> {
        let own = |key: &str, x: Option<&Spanned<i64>>, common: Duration| match x {
            Some(x) => self.ms(&format!("{section}.{key}"), x),
            None => Ok(common),
        };
        Ok(Deadlines {
            first_content: own("first_content_ms", first, deadlines.first_content)?,
            answer: own("answer_ms", answer, deadlines.answer)?,
            ..deadlines
        })
    }

    fn limits(&self, file: &LimitsFile) -> Result<Limits> {
        let mib = 1 << 20;
        Ok(Limits {
            threads: self.size("limits.threads", &file.threads, 1..=256)?,
            concurrency: self.size("limits.concurrency", &file.concurrency, 1..=mib)?,
            connections: self.size("limits.connections", &file.connections, 1..=mib)?,
            body_bytes: self.size("limits.body_bytes", &file.body_bytes, 1..=1 << 30)?,
            header_bytes: self.size("limits.header_bytes", &file.header_bytes, 8_192..=mib)?,
            answer_bytes: self.size("limits.answer_bytes", &file.answer_bytes, 1..=1 << 30)?,
            header: self.ms("limits.header_ms", &file.header_ms)?,
            body: self.ms("limits.body_ms", &file.body_ms)?,
            write: self.ms("limits.write_ms", &file.write_ms)?,
            drain: self.ms("limits.drain_ms", &file.drain_ms)?,
        })
    }

    fn shadow(&self, file: &ShadowFile) -> Result<ShadowConfig> {
        Ok(ShadowConfig {
            // An estimate weighs by 1/π.
            probability: self.real("shadow.probability", &file.probability, 1e-6..=1.0)?,
            at_once: self.size("shadow.at_once", &file.at_once, 1..=1_024)?,
        })
    }

    fn breaker(&self, file: &BreakerFile) -> Result<BreakerSettings> {
        let failures = self.times("breaker.failures", &file.failures)?;
        let open = self.ms("breaker.open_ms", &file.open_ms)?;
        let max_open = self.ms("breaker.max_open_ms", &file.max_open_ms)?;
        if max_open < open {
            let expected = format!("at least breaker.open_ms, {}", open.as_millis());
            let got = file.max_open_ms.get_ref();
            return Err(self.wrong(&file.max_open_ms, "breaker.max_open_ms", &expected, got));
        }
        Ok(BreakerSettings { failures, open, max_open })
    }

    fn log(&self, file: &LogFile) -> Result<LogConfig> {
        let hours = self.whole("log.max_age_h", &file.max_age_h, 1..=1_000_000)?;
        Ok(LogConfig {
            path: self.near(&file.path),
            flush: self.ms("log.flush_ms", &file.flush_ms)?,
            queue: self.size("log.queue", &file.queue, 1..=1 << 24)?,
            queue_bytes: self.size("log.queue_bytes", &file.queue_bytes, 1 << 20..=1 << 40)?,
            max_bytes: self.whole("log.max_bytes", &file.max_bytes, 1_024..=1 << 50)?,
            max_age: Duration::from_secs(3_600 * hours),
            embedding: file.embedding,
            texts: file.texts,
        })
    }

    /// `http://host:port` of a URL with or without `/v1`. An error shows no more of the URL than its
    /// path: what follows may be a secret.
    pub(super) fn base(&self, key: &str, url: &Spanned<String>) -> Result<String> {
        let text = url.get_ref().trim_end_matches('/');
        let base = text.strip_suffix("/v1").unwrap_or(text);
        let port = |after: &str| {
            after.strip_prefix(':').is_none_or(|n| n.parse::<u16>().is_ok_and(|n| n > 0))
        };
        let parsed = base.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|h| !h.is_empty())
                && uri
                    .authority()
                    .is_some_and(|a| a.as_str().strip_prefix(a.host()).is_some_and(port))
                && !base.contains(['?', '#', '@'])
        });
        let shown = url.get_ref().split(['?', '#']).next().unwrap_or_default();
        match parsed {
            Some(_) => Ok(base.into()),
            None if text.contains('@') => {
                let expected = "http://HOST:PORT or https://HOST without a user or password; a server's token stands in an environment variable that token_env names";
                Err(self.wrong(url, key, expected, &shown))
            }
            None if text.contains(['?', '#']) => {
                let expected = "http://HOST:PORT or https://HOST with nothing after them";
                let shown: String = shown.chars().take(60).collect();
                let got = format!("{shown} and more after ? or #, which is not shown");
                Err(self.wrong(url, key, expected, &got))
            }
            None => Err(self.wrong(url, key, "http://HOST:PORT or https://HOST", &shown)),
        }
    }

    pub(super) fn near(&self, path: &Spanned<PathBuf>) -> Lined<PathBuf> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        Lined { value: folder.join(path.get_ref()), line: self.line(path) }
    }

    pub(super) fn lined<T>(&self, x: Spanned<T>) -> Lined<T> {
        Lined { line: self.line(&x), value: x.into_inner() }
    }

    pub(super) fn line<T>(&self, x: &Spanned<T>) -> usize {
        line(self.text, x.span().start)
    }

    pub(super) fn wrong<T>(
        &self,
        place: &Spanned<T>,
        key: &str,
        expected: &str,
        got: &dyn std::fmt::Display,
    ) -> ConfigError {
        let words = format!("{key}: expected {expected}, got {}", short(&got.to_string()));
        self.error(Some(self.line(place)), words)
    }

    pub(super) fn error(&self, line: Option<usize>, message: String) -> ConfigError {
        ConfigError { path: self.path.into(), line, message }
    }
}

fn short(word: &str) -> String {
    word.chars().take(80).collect()
}
