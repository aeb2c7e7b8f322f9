//! The promise in `/metrics`.
//!
//! In: what is counted. Out: gauges by point. Labels are points of the router's grid and its groups.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Kept;

type Of = Family<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>>;

/// Every metric of the promise.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    log_wealth: Of,
    risk: Of,
    labels: Of,
    alarms: Of,
    since: Of,
    threshold: Of,
    rolling_risk: Of,
    /// Decisions that were not labelled: the queue was full, or their label failed.
    pub dropped: Counter,
    /// Times that the state could not be written.
    pub save_failures: Counter,
}

impl Gauges {
    /// Under their names.
    pub fn register(&self, r: &mut Registry) {
        for (name, help, of) in [
            ("promise_log_wealth", "ln W of the alarm, raised at ln(1/δ)", &self.log_wealth),
            ("promise_risk", "False acceptances per label of the alarm", &self.risk),
            ("promise_labels", "Labels of the alarm", &self.labels),
            ("promise_alarms", "Alarms raised since the router was loaded", &self.alarms),
            (
                "promise_alarm_since_seconds",
                "When the last alarm was raised, Unix time",
                &self.since,
            ),
            ("promise_threshold", "Threshold that serves", &self.threshold),
            (
                "promise_rolling_risk",
                "False acceptances per label of the rolling threshold",
                &self.rolling_risk,
            ),
        ] {
            r.register(name, help, of.clone());
        }
        r.register("promise_labels_dropped", "Decisions not labelled", self.dropped.clone());
        let help = "Times that the promise's state could not be written";
        r.register("promise_save_failures", help, self.save_failures.clone());
    }

    /// As counted now; points of earlier routers go.
    pub fn set(&self, kept: &Kept) {
        let all = [
            &self.log_wealth,
            &self.risk,
            &self.labels,
            &self.alarms,
            &self.since,
            &self.threshold,
            &self.rolling_risk,
        ];
        for of in all {
            of.clear();
        }
        for point in kept.points() {
            let (place, counted) = (&point.place, point.snapshot());
            let labels = vec![
                ("lam", place.lam.to_string()),
                ("alpha", place.alpha.to_string()),
                ("group", place.group.clone().unwrap_or_default()),
            ];
            let set = |of: &Of, x: f64| {
                of.get_or_create(&labels).set(x);
            };
            set(&self.log_wealth, counted.alarm.log_wealth());
            set(&self.labels, counted.alarm.n() as f64);
            if counted.alarm.n() > 0 {
                set(&self.risk, counted.alarm.mean());
            }
            set(&self.alarms, counted.alarms as f64);
            let since = counted.since.and_then(|s| humantime::parse_rfc3339(&s).ok());
            let since = since.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            if let Some(since) = since {
                set(&self.since, since.as_secs_f64());
            }
            set(&self.threshold, point.threshold().into());
            if let Some(rolling) = counted.rolling.filter(|r| r.n() > 0) {
                set(&self.rolling_risk, rolling.losses() as f64 / rolling.n() as f64);
            }
        }
    }
}
