//! The thread that labels decisions, and keeps what was counted.
//!
//! In: decisions. Out: labels in their points, alarms on stderr and in the decision log, and the state in
//! its file.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::point::{Label, Raised, Rules};
use super::queue::Work;
use super::{Decided, Gauges, Kept, state};
use crate::log::{AlarmRecord, Line, Log, SCHEMA, now};

/// Write the state; what goes wrong is counted and said.
pub fn save(path: &Path, kept: &Kept, gauges: &Gauges) -> bool {
    let saved = state::save(path, &kept.text());
    if let Err(e) = &saved {
        gauges.save_failures.inc();
        crate::say(&format!("promise.state: expected to write {}, got: {e}", path.display()));
    }
    saved.is_ok()
}

/// Where the state is written, and how often.
pub struct Saver {
    pub path: Option<PathBuf>,
    pub every: Duration,
    pub kept: Arc<RwLock<Arc<Kept>>>,
}

/// What labels.
pub struct Worker {
    pub rules: Rules,
    pub saver: Saver,
    pub log: Arc<Log>,
    pub gauges: Gauges,
    /// Whether it was said that requests cannot be labelled.
    pub failed: bool,
}

impl Worker {
    /// Until the gateway stops.
    pub fn run(mut self, work: &Receiver<Work>) {
        let mut due = Instant::now() + self.saver.every;
        let mut unsaved = false;
        loop {
            match work.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Work::Label(decided, _room)) => {
                    unsaved = true;
                    // An alarm outlives whatever comes next.
                    if self.label(*decided) {
                        due = Instant::now();
                    }
                }
                Ok(Work::Flush(done)) => {
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Work::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    if unsaved {
                        self.save();
                    }
                    return;
                }
            }
            if Instant::now() >= due {
                if unsaved {
                    unsaved = !self.save();
                }
                due = Instant::now() + self.saver.every;
            }
        }
    }

    fn save(&self) -> bool {
        let Some(path) = &self.saver.path else { return true };
        let kept = self.saver.kept.read().unwrap_or_else(PoisonError::into_inner);
        save(path, &kept, &self.gauges)
    }

    /// Count a decision; whether it raised an alarm.
    fn label(&mut self, d: Decided) -> bool {
        let (margin, threshold) = d.margin;
        let place = &d.point.place;
        let prefers = d.judge.prefers_edge(
            place.lam,
            (&d.embedding, d.input_tokens),
            d.measured,
            seed(&d.id),
        );
        // An atypical query is deferred whatever its margin: no threshold accepts it falsely.
        let may = d.local || !cr2fast_core::accepts(margin, threshold);
        let updated = prefers.and_then(|r| {
            let label = Label { margin, threshold, prefers_edge: r && may };
            d.point.update(label, &self.rules, now)
        });
        match updated {
            Ok(None) => false,
            Ok(Some(raised)) => {
                self.tell(&d, &raised);
                true
            }
            Err(e) => {
                self.gauges.dropped.inc();
                if !self.failed {
                    self.failed = true;
                    let words: String = e.to_string().chars().take(300).collect();
                    crate::say(&format!("a request could not be labelled: {words}"));
                }
                false
            }
        }
    }

    fn tell(&self, d: &Decided, raised: &Raised) {
        let place = &d.point.place;
        let of = place.group.as_ref().map_or(String::new(), |g| format!(", group {g:?}"));
        crate::say(&format!(
            "ALARM at λ = {}, α = {}{of}: {:.2} % of {} requests were accepted although the teacher prefers an edge model; on_alarm = {:?}",
            place.lam,
            place.alpha,
            100.0 * raised.risk,
            raised.n,
            self.rules.on_alarm.word(),
        ));
        self.log.put(Line::Alarm(Box::new(AlarmRecord {
            schema: SCHEMA,
            kind: "alarm",
            id: d.id.clone(),
            ts: now(),
            lam: place.lam,
            alpha: place.alpha,
            group: place.group.clone(),
            delta: self.rules.delta,
            n: raised.n,
            risk: raised.risk,
            log_wealth: raised.log_wealth,
            on_alarm: self.rules.on_alarm.word(),
            threshold: Some(raised.threshold),
            router: d.judge.router().into(),
        })));
    }
}

/// A request's own seed, of what is drawn of its link.
fn seed(id: &str) -> u64 {
    let hash = Sha256::digest(id);
    u64::from_le_bytes(*hash.first_chunk().expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_requests_seed_is_what_python_makes_of_its_id() {
        // int.from_bytes(hashlib.sha256(b"4f0c2a").digest()[:8], "little")
        assert_eq!(super::seed("4f0c2a"), SEED);
    }

    const SEED: u64 = 18_007_214_084_829_457_693;
}
