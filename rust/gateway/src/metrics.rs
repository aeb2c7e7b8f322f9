//! What is counted, in the Prometheus text format.
//!
//! In: events. Out: `/metrics`. Labels are words of this crate and names of the configuration, so that
//! no client can make more of them.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::energy::Counts;
use crate::promise::Gauges;

type Labels = Vec<(&'static str, String)>;
/// Of what every request counts: words of this crate are not copied.
type Words<const N: usize> = [(&'static str, Cow<'static, str>); N];
/// Counters by labels.
pub type Labelled = Family<Labels, Counter>;
type Times = Family<Words<2>, Histogram, fn() -> Histogram>;

/// Every metric.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Words<4>, Counter>,
    refusals: Labelled,
    failures: Labelled,
    reloads: Labelled,
    up: Family<Labels, Gauge>,
    queueing: Family<Labels, Gauge<f64, AtomicU64>>,
    first_content: Times,
    total: Times,
    /// Requests in flight.
    pub in_flight: Gauge,
    /// Open connections.
    pub connections: Gauge,
    /// Records of the decision log that were dropped.
    pub log_dropped: Counter,
    /// Spans that never reach a collector, by reason.
    pub spans_dropped: Labelled,
    /// The promise's.
    pub promise: Gauges,
    /// The meter's.
    pub energy: Counts,
}

fn times() -> Histogram {
    // 1 ms to 131 s.
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut m = Self {
            registry: Registry::with_prefix("cr2fast"),
            requests: Family::default(),
            refusals: Family::default(),
            failures: Family::default(),
            reloads: Family::default(),
            up: Family::default(),
            queueing: Family::default(),
            first_content: Family::new_with_constructor(times as fn() -> Histogram),
            total: Family::new_with_constructor(times as fn() -> Histogram),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            log_dropped: Counter::default(),
            spans_dropped: Family::default(),
            promise: Gauges::default(),
            energy: Counts::default(),
        };
        let r = &mut m.registry;
        r.register("requests", "Requests that an upstream was to answer", m.requests.clone());
        r.register("refusals", "Requests refused, by code", m.refusals.clone());
        r.register("upstream_failures", "Failed tries of an upstream", m.failures.clone());
        r.register("reloads", "Reloads of the router, by result", m.reloads.clone());
        r.register("upstream_up", "1 where breaker and health let requests through", m.up.clone());
        r.register("queueing_seconds", "Measured wait before a model", m.queueing.clone());
        r.register("first_content_seconds", "Until the first content", m.first_content.clone());
        r.register("request_seconds", "Until the end of the answer", m.total.clone());
        r.register("requests_in_flight", "Requests in flight", m.in_flight.clone());
        r.register("connections", "Open connections", m.connections.clone());
        r.register("log_dropped", "Decision records not written", m.log_dropped.clone());
        let dropped = m.spans_dropped.clone();
        r.register("spans_dropped", "Spans that reached no collector, by reason", dropped);
        m.promise.register(r);
        m.energy.register(r);
        m
    }
}

impl Metrics {
    /// One request has ended: what it says of itself and, where it was answered, its seconds to the first
    /// content and to the end.
    pub fn request(
        &self,
        place: &'static str,
        model: &str,
        (why, outcome): (&'static str, &'static str),
        answered: Option<(Option<f64>, f64)>,
    ) {
        let (place, model) = (("place", place.into()), ("model", Cow::Owned(model.into())));
        if let Some((first_content_s, total_s)) = answered {
            let labels = [place.clone(), model.clone()];
            if let Some(seconds) = first_content_s {
                self.first_content.get_or_create(&labels).observe(seconds);
            }
            self.total.get_or_create(&labels).observe(total_s);
        }
        let labels = [place, model, ("why", why.into()), ("outcome", outcome.into())];
        self.requests.get_or_create(&labels).inc();
    }

    /// One request was refused.
    pub fn refusal(&self, code: &'static str) {
        self.refusals.get_or_create(&vec![("code", code.to_string())]).inc();
    }

    /// One try of an upstream failed.
    pub fn failure(&self, upstream: &str, what: &'static str) {
        let labels = vec![("upstream", upstream.to_string()), ("failure", what.to_string())];
        self.failures.get_or_create(&labels).inc();
    }

    /// One reload has ended.
    pub fn reload(&self, good: bool) {
        let result = if good { "taken" } else { "refused" };
        self.reloads.get_or_create(&vec![("result", result.to_string())]).inc();
    }

    /// The text, with the upstreams' state of now.
    pub fn text<'a>(
        &self,
        up: impl Iterator<Item = (&'a str, bool)>,
        waits: &[(&str, f64)],
    ) -> String {
        for (name, seconds) in waits {
            self.queueing.get_or_create(&vec![("model", (*name).to_string())]).set(*seconds);
        }
        for (name, is_up) in up {
            let labels = vec![("upstream", name.to_string())];
            self.up.get_or_create(&labels).set(i64::from(is_up));
        }
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}
