//! Where counters are: this host's, or an agent's.

use super::agent::Agent;
use super::powercap::Zones;
use super::tally::{Domain, Sample};
use crate::config::{EnergyConfig, EnergySource};
use crate::tls::Trust;

/// How often counters are read within the time in which they wrap.
const READS_PER_WRAP: f64 = 4.0;

/// Whatever has counters.
#[derive(Debug)]
pub enum Source {
    /// This host's.
    Zones(Zones),
    /// Those of an agent's host.
    Agent(Box<Agent>),
}

impl Source {
    /// Open it, or the words of why it cannot be read.
    pub async fn open(config: &EnergyConfig, trust: &Trust) -> Result<Self, String> {
        let source = match &config.source {
            EnergySource::Powercap(root) => Self::Zones(Zones::open(root)?),
            EnergySource::Agent(address) => {
                Self::Agent(Box::new(Agent::open(address, trust).await?))
            }
        };
        let every_s = config.every.as_secs_f64();
        let late =
            |d: &&Domain| d.range_j.is_some_and(|range| every_s > range / d.max_w / READS_PER_WRAP);
        match source.domains().iter().find(late) {
            None => Ok(source),
            Some(Domain { name, range_j, max_w }) => Err(format!(
                "{name} wraps at {:.0} J, which {max_w} W reach within {:.0} s; set energy.every_ms to a quarter of that at most",
                range_j.unwrap_or_default(),
                range_j.unwrap_or_default() / max_w
            )),
        }
    }

    /// What is counted.
    pub fn domains(&self) -> &[Domain] {
        match self {
            Self::Zones(zones) => zones.domains(),
            Self::Agent(agent) => agent.domains(),
        }
    }

    /// Read them.
    pub async fn sample(&mut self) -> Result<Sample, String> {
        match self {
            Self::Zones(zones) => zones.sample(),
            Self::Agent(agent) => agent.sample().await,
        }
    }
}
