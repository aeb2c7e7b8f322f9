//! From readings of counters to joules between two of them, or the word for which there are none.
//!
//! In: [`Sample`]s, in the order of their times. Out: [`Reading`]s, whose difference is what was spent
//! between them; an era ends where a counter cannot be followed: it is gone, it was set back, or it moved
//! by more than the hardware can draw. No difference is made across eras.

use std::time::Duration;

use tokio::time::Instant;

/// A slow counter hands out up to this much of the past in one step, s.
const SLACK_S: f64 = 0.2;

/// One counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    /// `package-0`, say.
    pub name: String,
    /// Where it wraps, J; none where any decrease ends an era.
    pub range_j: Option<f64>,
    /// More than it can draw, W.
    pub max_w: f64,
}

/// All counters at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// By how much that may be wrong, s.
    pub give_s: f64,
    /// J of each domain, from wherever the counter began.
    pub joules: Vec<f64>,
    /// Another mark, another era: the counters have begun anew.
    pub mark: String,
}

/// J since the first sample of an era.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    give_s: f64,
    joules: f64,
    era: u64,
}

/// What follows the counters.
#[derive(Debug)]
pub struct Tally {
    domains: Vec<Domain>,
    last: Option<Sample>,
    joules: f64,
    era: u64,
}

/// What is asked of the readings of a span.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Most of the span by which the readings may miss its ends.
    pub tolerance: f64,
    /// Subtracted for as long as the span lasted, W.
    pub idle_w: Option<f64>,
}

impl Tally {
    /// Of these counters.
    pub fn new(domains: Vec<Domain>) -> Self {
        Self { domains, last: None, joules: 0.0, era: 0 }
    }

    /// The counters could not be read.
    pub fn lost(&mut self) {
        self.last = None;
        self.era += 1;
    }

    /// Take a sample; the words say why the era ended before it.
    pub fn take(&mut self, sample: Sample) -> (Reading, Option<String>) {
        let mut broken = None;
        if let Some(last) = &self.last {
            match self.spent(last, &sample) {
                Ok(joules) => self.joules += joules,
                Err(words) => {
                    broken = Some(words);
                    self.era += 1;
                }
            }
        }
        let (at, give_s) = (sample.at, sample.give_s);
        self.last = Some(sample);
        (Reading { at, give_s, joules: self.joules, era: self.era }, broken)
    }

    fn spent(&self, last: &Sample, now: &Sample) -> Result<f64, String> {
        if last.mark != now.mark {
            return Err("the counters have begun anew, or have missed something".into());
        }
        let seconds = now.at.saturating_duration_since(last.at).as_secs_f64();
        let pairs = last.joules.iter().zip(&now.joules);
        let each = self.domains.iter().zip(pairs).map(|(domain, (last, now))| {
            let Domain { name, range_j, max_w } = domain;
            if range_j.is_some_and(|range| seconds > range / max_w) {
                return Err(format!("{name} was not read for so long that it may have wrapped twice"));
            }
            let moved = now - last;
            let moved = if moved < 0.0 { moved + range_j.unwrap_or(0.0) } else { moved };
            if moved < 0.0 || moved > max_w * (seconds + SLACK_S) {
                return Err(format!(
                    "{name} went from {last:.3} J to {now:.3} J within {seconds:.3} s, which no machine spends: it was set back"
                ));
            }
            Ok(moved)
        });
        each.sum()
    }
}

impl Rule {
    /// J of the span from `start` to `end`, of the readings made for the two.
    pub fn joules(
        &self,
        (first, start): (Reading, Instant),
        (last, end): (Reading, Instant),
    ) -> Result<f64, &'static str> {
        if first.era != last.era {
            return Err("lost");
        }
        let missed = first.missed_s(start) + last.missed_s(end);
        let span = end.saturating_duration_since(start).as_secs_f64();
        if missed > self.tolerance * span {
            return Err("inexact");
        }
        let counted = last.at.saturating_duration_since(first.at).as_secs_f64();
        let joules = last.joules - first.joules - self.idle_w.unwrap_or(0.0) * counted;
        // Idle watts that are more than the machine draws at work are wrong.
        if joules < 0.0 { Err("below-idle") } else { Ok(joules) }
    }
}

