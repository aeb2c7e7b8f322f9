//! One request's record, from its arrival to the end of its answer.
//!
//! In: what is found out on the way. Out: one line of the decision log and one count of the metrics,
//! whichever way the request ends: a client that goes away drops it, and that is what it says.

use std::sync::Arc;

use cr2fast_core::Budget;
use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::brain::{Brain, Estimate};
use crate::context::Context;
use crate::energy::{Meter, Presence};
use crate::job::Job;
use crate::link::Measured;
use crate::log::{BudgetRecord, Line, Log, Record, SCHEMA, now};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::spans::{Span, Tracer};
use crate::stop::Stop;
use crate::upstream::{Failure, Question, Usage};
use crate::wire::{Place, Why};

/// The status of what a stop leaves unanswered.
pub const STOPPED: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// What an answer says of itself.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where it is made.
    pub place: Place,
    /// By which model.
    pub model: String,
    /// Why there.
    pub why: Why,
    /// Δ̂ and τ.
    pub margin: Option<(f32, f32)>,
    /// What the model was expected to take.
    pub estimate: Option<Estimate>,
}

/// A request under way.
#[derive(Debug)]
pub struct Trace {
    /// What the log will say.
    pub record: Record,
    /// The trace that whoever is asked is told of.
    context: Option<Context>,
    /// Its own, and that of the upstream that is asked.
    span: Option<Span>,
    attempt: Option<Span>,
    start: Instant,
    log: Arc<Log>,
    metrics: Arc<Metrics>,
    /// Whether the gateway ends.
    pub stop: Stop,
    /// Whose prices the counted tokens have.
    priced: Option<(Arc<Brain>, usize)>,
    /// Whether the log has a line of it: the device tells of a shadow.
    logged: bool,
    /// Among the requests whose joules are measured, where they are.
    presence: Option<Presence>,
    meter: Option<Arc<Meter>>,
    /// Dropped with the trace: whoever waits for the answer's end.
    waiting: Option<oneshot::Sender<()>>,
    /// One of the requests at once; free when the answer has ended.
    _permit: OwnedSemaphorePermit,
}

impl Trace {
    /// From a request's arrival.
    pub fn start(
        job: &Job,
        start: Instant,
        (log, metrics, stop): (&Arc<Log>, &Arc<Metrics>, &Stop),
        (meter, tracer): (Option<&Arc<Meter>>, Option<&Tracer>),
        permit: OwnedSemaphorePermit,
    ) -> Self {
        metrics.in_flight.inc();
        let Budget { latency_s, energy_j, usd } = job.wish.budget();
        let limited = !job.wish.budget().is_none();
        let span = tracer.map(|tracer| tracer.request(job));
        let context = span.as_ref().map(Span::context).or_else(|| job.context.clone());
        let record = Record {
            schema: SCHEMA,
            kind: "request",
            id: job.id.clone(),
            ts: now(),
            endpoint: job.kind.word(),
            stream: job.ask.stream,
            lam: job.point.map(|p| p.lam),
            alpha: job.point.map(|p| p.alpha),
            group: job.wish.group.clone(),
            budget: limited.then_some(BudgetRecord { latency_s, energy_j, usd }),
            outcome: "cancelled",
            router: job.brain.hash().into(),
            propensity: 1.0,
            trace: context.as_ref().map(Context::trace_hex),
            text: log.text(job.ask.texts.embedded.as_deref()),
            ..Record::default()
        };
        let (log, metrics, stop) = (Arc::clone(log), Arc::clone(metrics), stop.clone());
        let logged = job.deferral.as_ref().is_none_or(|d| d.why != Why::Shadow);
        let presence = meter.map(|meter| meter.enter(job.read));
        Self {
            record,
            context,
            span,
            attempt: None,
            start,
            log,
            metrics,
            stop,
            priced: None,
            logged,
            presence,
            meter: meter.cloned(),
            waiting: None,
            _permit: permit,
        }
    }

    /// What is known before anybody is asked.
    pub fn planned(&mut self, input_tokens: u64, brain: &Brain, measured: Measured) {
        self.record.n_input_tokens_estimated = Some(input_tokens);
        self.record.link = Some(brain.told_link(measured));
        self.record.link_measured = measured.names();
    }

