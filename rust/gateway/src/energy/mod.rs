//! Measured joules: what a machine's counters moved by while a request was the only one in flight.
//!
//! In: the start and the end of each request. Out: its line of the decision log, with the joules or, where
//! they cannot be told apart from another request's, without; a metric says why. The counters are read
//! on a thread of their own, at a lone request's start and end and at an interval between: a request
//! hands over a message and waits for nothing, whether a reading takes microseconds, as a file of sysfs
//! does, or milliseconds, as an agent on the network. A line that awaits its last reading reaches the
//! log from there.

mod agent;
mod powercap;
mod tally;

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::{Config, ConfigError, EnergyConfig, EnergySource, ModelConfig, RoleConfig};
use crate::log::{Line, Log, Record};
use crate::tls::Trust;
use crate::upstream::Address;

use agent::Agent;
use powercap::Zones;
use tally::{Domain, Reading, Rule, Sample, Tally};

/// Readings that may wait: more than a few are too late to be of use.
const WAITING: usize = 64;
/// How often counters are read within the time in which they wrap.
const READS_PER_WRAP: f64 = 4.0;

type Labels = Vec<(&'static str, &'static str)>;

/// What is counted of the meter itself.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    readings: Family<Labels, Counter>,
    unmeasured: Family<Labels, Counter>,
}

impl Counts {
    /// Under their names.
    pub fn register(&self, r: &mut Registry) {
        let help = "Readings of the energy counters, by result";
        r.register("energy_readings", help, self.readings.clone());
        let help = "Answered requests without measured joules, by reason";
        r.register("energy_unmeasured", help, self.unmeasured.clone());
    }

    fn read(&self, result: &'static str) {
        self.readings.get_or_create(&vec![("result", result)]).inc();
    }

    fn without(&self, reason: &'static str) {
        self.unmeasured.get_or_create(&vec![("reason", reason)]).inc();
    }
}

/// Whatever has counters.
#[derive(Debug)]
enum Source {
    Zones(Zones),
    Agent(Box<Agent>),
}

impl Source {
    /// Open it, or the words of why it cannot be read.
    async fn open(config: &EnergyConfig, trust: &Trust) -> Result<Self, String> {
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

    fn domains(&self) -> &[Domain] {
        match self {
            Self::Zones(zones) => zones.domains(),
            Self::Agent(agent) => agent.domains(),
        }
    }

    async fn sample(&mut self) -> Result<Sample, String> {
        match self {
            Self::Zones(zones) => zones.sample(),
            Self::Agent(agent) => agent.sample().await,
        }
    }
}

/// What the meter's thread is told.
#[derive(Debug)]
enum Message {
    /// A request has begun, alone.
    Start(u64),
    /// It has ended, and was alone all the time.
    End(u64, (Instant, Instant), Box<Record>),
}

/// Requests at this place.
#[derive(Debug, Default)]
struct Busy {
    in_flight: usize,
    /// How many have begun since the start: the number of the last one.
    begun: u64,
}

/// The meter.
#[derive(Debug)]
pub struct Meter {
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    busy: Mutex<Busy>,
    /// Upstreams that run on the machine whose counters are read.
    covers: Vec<String>,
    log: Arc<Log>,
    counts: Counts,
}

/// One request among those in flight.
#[derive(Debug)]
pub struct Presence {
    meter: Arc<Meter>,
    number: u64,
    start: Instant,
    /// Whether nobody else was there when it came.
    alone: bool,
    /// Whether an upstream was asked, and whether one on another machine.
    asked: (bool, bool),
    gone: bool,
}

/// Run to its end on a thread of its own, for this one may serve.
fn aside<T: Send>(work: impl Future<Output = Result<T, String>> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let run = || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.map_err(|e| e.to_string())?.block_on(work)
        };
        scope.spawn(run).join().unwrap_or_else(|_| Err("a panic".into()))
    })
}

