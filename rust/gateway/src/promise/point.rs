//! One operating point under watch: its alarm, and the threshold that serves it.
//!
//! In: labels, one per request that stage one decided here. Out: the threshold to serve, and the word
//! that an alarm is raised. Requests read the threshold without a lock; one worker writes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cr2fast_core::{RiskAlarm, RollingThreshold, Steps};
use serde_json::{Value, json};

use crate::config::{OnAlarm, PromiseConfig, Threshold};

/// Decay of a rolling threshold's steps, as in Python.
const DECAY: f64 = 0.6;

/// Where labels are counted: λ, α and whose threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// λ, as the grid spells it.
    pub lam: f64,
    /// α, as the grid spells it.
    pub alpha: f64,
    /// The group; none where the threshold is that of all.
    pub group: Option<String>,
}

/// A place of a router.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Where.
    pub place: Place,
    /// τ by the calibration.
    pub calibrated: f32,
    /// Range of the margins that calibration kept at this λ; none of an old file, which kept none.
    pub range: Option<(f32, f32)>,
}

/// A request's label, with what decided it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Δ̂.
    pub margin: f32,
    /// τ that decided.
    pub threshold: f32,
    /// r of a request that may be accepted at all; false of an atypical one.
    pub prefers_edge: bool,
}

impl Label {
    fn loss(self) -> bool {
        self.prefers_edge && cr2fast_core::accepts(self.margin, self.threshold)
    }
}

/// What is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// The alarm.
    pub alarm: RiskAlarm,
    /// The threshold that follows the labels, where one does.
    pub rolling: Option<RollingThreshold>,
    /// Alarms raised.
    pub alarms: u64,
    /// When the last of them was raised.
    pub since: Option<String>,
}

/// An alarm that was raised by a label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raised {
    /// Labels of this alarm.
    pub n: u64,
    /// False acceptances among them.
    pub risk: f64,
    /// ln W.
    pub log_wealth: f64,
    /// τ that serves from now on.
    pub threshold: f32,
}

/// A point under watch.
#[derive(Debug)]
pub struct Point {
    /// Where.
    pub place: Place,
    /// τ by the calibration.
    calibrated: f32,
    /// Bits of the τ that serves.
    served: AtomicU32,
    counted: Mutex<Counted>,
}

/// How points are watched, beside where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// δ.
    pub delta: f64,
    /// Which threshold decides.
    pub threshold: Threshold,
    /// What an alarm does.
    pub on_alarm: OnAlarm,
    /// First step, as a fraction of the margins' range.
    pub step: f64,
    /// Labels of one alarm, at most.
    pub window: Option<u64>,
}

impl From<&PromiseConfig> for Rules {
    fn from(c: &PromiseConfig) -> Self {
        let (delta, threshold, on_alarm) = (c.delta, c.threshold, c.on_alarm);
        Self { delta, threshold, on_alarm, step: c.step, window: c.window }
    }
}

impl Rules {
    /// Nothing counted yet.
    pub fn begin(&self, at: &Known) -> cr2fast_core::Result<Counted> {
        let alpha = at.place.alpha;
        let steps = steps(at.calibrated, at.range, self.step);
        let steps = steps.filter(|_| self.threshold == Threshold::Rolling);
        let start = f64::from(at.calibrated);
        let rolling = steps.map(|steps| RollingThreshold::new(alpha, start, steps));
        Ok(Counted {
            alarm: RiskAlarm::new(alpha, self.delta)?,
            rolling: rolling.transpose()?,
            alarms: 0,
            since: None,
        })
    }
}

/// Steps over the margins that calibration saw, and the threshold; around it where none were kept. None
/// where there is no such range.
fn steps(calibrated: f32, range: Option<(f32, f32)>, step: f64) -> Option<Steps> {
    let start = f64::from(calibrated);
    let (low, high) = match range.map(|(low, high)| (f64::from(low), f64::from(high))) {
        Some((low, high)) if low < high && start.is_finite() => (low.min(start), high.max(start)),
        Some((low, high)) if low < high => (low, high),
        _ if start.is_finite() => (start - 1.0, start + 1.0),
        _ => return None,
    };
    Some(Steps { low, high, step: step * (high - low), decay: DECAY })
}

impl Point {
    /// Go on from what was counted.
    pub fn new(at: Known, counted: Counted, rules: &Rules) -> Self {
        let Known { place, calibrated, .. } = at;
        let served = AtomicU32::new(served(&counted, calibrated, rules).to_bits());
        Self { place, calibrated, served, counted: Mutex::new(counted) }
    }

