//! Measured joules: what a machine's counters moved by while a request was the only one in flight.
//!
//! In: the start and the end of each request. Out: its line of the decision log, with the joules or, where
//! they cannot be told apart from another request's, without; a metric says why. The counters are read
//! on a thread of their own, at a lone request's start and end and at an interval between: a request
//! hands over a message and waits for nothing, whether a reading takes microseconds, as a file of sysfs
//! does, or milliseconds, as an agent on the network. A line that awaits its last reading reaches the
//! log from there.

mod agent;
mod counts;
mod follow;
mod powercap;
mod source;
mod tally;

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{Sender, channel, error::TrySendError};
use tokio::time::Instant;

use crate::config::{Config, ConfigError, EnergyConfig, ModelConfig, RoleConfig};
use crate::log::{Line, Log, Record};
use crate::tls::Trust;
use crate::upstream::Address;

pub use counts::Counts;
use follow::Follow;
use source::Source;

/// Readings that may wait: more than a few are too late to be of use.
const WAITING: usize = 64;

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
    /// The same before the last one.
    before: (bool, bool),
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
                    Follow::new(source, own_counts).run(messages, &own, &own_log).await;
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
            before: (false, false),
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
        self.before = self.asked;
        self.asked.0 = true;
        self.asked.1 |= !self.meter.covers.iter().any(|name| name == upstream);
    }

    /// The last upstream was left alone, as it keeps failing.
    pub fn left_alone(&mut self) {
        self.asked = self.before;
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

fn wrong(config: &Config, settings: &EnergyConfig, words: &dyn Display) -> ConfigError {
    let key = settings.source.key();
    let message = format!("{key}: expected energy counters that can be read, got: {words}");
    ConfigError { path: config.path.clone(), line: Some(settings.line), message }
}