    /// What ends with the answer, the log that tells of both, and the meter that counts both.
    pub fn at_end(&mut self) -> (oneshot::Receiver<()>, Arc<Log>, Option<Arc<Meter>>) {
        let (sender, receiver) = oneshot::channel();
        self.waiting = Some(sender);
        (receiver, Arc::clone(&self.log), self.meter.clone())
    }

    /// Refused after its reading.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.ended("refused");
        self.record.status = refusal.status.as_u16();
    }

    /// Seconds since the request's arrival.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// The decision is made while what this gives is kept.
    pub fn decides(&self) -> Option<Span> {
        self.span.as_ref().map(Span::decides)
    }

    /// An upstream is asked: tell it of the trace.
    pub fn asks(&mut self, upstream: &str, question: &mut Question) {
        self.attempt = self.span.as_ref().map(|span| span.tries(upstream, &self.record));
        let attempt = self.attempt.as_ref().map(Span::context);
        if let Some(context) = attempt.as_ref().or(self.context.as_ref()) {
            context.write(&mut question.headers);
        }
        if let Some(presence) = &mut self.presence {
            presence.asks(upstream);
        }
    }

    /// A try of an upstream failed.
    pub fn failed(&mut self, upstream: &str, failure: &Failure) {
        self.metrics.failure(upstream, failure.word());
        if let Some(attempt) = self.attempt.take() {
            attempt.failed(failure.word());
        }
        if let (Failure::Open(_), Some(presence)) = (failure, &mut self.presence) {
            presence.left_alone();
        }
        self.record.failed.push((upstream.into(), failure.word()));
    }

    /// Why the encoder's endpoint gave no embedding, where it gave none.
    pub fn unembedded(&mut self, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            self.failed("encoder", failure);
        }
    }

    /// An upstream has shown content.
    pub fn answering(&mut self, brain: &Arc<Brain>, label: &Label, status: StatusCode) {
        let seconds = self.seconds();
        let r = &mut self.record;
        r.ttft_s = Some(seconds);
        r.place = Some(label.place.word());
        r.model = Some(label.model.clone());
        r.why = Some(label.why.word());
        r.status = status.as_u16();
        if let Some(e) = label.estimate {
            r.n_output_tokens_estimated = Some(e.output_tokens);
            (r.latency_s_estimated, r.energy_j_estimated, r.usd_estimated) =
                (e.latency_s, e.energy_j, e.usd);
        }
        let model = brain.models().iter().position(|m| *m == label.model);
        self.priced = model.map(|m| (Arc::clone(brain), m));
    }

    /// Token counts as the model reports them.
    pub fn usage(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.record.n_input_tokens = usage.input();
            self.record.n_output_tokens = usage.output();
        }
    }

    /// Ended by a stop, before the answer's content or in the middle of it.
    fn unfinished(&mut self) {
        if self.record.place.is_some() {
            return self.ended("broken");
        }
        self.ended("failed");
        self.record.status = STOPPED.as_u16();
    }

    /// How the answer ended: `answered`, `failed`, `broken`.
    pub fn ended(&mut self, outcome: &'static str) {
        self.record.outcome = outcome;
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.record.total_s = self.seconds();
        // It was not the client that went away.
        if self.record.outcome == "cancelled" && self.stop.has_come() {
            self.unfinished();
        }
        let counted = (self.record.n_input_tokens, self.record.n_output_tokens);
        if let (Some((brain, model)), (Some(input), Some(output))) = (&self.priced, counted) {
            self.record.usd = brain.usd(*model, input, output);
        }
        let r = &self.record;
        let (place, model) = (r.place.unwrap_or("none"), r.model.as_deref().unwrap_or("none"));
        self.metrics.in_flight.dec();
        let answered = (r.outcome == "answered").then_some((r.ttft_s, r.total_s));
        self.metrics.request(place, model, (r.why.unwrap_or("none"), r.outcome), answered);
        for span in [self.attempt.take(), self.span.take()].into_iter().flatten() {
            span.ended(&self.record);
        }
        if self.logged {
            let record = Box::new(std::mem::take(&mut self.record));
            match self.presence.take() {
                Some(presence) => presence.end(record),
                None => self.log.put(Line::Request(record)),
            }
        }
    }
}