impl Meter {
    /// From the configuration; none without `[energy]`. Counters that cannot be read are an error.
    pub fn start(
        config: &Config,
        trust: &Trust,
        log: &Arc<Log>,
        counts: &Counts,
    ) -> Result<Option<Arc<Self>>, ConfigError> {
        let Some(settings) = &config.energy else { return Ok(None) };
        let (sender, messages) = channel(WAITING);
        let (opened, open) = std::sync::mpsc::channel();
        let (own, own_trust) = (settings.clone(), trust.clone());
        let (own_log, own_counts) = (Arc::clone(log), counts.clone());
        // What is asked by a connection lives as long as the runtime that made it.
        let run = move || {
            let work = async {
                let found = Source::open(&own, &own_trust).await;
                let (source, found) = match found {
                    Ok(source) => (Some(source), Ok(())),
                    Err(words) => (None, Err(words)),
                };
                let _ = opened.send(found);
                if let Some(source) = source {
                    let tally = Tally::new(source.domains().to_vec());
                    let follow = Follow { source, tally, counts: own_counts, trouble: false };
                    follow.run(messages, &own, &own_log).await;
                }
            };
            match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(work),
                Err(e) => drop(opened.send(Err(e.to_string()))),
            }
        };
        let thread = std::thread::Builder::new().name("energy-meter".into()).spawn(run);
        let thread = thread.map_err(|e| wrong(config, settings, &e))?;
        let found = open.recv().unwrap_or_else(|_| Err("a panic".into()));
        found.map_err(|words| wrong(config, settings, &words))?;
        Ok(Some(Arc::new(Self {
            sender: Some(sender),
            thread: Some(thread),
            busy: Mutex::default(),
            covers: settings.covers.clone(),
            log: Arc::clone(log),
            counts: counts.clone(),
        })))
    }

    /// What it would count, in words, or the error that [`Meter::start`] would give.
    pub fn check(config: &Config, trust: &Trust) -> Result<Option<String>, ConfigError> {
        let Some(settings) = &config.energy else { return Ok(None) };
        let source = aside(Source::open(settings, trust));
        let source = source.map_err(|words| wrong(config, settings, &words))?;
        let names: Vec<&str> = source.domains().iter().map(|d| d.name.as_str()).collect();
        let idle = settings.idle_w.map_or(String::new(), |w| format!(", less {w} W"));
        Ok(Some(format!(
            "measures joules of {} by {}{idle}",
            settings.covers.join(", "),
            names.join(", ")
        )))
    }

    /// What its counters may not see: a model behind a server that is not on this host.
    pub fn warning(config: &Config) -> Option<String> {
        let settings = config.energy.as_ref()?;
        let models = match &config.role {
            RoleConfig::Device { local, .. } => std::slice::from_ref(local.as_ref()),
            RoleConfig::Edge { models, .. } => models,
        };
        let counted = |m: &&ModelConfig| settings.covers.contains(&m.address.name);
        let far = models.iter().filter(counted).find(|m| !m.address.is_here());
        let Address { name, base, .. } =
            &far.filter(|_| settings.source.address().is_none())?.address;
        Some(format!(
            "energy.powercap counts this host, and {name} is at {base}: if that is another host, name its meter in energy.agent, or leave {name} out of energy.models"
        ))
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    pub fn enter(self: &Arc<Self>, start: Instant) -> Presence {
        let (number, alone) = {
            let mut busy = self.busy();
            busy.in_flight += 1;
            busy.begun += 1;
            (busy.begun, busy.in_flight == 1)
        };
        if alone && let Some(sender) = &self.sender {
            // Without room the reading would be too late: the end finds none.
            let _ = sender.try_send(Message::Start(number));
        }
        Presence {
            meter: Arc::clone(self),
            number,
            start,
            alone,
            asked: (false, false),
            gone: false,
        }
    }
}

