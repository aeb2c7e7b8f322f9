//! Where joules are read.
//!
//! In: the section `[energy]`. Out: an [`EnergyConfig`], or the line that is wrong.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::check::Checker;
use super::tokens::Token;
use super::traces::TracesFile;
use super::{Config, ConfigError};
use crate::upstream::Address;

/// Measured joules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyFile {
    /// Linux' powercap tree, where the models run on this host.
    pub powercap: Option<Spanned<PathBuf>>,
    /// The profiler's meter agent on the host that the models run on.
    pub agent: Option<Spanned<String>>,
    /// Environment variable with the agent's token.
    pub token_env: Option<Spanned<String>>,
    /// Subtracted from what is counted, W.
    pub idle_w: Option<Spanned<f64>>,
    /// An edge's models that run on that host; all by default.
    pub models: Option<Spanned<Vec<String>>>,
    /// Between readings that no request asks for, ms.
    #[serde(default = "every_ms")]
    pub every_ms: Spanned<i64>,
    /// Most of a request's span by which readings may miss its start and end.
    #[serde(default = "tolerance")]
    pub tolerance: Spanned<f64>,
}

fn every_ms() -> Spanned<i64> {
    Spanned::new(0..0, 1_000)
}

fn tolerance() -> Spanned<f64> {
    Spanned::new(0..0, 0.05)
}

/// More than a machine draws without requests, W.
const MAX_W: f64 = 100_000.0;

/// What has counters.
#[derive(Clone, Debug)]
pub enum EnergySource {
    /// A powercap tree.
    Powercap(PathBuf),
    /// An agent.
    Agent(Address),
}

impl EnergySource {
    /// The agent's, where there is one.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Powercap(_) => None,
            Self::Agent(address) => Some(address),
        }
    }

    /// The setting that names it.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Powercap(_) => "energy.powercap",
            Self::Agent(_) => "energy.agent",
        }
    }
}

/// Measured joules.
#[derive(Clone, Debug)]
pub struct EnergyConfig {
    /// What is read.
    pub source: EnergySource,
    /// Subtracted, W.
    pub idle_w: Option<f64>,
    /// Between readings that no request asks for.
    pub every: Duration,
    /// Most of a span by which readings may miss its ends.
    pub tolerance: f64,
    /// Names of the upstreams that run on the machine.
    pub covers: Vec<String>,
    /// The line of what is read.
    pub line: usize,
}

impl Checker<'_> {
    /// What the agent is shown.
    pub(super) fn energy_token(
        &self,
        file: Option<&EnergyFile>,
    ) -> Result<Option<Token>, ConfigError> {
        self.shown("energy.token_env", file.and_then(|f| f.token_env.as_ref()))
    }

    /// With the sections of what watches requests; `models` are an edge's.
    pub(super) fn sensed(
        &self,
        config: Config,
        (energy, traces): (Option<EnergyFile>, Option<TracesFile>),
        models: Option<Vec<String>>,
    ) -> Result<Config, ConfigError> {
        let energy = energy.map(|file| self.energy(&file, models)).transpose()?;
        let traces = traces.map(|file| self.traces(&file)).transpose()?;
        Ok(Config { energy, traces, ..config })
    }

    fn energy(
        &self,
        file: &EnergyFile,
        models: Option<Vec<String>>,
    ) -> Result<EnergyConfig, ConfigError> {
        let token = self.bearer("energy.token_env", file.token_env.as_ref())?;
        let (source, line) = match (&file.powercap, &file.agent) {
            (Some(root), None) => {
                if let Some(name) = &file.token_env {
                    let expected = "energy.agent beside it, whose token it is";
                    return Err(self.wrong(name, "energy.token_env", expected, &"none"));
                }
                (EnergySource::Powercap(self.near(root).value), self.line(root))
            }
            (None, Some(url)) => {
                let base = self.base("energy.agent", url)?;
                let address = Address { name: "meter".into(), base, token };
                (EnergySource::Agent(address), self.line(url))
            }
            (Some(root), Some(_)) => {
                let expected = "either this or energy.agent";
                return Err(self.wrong(root, "energy.powercap", expected, &"both"));
            }
            (None, None) => {
                let words = "energy: expected powercap = \"/sys/class/powercap\" or agent = \"http://HOST:PORT\", got neither";
                let at = self.text.find("[energy").map(|at| super::check::line(self.text, at));
                return Err(self.error(at, words.into()));
            }
        };
        let idle_w = file.idle_w.as_ref();
        Ok(EnergyConfig {
            source,
            idle_w: idle_w.map(|x| self.real("energy.idle_w", x, 0.001..=MAX_W)).transpose()?,
            every: self.ms("energy.every_ms", &file.every_ms)?,
            tolerance: self.real("energy.tolerance", &file.tolerance, 0.0001..=1.0)?,
            covers: self.covered(file, models)?,
            line,
        })
    }

    fn covered(
        &self,
        file: &EnergyFile,
        models: Option<Vec<String>>,
    ) -> Result<Vec<String>, ConfigError> {
        match (&file.models, models) {
            (None, None) => Ok(vec!["device".into()]),
            (None, Some(all)) => Ok(all),
            (Some(named), None) => {
                let expected = "no such setting: a device measures its one model";
                Err(self.wrong(named, "energy.models", expected, &"one"))
            }
            (Some(named), Some(all)) => {
                let expected = "some of the names in [[models]]";
                let wrong = |got: &str| Err(self.wrong(named, "energy.models", expected, &got));
                match named.get_ref().iter().find(|name| !all.contains(name)) {
                    Some(other) => wrong(other),
                    None if named.get_ref().is_empty() => wrong("none"),
                    None => Ok(named.get_ref().clone()),
                }
            }
        }
    }
}