    /// τ that serves.
    pub fn threshold(&self) -> f32 {
        f32::from_bits(self.served.load(Ordering::Relaxed))
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted now.
    pub fn snapshot(&self) -> Counted {
        self.counted().clone()
    }

    /// Count a label; an alarm that it raises.
    pub fn update(
        &self,
        label: Label,
        rules: &Rules,
        now: impl FnOnce() -> String,
    ) -> cr2fast_core::Result<Option<Raised>> {
        let mut counted = self.counted();
        let c = &mut *counted;
        if c.alarm.alarmed() && rules.on_alarm == OnAlarm::Defer {
            return Ok(None); // out of service: nothing is accepted that could be counted
        }
        if rules.window.is_some_and(|most| c.alarm.n() >= most) && !c.alarm.alarmed() {
            c.alarm = RiskAlarm::new(self.place.alpha, rules.delta)?;
        }
        if let Some(rolling) = &mut c.rolling {
            rolling.update(label.margin, label.prefers_edge, Some(label.threshold))?;
        }
        let before = c.alarm.alarmed();
        let alarmed = c.alarm.update(f64::from(u8::from(label.loss())), 1.0)?;
        let mut raised = None;
        if alarmed && !before {
            c.alarms += 1;
            c.since = Some(now());
            let (n, risk, log_wealth) = (c.alarm.n(), c.alarm.mean(), c.alarm.log_wealth());
            if let (Some(rolling), OnAlarm::Report) = (&mut c.rolling, rules.on_alarm) {
                // What was accused is no longer served: large steps, and an alarm of their own.
                rolling.restart(None)?;
                c.alarm = RiskAlarm::new(self.place.alpha, rules.delta)?;
            }
            raised = Some(Raised { n, risk, log_wealth, threshold: 0.0 });
        }
        let threshold = served(c, self.calibrated, rules);
        self.served.store(threshold.to_bits(), Ordering::Relaxed);
        Ok(raised.map(|raised| Raised { threshold, ..raised }))
    }

    /// For people and programs.
    pub fn told(&self, rules: &Rules) -> Value {
        let c = self.snapshot();
        let threshold = served(&c, self.calibrated, rules);
        let rolling = c.rolling.as_ref().map(|r| {
            let Steps { low, high, step, decay } = r.steps();
            json!({
                "threshold": r.threshold(),
                "n": r.n(),
                "losses": r.losses(),
                "risk": (r.n() > 0).then(|| r.losses() as f64 / r.n() as f64),
                "long_run_bound": r.long_run_bound(None, 0).ok().filter(|x| x.is_finite()),
                "low": low, "high": high, "step": step, "decay": decay,
            })
        });
        json!({
            "lam": self.place.lam,
            "alpha": self.place.alpha,
            "group": self.place.group,
            "n": c.alarm.n(),
            "risk": (c.alarm.n() > 0).then(|| c.alarm.mean()),
            "log_wealth": c.alarm.log_wealth(),
            "alarmed": c.alarm.alarmed(),
            "alarms": c.alarms,
            "alarm_since": c.since,
            "deferring": deferring(&c, rules),
            "threshold": word(threshold),
            "threshold_calibrated": word(self.calibrated),
            "rolling": rolling,
        })
    }
}

fn deferring(c: &Counted, rules: &Rules) -> bool {
    c.alarm.alarmed() && rules.on_alarm == OnAlarm::Defer
}

fn served(c: &Counted, calibrated: f32, rules: &Rules) -> f32 {
    if deferring(c, rules) {
        return f32::INFINITY;
    }
    c.rolling.as_ref().map_or(calibrated, RollingThreshold::threshold)
}

/// JSON has no infinity.
fn word(threshold: f32) -> Value {
    if threshold.is_finite() { json!(threshold) } else { json!(threshold.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        delta: 0.01,
        threshold: Threshold::Calibrated,
        on_alarm: OnAlarm::Report,
        step: 0.1,
        window: None,
    };

    fn known(calibrated: f32, range: Option<(f32, f32)>) -> Known {
        Known { place: Place { lam: 1.0, alpha: 0.1, group: None }, calibrated, range }
    }

    fn point(rules: &Rules, at: Known) -> Point {
        let counted = rules.begin(&at).unwrap();
        Point::new(at, counted, rules)
    }

    fn label(point: &Point, prefers_edge: bool) -> Label {
        Label { margin: 0.9, threshold: point.threshold(), prefers_edge }
    }

    /// Update until an alarm is raised.
    fn until_raised(point: &Point, rules: &Rules) -> Raised {
        let mut updates = 0..1_000;
        let raised = updates
            .find_map(|_| point.update(label(point, true), rules, || "then".into()).unwrap());
        raised.expect("only false acceptances")
    }

    #[test]
    fn an_alarm_is_told_once_and_decisions_stay() {
        let point = point(&RULES, known(0.25, None));
        let raised = until_raised(&point, &RULES);
        assert_eq!((raised.risk, raised.threshold), (1.0, 0.25));
        assert!(raised.log_wealth >= 100.0_f64.ln());
        assert_eq!(point.update(label(&point, true), &RULES, || "later".into()).unwrap(), None);
        let counted = point.snapshot();
        assert_eq!((counted.alarms, counted.since.as_deref()), (1, Some("then")));
        assert_eq!(counted.alarm.n(), raised.n + 1);
        assert_eq!(point.threshold(), 0.25);
    }

    #[test]
    fn an_alarm_defers_all_where_the_file_says_so() {
        let rules = Rules { on_alarm: OnAlarm::Defer, ..RULES };
        let point = point(&rules, known(0.25, None));
        let raised = until_raised(&point, &rules);
        assert_eq!((raised.threshold, point.threshold()), (f32::INFINITY, f32::INFINITY));
        assert_eq!(point.update(label(&point, false), &rules, String::new).unwrap(), None);
        assert_eq!(point.snapshot().alarm.n(), raised.n, "nothing is accepted, nothing counted");
        // What was saved defers still.
        let again = Point::new(known(0.25, None), point.snapshot(), &rules);
        assert_eq!(again.threshold(), f32::INFINITY);
        assert_eq!(again.told(&rules)["threshold"], "inf");
    }

    #[test]
    fn a_rolling_threshold_starts_where_calibration_put_it_and_restarts_on_an_alarm() {
        let rules = Rules { threshold: Threshold::Rolling, ..RULES };
        let point = point(&rules, known(0.25, Some((-0.5, 1.5))));
        assert_eq!(point.threshold(), 0.25);
        let steps = Steps { low: -0.5, high: 1.5, step: 0.2, decay: DECAY };
        let mut rolling = RollingThreshold::new(0.1, 0.25, steps).unwrap();
        let mut alarm = RiskAlarm::new(0.1, 0.01).unwrap();
        let mut alarms = 0;
        for _ in 0..40 {
            let label = Label { margin: 1.4, ..label(&point, true) };
            let raised = point.update(label, &rules, || "then".into()).unwrap();
            rolling.update(1.4, true, Some(label.threshold)).unwrap();
            if alarm.update(f64::from(u8::from(label.threshold <= 1.4)), 1.0).unwrap() {
                alarms += 1;
                rolling.restart(None).unwrap();
                alarm = RiskAlarm::new(0.1, 0.01).unwrap();
            }
            assert_eq!(raised.is_some(), alarm.n() == 0);
            let counted = point.snapshot();
            assert_eq!(counted.rolling.as_ref(), Some(&rolling));
            assert_eq!((counted.alarm, counted.alarms), (alarm.clone(), alarms));
            assert_eq!(point.threshold(), rolling.threshold());
        }
        assert!(alarms > 0 && point.threshold() > 1.4, "{alarms}");
    }

    #[test]
    fn an_alarm_begins_anew_after_its_window() {
        let rules = Rules { window: Some(100), ..RULES };
        let point = point(&rules, known(0.25, None));
        for _ in 0..150 {
            point.update(label(&point, false), &rules, String::new).unwrap();
        }
        assert_eq!(point.snapshot().alarm.n(), 50);
    }

    #[test]
    fn a_threshold_without_a_range_is_served_as_it_is() {
        let rules = Rules { threshold: Threshold::Rolling, ..RULES };
        let at = known(f32::INFINITY, None);
        assert_eq!(rules.begin(&at).unwrap().rolling, None);
        assert_eq!(point(&rules, at).threshold(), f32::INFINITY);
        let at = known(f32::INFINITY, Some((-1.0, 1.0)));
        assert_eq!(point(&rules, at).threshold(), 1.0_f32.next_up());
    }
}