impl Drop for Meter {
    /// What waits gets its reading and its line.
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Presence {
    /// An upstream is asked.
    pub fn asks(&mut self, upstream: &str) {
        self.asked.0 = true;
        self.asked.1 |= !self.meter.covers.iter().any(|name| name == upstream);
    }

    /// The request has ended: hand its line to the log, with the joules where there are any.
    pub fn end(mut self, mut record: Box<Record>) {
        let end = Instant::now();
        let alone = self.leave();
        let meter = &self.meter;
        let reason = match self.asked {
            // Refused: nobody has worked.
            (false, _) => return meter.log.put(Line::Request(record)),
            (_, true) => "elsewhere",
            _ if !alone => "shared",
            _ => {
                let message = Message::End(self.number, (self.start, end), record);
                let sent = match &meter.sender {
                    Some(sender) => sender.try_send(message),
                    None => Err(TrySendError::Closed(message)),
                };
                let Err(TrySendError::Full(message) | TrySendError::Closed(message)) = sent else {
                    return;
                };
                let Message::End(.., back) = message else { return };
                record = back;
                "inexact"
            }
        };
        meter.counts.without(reason);
        meter.log.put(Line::Request(record));
    }

    /// Whether it was alone from its start to now.
    fn leave(&mut self) -> bool {
        self.gone = true;
        let mut busy = self.meter.busy();
        busy.in_flight -= 1;
        self.alone && busy.begun == self.number
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if !self.gone {
            self.leave();
        }
    }
}

/// What the meter's thread does.
struct Follow {
    source: Source,
    tally: Tally,
    counts: Counts,
    /// Whether the last reading went wrong.
    trouble: bool,
}

impl Follow {
    async fn run(mut self, mut messages: Receiver<Message>, config: &EnergyConfig, log: &Log) {
        let rule = Rule { tolerance: config.tolerance, idle_w: config.idle_w };
        let mut ticks = interval(config.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first: Option<(u64, Reading)> = None;
        loop {
            let message = tokio::select! {
                biased;
                message = messages.recv() => message,
                _ = ticks.tick() => {
                    self.read().await;
                    continue;
                }
            };
            match message {
                None => return,
                Some(Message::Start(number)) => {
                    first = self.read().await.map(|reading| (number, reading));
                }
                Some(Message::End(number, (start, end), mut record)) => {
                    let last = self.read().await;
                    let first = first.filter(|(n, _)| *n == number).map(|(_, reading)| reading);
                    let joules = match (first, last) {
                        (Some(first), Some(last)) => rule.joules((first, start), (last, end)),
                        _ => Err("lost"),
                    };
                    match joules {
                        Ok(joules) => {
                            record.energy_j_measured = Some(joules);
                            record.energy_idle_w = config.idle_w;
                        }
                        Err(reason) => self.counts.without(reason),
                    }
                    log.put(Line::Request(record));
                }
            }
        }
    }

    /// Read the counters; what is wrong with them is said once.
    async fn read(&mut self) -> Option<Reading> {
        let (reading, words) = match self.source.sample().await {
            Ok(sample) => {
                let (reading, broken) = self.tally.take(sample);
                (Some(reading), broken)
            }
            Err(words) => {
                self.tally.lost();
                (None, Some(words))
            }
        };
        self.counts.read(match (&reading, &words) {
            (None, _) => "failed",
            (Some(_), Some(_)) => "reset",
            (Some(_), None) => "good",
        });
        match &words {
            Some(words) if !self.trouble => {
                crate::say(&format!("energy: requests of now have no measured joules: {words}"));
            }
            None if self.trouble => crate::say("energy: the counters are well again"),
            _ => {}
        }
        self.trouble = words.is_some();
        reading
    }
}

fn wrong(config: &Config, settings: &EnergyConfig, words: &dyn Display) -> ConfigError {
    let key = settings.source.key();
    let message = format!("{key}: expected energy counters that can be read, got: {words}");
    ConfigError { path: config.path.clone(), line: Some(settings.line), message }
}
