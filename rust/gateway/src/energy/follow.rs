//! The meter's thread: readings when a request asks for them, and at an interval.
//!
//! In: starts and ends of lone requests. Out: their lines of the log, with the joules between.

use tokio::sync::mpsc::Receiver;
use tokio::time::{MissedTickBehavior, interval};

use super::source::Source;
use super::tally::{Reading, Rule, Tally};
use super::{Counts, Message};
use crate::config::EnergyConfig;
use crate::log::{Line, Log};

/// What the meter's thread does.
pub struct Follow {
    source: Source,
    tally: Tally,
    counts: Counts,
    /// Whether the last reading went wrong.
    trouble: bool,
}

impl Follow {
    /// Of counters that have just been opened.
    pub fn new(source: Source, counts: Counts) -> Self {
        let tally = Tally::new(source.domains().to_vec());
        Self { source, tally, counts, trouble: false }
    }

    /// Until nobody sends any more.
    pub async fn run(mut self, mut messages: Receiver<Message>, config: &EnergyConfig, log: &Log) {
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
