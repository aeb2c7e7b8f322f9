//! What a configuration would do, in words: the command `check`.
//!
//! In: a checked configuration. Out: lines, or what would keep a gateway from starting by it. A gateway
//! may run by the same file: its address, log and state stay as they are.

use std::io::ErrorKind;

use super::{App, certificates, no_log};
use crate::brain::Brain;
use crate::config::{Config, ConfigError, NotText, RoleConfig};
use crate::endpoint::Proof;
use crate::energy::Meter;
use crate::log::LogFile;
use crate::metrics::Labelled;
use crate::promise::Promise;
use crate::spans::Tracer;
use crate::upstream::Address;

impl App {
    /// What a configuration would do, in words; loads the router, starts nothing, and disturbs no gateway
    /// that runs by the same file. What would keep [`App::new`] from starting is the same error here.
    pub fn describe(config: &Config) -> Result<String, ConfigError> {
        let trust = certificates::trust(config)?;
        let brain = Brain::load(config, &trust)?;
        let log = config.log.as_ref().map(|log| log.path.value.as_path());
        let held = log.map(LogFile::check).transpose().map_err(|e| no_log(config, &e))?;
        let scheme = if certificates::served(config)?.is_some() { "https" } else { "http" };
        let taken = match config.socket() {
            Ok(_) => false,
            Err(e) if e.kind() == ErrorKind::AddrInUse => true,
            Err(e) => return Err(config.cannot_listen(&e)),
        };
        let point = &config.router.point;
        let (lam, alpha) = (point.lam.value, point.alpha.value);
        let mut lines = vec![
            format!("listens on {scheme}://{}", config.listen.value),
            format!("router {}, λ = {lam}, α = {alpha}", brain.hash()),
        ];
        lines.extend((config.listen.value.port() == 0).then(|| {
            "note: port 0 is any that is free, another one at each start, which then says which"
                .into()
        }));
        lines.extend(log.filter(|_| held == Some(true)).map(|path| {
            format!(
                "note: a gateway has {} open, perhaps this one, which runs already; two that share a log also share its rotation",
                path.display()
            )
        }));
        lines.extend(taken.then(|| {
            format!(
                "note: {} is in use, perhaps by this gateway, which runs already; another program there keeps it from starting",
                config.listen.value
            )
        }));
        if let Some(endpoint) = brain.endpoint() {
            let (n, place) = (endpoint.n_probes(), endpoint.place());
            lines.push(match endpoint.proof() {
                Proof::Good(far, _) => {
                    format!("embeds by {place}: its vectors of {n} probes are within {far:.1e}")
                }
                Proof::Bad(_, words, _) => format!("warning: embeds by {place}, but {words}"),
                Proof::None => format!("embeds by {place}"),
            });
        }
        match &config.role {
            RoleConfig::Device { local, edge, not_text, shadow } => {
                let name = &brain.models()[0];
                lines.push(format!("accepts for {name} at {}", local.address.base));
                lines.push(format!("defers to the edge at {}", edge.0.base));
                let place = match not_text {
                    NotText::Edge => "edge",
                    NotText::Device => "device",
                };
                lines.push(format!("requests that text does not decide go to the {place}"));
                lines.extend(shadow.map(|s| {
                    format!("sends {} of the routed requests to the other place too", s.probability)
                }));
            }
            RoleConfig::Edge { models, .. } => {
                for m in models {
                    let routed = brain.models()[1..].contains(&m.address.name);
                    let how = if routed { "routed, or by name" } else { "by name only" };
                    lines.push(format!("{} at {}: {how}", m.address.name, m.address.base));
                }
            }
        }
        lines.extend(Promise::check(config, &brain)?);
        lines.extend(Meter::check(config, &trust)?);
        Tracer::start(config, &trust, &Labelled::default())?;
        lines.extend(config.traces.iter().map(|traces| {
            format!(
                "sends spans of {} of the traces that begin here to {}",
                traces.ratio, traces.base
            )
        }));
        lines.extend(Self::warnings(config).into_iter().map(|words| format!("warning: {words}")));
        Ok(lines.join("\n"))
    }

    /// What holds together and should not be.
    pub fn warnings(config: &Config) -> Vec<String> {
        let all: Vec<&Address> = match &config.role {
            RoleConfig::Device { local, edge, .. } => vec![&local.address, &edge.0],
            RoleConfig::Edge { models, .. } => models.iter().map(|m| &m.address).collect(),
        };
        let elsewhere = Meter::warning(config);
        let encoder = config.router.encoder.endpoint().map(|e| &e.address);
        let meter = config.energy.as_ref().and_then(|e| e.source.address());
        let all = all.into_iter().chain(encoder).chain(meter);
        let open = all.filter(|a| a.token.is_some() && a.is_open());
        let words =
            |a: &Address| format!("the token for {} goes unencrypted to {}", a.name, a.base);
        let texts =
            config.log.as_ref().filter(|log| log.texts).map(|log| {
                format!("log.texts: prompts are written to {}", log.path.value.display())
            });
        open.map(words).chain(elsewhere).chain(texts).collect()
    }
}
