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

/// The longest time in a file: a day.
const MAX_MS: u64 = 86_400_000;

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

pub(super) fn ms(x: &Spanned<u64>) -> Duration {
    Duration::from_millis(*x.get_ref())
}

fn milliseconds<'a>(
    all: Vec<(&'static str, &'a Spanned<u64>)>,
) -> Vec<(&'static str, &'a Spanned<u64>)> {
    all.into_iter().filter(|(key, _)| key.ends_with("_ms")).collect()
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
        let deadlines_of = |first: &Option<Spanned<u64>>, answer: &Option<Spanned<u64>>| {
            self.overridden(deadlines, first.as_ref(), answer.as_ref())
        };
        let local = ModelConfig {
            address: Address {
                name: "device".into(),
                base: self.base("local.url", &file.local.url)?,
                token: self.bearer("local.token_env", file.local.token_env.as_ref())?,
            },
            line: self.line(&file.local.url),
            model: file.local.model.map(Spanned::into_inner),
            context_tokens: file.local.context_tokens,
            deadlines: deadlines_of(&file.local.first_content_ms, &file.local.answer_ms)?,
            health_path: self.health_path(None)?,
        };
        let edge = Address {
            name: "edge".into(),
            base: self.base("edge.url", &file.edge.url)?,
            token: self.bearer("edge.token_env", Some(&file.edge.token_env))?,
        };
        let edge = (edge, deadlines_of(&file.edge.first_content_ms, &file.edge.answer_ms)?);
        let role = RoleConfig::Device {
            local: Box::new(local),
            edge: Box::new(edge),
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
            return Err(self.error(None, "models: expected at least one, got none".into()));
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
            context_tokens: file.context_tokens,
            health_path: self.health_path(file.health_path.as_ref())?,
            deadlines: self.overridden(
                deadlines,
                file.first_content_ms.as_ref(),
                file.answer_ms.as_ref(),
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
        self.times("deadlines", file.all())?;
        Ok(Deadlines {
            connect: ms(&file.connect_ms),
            first_content: ms(&file.first_content_ms),
            answer: ms(&file.answer_ms),
            idle: ms(&file.idle_ms),
        })
    }

    fn overridden(
        &self,
        deadlines: Deadlines,
        first: Option<&Spanned<u64>>,
        answer: Option<&Spanned<u64>>,
    ) -> Result<Deadlines> {
        let own = [("first_content_ms", first), ("answer_ms", answer)];
        let own = own.into_iter().filter_map(|(key, x)| x.map(|x| (key, x)));
        self.times("deadline", own.collect())?;
        Ok(Deadlines {
            first_content: first.map_or(deadlines.first_content, ms),
            answer: answer.map_or(deadlines.answer, ms),
            ..deadlines
        })
    }

    fn limits(&self, file: &LimitsFile) -> Result<Limits> {
        self.times("limits", milliseconds(file.all()))?;
        let size = |key: &str, x: &Spanned<u64>, low: u64, high: u64| {
            let range = format!("a number from {low} to {high}");
            let value = *x.get_ref();
            if (low..=high).contains(&value) {
                Ok(value as usize)
            } else {
                Err(self.wrong(x, &format!("limits.{key}"), &range, &value))
            }
        };
        Ok(Limits {
            threads: size("threads", &file.threads, 1, 256)?,
            concurrency: size("concurrency", &file.concurrency, 1, 1 << 20)?,
            connections: size("connections", &file.connections, 1, 1 << 20)?,
            body_bytes: size("body_bytes", &file.body_bytes, 1, 1 << 30)?,
            header_bytes: size("header_bytes", &file.header_bytes, 8_192, 1 << 20)?,
            answer_bytes: size("answer_bytes", &file.answer_bytes, 1, 1 << 30)?,
            header: ms(&file.header_ms),
            body: ms(&file.body_ms),
            write: ms(&file.write_ms),
            drain: ms(&file.drain_ms),
        })
    }

    fn shadow(&self, file: &ShadowFile) -> Result<ShadowConfig> {
        let (probability, at_once) = (*file.probability.get_ref(), *file.at_once.get_ref());
        if !(probability > 0.0 && probability <= 1.0) {
            let expected = "a number above 0, at most 1";
            return Err(self.wrong(
                &file.probability,
                "shadow.probability",
                expected,
                &probability,
            ));
        }
        if !(1..=1_024).contains(&at_once) {
            let expected = "a number from 1 to 1024";
            return Err(self.wrong(&file.at_once, "shadow.at_once", expected, &at_once));
        }
        Ok(ShadowConfig { probability, at_once: at_once as usize })
    }

    fn breaker(&self, file: &BreakerFile) -> Result<BreakerSettings> {
        self.times("breaker", milliseconds(file.all()))?;
        let failures = *file.failures.get_ref();
        let failures = u32::try_from(failures).ok().filter(|n| *n > 0).ok_or_else(|| {
            self.wrong(
                &file.failures,
                "breaker.failures",
                "a number from 1 to 4294967295",
                &failures,
            )
        })?;
        let (open, max_open) = (ms(&file.open_ms), ms(&file.max_open_ms));
        if max_open < open {
            let got = file.max_open_ms.get_ref();
            return Err(self.wrong(
                &file.max_open_ms,
                "breaker.max_open_ms",
                "at least breaker.open_ms",
                got,
            ));
        }
        Ok(BreakerSettings { failures, open, max_open })
    }

    fn log(&self, file: &LogFile) -> Result<LogConfig> {
        for (key, value, high) in [
            ("flush_ms", file.flush_ms, MAX_MS),
            ("queue", file.queue as u64, 1 << 24),
            ("max_bytes", file.max_bytes, u64::MAX),
            ("max_age_h", file.max_age_h, 1 << 20),
        ] {
            if !(1..=high).contains(&value) {
                let expected = format!("a number from 1 to {high}");
                return Err(self.wrong(&file.path, &format!("log.{key}"), &expected, &value));
            }
        }
        Ok(LogConfig {
            path: self.near(&file.path),
            flush: Duration::from_millis(file.flush_ms),
            queue: file.queue,
            max_bytes: file.max_bytes,
            max_age: Duration::from_secs(3_600 * file.max_age_h),
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
        let shown = text.split(['?', '#']).next().unwrap_or_default();
        match parsed {
            Some(_) => Ok(base.into()),
            None if text.contains('@') => {
                let expected = "http://HOST:PORT or https://HOST without a user or password; a server's token stands in an environment variable that token_env names";
                Err(self.wrong(url, key, expected, &shown))
            }
            None => Err(self.wrong(url, key, "http://HOST:PORT or https://HOST", &shown)),
        }
    }

    pub(super) fn times(
        &self,
        section: &str,
        all: Vec<(&'static str, &Spanned<u64>)>,
    ) -> Result<()> {
        let bad = all.into_iter().find(|(_, x)| !(1..=MAX_MS).contains(x.get_ref()));
        match bad {
            None => Ok(()),
            Some((key, x)) => Err(self.wrong(
                x,
                &format!("{section}.{key}"),
                &format!("milliseconds from 1 to {MAX_MS}"),
                x.get_ref(),
            )),
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
