//! One request's record, from its arrival to the end of its answer.
//!
//! In: what is found out on the way. Out: one line of the decision log and one count of the metrics,
//! whichever way the request ends: a client that goes away drops it, and that is what it says.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::log::{Log, Record, SCHEMA};
use crate::metrics::Metrics;
use crate::upstream::{Failure, Usage};
use crate::wire::{Place, Why};

/// A request under way.
#[derive(Debug)]
pub struct Trace {
    /// What the log will say.
    pub record: Record,
    start: Instant,
    log: Arc<Log>,
    metrics: Arc<Metrics>,
    /// One of the requests at once; free when the answer has ended.
    _permit: OwnedSemaphorePermit,
}

impl Trace {
    /// From a request's arrival.
    pub fn start(
        id: &str,
        router: &str,
        start: Instant,
        (log, metrics): (&Arc<Log>, &Arc<Metrics>),
        permit: OwnedSemaphorePermit,
    ) -> Self {
        metrics.in_flight.inc();
        let record = Record {
            schema: SCHEMA,
            id: id.into(),
            ts: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            outcome: "cancelled",
            router: router.into(),
            propensity: 1.0,
            ..Record::default()
        };
        let (log, metrics) = (Arc::clone(log), Arc::clone(metrics));
        Self { record, start, log, metrics, _permit: permit }
    }

    /// Seconds since the request's arrival.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A try of an upstream failed.
    pub fn failed(&mut self, upstream: &str, failure: &Failure) {
        self.metrics.failure(upstream, failure.word());
        self.record.failed.push((upstream.into(), failure.word()));
    }

    /// An upstream has shown content.
    pub fn answering(&mut self, place: Place, model: &str, why: Why, status: StatusCode) {
        self.record.ttft_s = Some(self.seconds());
        self.record.place = Some(place.word());
        self.record.model = Some(model.into());
        self.record.why = Some(why.word());
        self.record.status = status.as_u16();
    }

    /// Token counts as the model reports them.
    pub fn usage(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.record.n_input_tokens = usage.prompt_tokens;
            self.record.n_output_tokens = usage.completion_tokens;
        }
    }

    /// How the answer ended: `answered`, `failed`, `broken`.
    pub fn ended(&mut self, outcome: &'static str) {
        self.record.outcome = outcome;
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.record.total_s = self.seconds();
        let r = &self.record;
        let (place, model) = (r.place.unwrap_or("none"), r.model.as_deref().unwrap_or("none"));
        self.metrics.in_flight.dec();
        self.metrics.request([
            ("place", place.into()),
            ("model", model.into()),
            ("why", r.why.unwrap_or("none").into()),
            ("outcome", r.outcome.into()),
        ]);
        if r.outcome == "answered" {
            self.metrics.times(place, model, r.ttft_s, r.total_s);
        }
        self.log.put(std::mem::take(&mut self.record));
    }
}