impl Reading {
    fn missed_s(&self, moment: Instant) -> f64 {
        let late = self.at.saturating_duration_since(moment);
        let early = moment.saturating_duration_since(self.at);
        Duration::max(late, early).as_secs_f64() + self.give_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(range_j: Option<f64>) -> Domain {
        Domain { name: "package-0".into(), range_j, max_w: 100.0 }
    }

    /// The joules between the first and the last of (s, J) samples, by a rule.
    fn between(domain: Domain, samples: &[(f64, f64)], rule: Rule) -> Result<f64, &'static str> {
        let zero = Instant::now();
        let moment = |s: f64| zero + Duration::from_secs_f64(s);
        let mut tally = Tally::new(vec![domain]);
        let readings: Vec<Reading> = samples
            .iter()
            .map(|(s, j)| {
                let (at, joules, mark) = (moment(*s), vec![*j], String::new());
                tally.take(Sample { at, give_s: 0.0, joules, mark }).0
            })
            .collect();
        let ends = (samples[0].0, samples[samples.len() - 1].0);
        rule.joules((readings[0], moment(ends.0)), (readings[readings.len() - 1], moment(ends.1)))
    }

    const RULE: Rule = Rule { tolerance: 0.05, idle_w: None };

    #[test]
    fn joules_are_the_difference_across_wraps_and_no_number_across_a_fault() {
        let wraps = || domain(Some(1_000.0));
        for (domain, samples, expected) in [
            (wraps(), vec![(0.0, 10.0), (1.0, 60.0)], Ok(50.0)),
            (wraps(), vec![(0.0, 990.0), (1.0, 5.0)], Ok(15.0)),
            // Wrapped in each of two steps.
            (wraps(), vec![(0.0, 900.0), (9.0, 700.0), (18.0, 500.0)], Ok(1_600.0)),
            // So far apart that a second wrap could hide.
            (wraps(), vec![(0.0, 900.0), (18.0, 950.0)], Err("lost")),
            // As a wrap it were 990 W.
            (wraps(), vec![(0.0, 20.0), (1.0, 10.0)], Err("lost")),
            (wraps(), vec![(0.0, 20.0), (1.0, 520.0)], Err("lost")),
            (domain(None), vec![(0.0, 20.0), (1.0, 10.0), (2.0, 30.0)], Err("lost")),
            (domain(None), vec![(0.0, 20.0), (60.0, 20.0)], Ok(0.0)),
        ] {
            let got = between(domain, &samples, RULE);
            match (got, expected) {
                (Ok(got), Ok(expected)) => {
                    assert!((got - expected).abs() < 1e-9, "{got} {samples:?}");
                }
                (got, expected) => assert_eq!(got, expected, "{samples:?}"),
            }
        }
    }

    #[test]
    fn idle_watts_are_subtracted_and_more_of_them_than_were_drawn_give_no_number() {
        let idle = |w| Rule { idle_w: Some(w), ..RULE };
        let samples = [(0.0, 0.0), (2.0, 100.0)];
        assert_eq!(between(domain(None), &samples, idle(20.0)), Ok(60.0));
        assert_eq!(between(domain(None), &samples, idle(50.0)), Ok(0.0));
        assert_eq!(between(domain(None), &samples, idle(51.0)), Err("below-idle"));
    }

    #[test]
    fn readings_that_miss_the_ends_by_more_than_the_tolerance_measure_nothing() {
        let zero = Instant::now();
        let moment = |ms| zero + Duration::from_millis(ms);
        let reading = |ms, joules, give_s| Reading { at: moment(ms), give_s, joules, era: 0 };
        // 4 % of 1 s, late at the end; then 2 % more by the counter's own tick.
        let joules = |give_s| {
            let first = (reading(0, 0.0, give_s), moment(0));
            RULE.joules(first, (reading(1_040, 52.0, give_s), moment(1_000)))
        };
        assert_eq!(joules(0.005), Ok(52.0));
        assert_eq!(joules(0.01), Err("inexact"));
        // One that was made before its end misses it as well.
        let early =
            RULE.joules((reading(0, 0.0, 0.0), moment(0)), (reading(900, 9.0, 0.0), moment(1_000)));
        assert_eq!(early, Err("inexact"));
    }
}
