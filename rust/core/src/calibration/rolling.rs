//! A threshold that follows the traffic, for any sequence of queries.
//!
//! In: labels r_t of queries as they come in, with the margin and the threshold each was decided by.
//! Out: the next threshold, τ_{t+1} = max(low, τ_t + η_t·(ℓ_t − α)), ℓ_t = r_t·1[margin ≥ threshold],
//! with decaying steps η_t = step·t^(−decay), decay = 1/2 + ε. (Gibbs & Candès, NeurIPS 2021; Feldman et
//! al., arXiv 2205.09095, for any risk; Angelopoulos, Barber & Bates, ICML 2024, for decaying steps.)
//!
//! # What holds, and why
//!
//! For every sequence, adversarial ones included: α + D/(T·η_T) bounds the mean loss of T labelled
//! queries, D = high − low + (1 + late)·step·(1 − α), if no margin exceeds `high` and at most `late`
//! labels came in between a query's decision and its own label.
//!
//! 1. The floor only raises τ, so ℓ_t − α ≤ (τ_{t+1} − τ_t)/η_t. Summed by parts, with 1/η_t rising and
//!    τ_t − low ≥ 0, Σ(ℓ_t − α) ≤ (τ_{T+1} − low)/η_T.
//! 2. ℓ_t = 1 means that the query's margin, at most `high`, reached its threshold; since then τ has
//!    risen by at most `late` steps, and now it rises by one more. So τ never exceeds
//!    high + (1 + late)·step·(1 − α), or where it started, if that is more.
//!
//! Where steps start again, and where states are merged, the sum starts anew, and its bound is added.

use crate::base::checks::{check_alpha, check_finite, check_len};
use crate::base::error::{Error, Result, number};
use crate::calibration::crc::accepts;
use crate::calibration::state::{Reader, Writer};

const NAME: &str = "cr2fast.rolling/1";
/// Labels of one state, at most.
const MAX_LABELS: u64 = 1 << 52;
/// Largest size of a margin that a range may name: beyond it steps are lost in rounding.
const MAX_MARGIN: f64 = 1e30;

/// How a threshold moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    /// The threshold never falls below; queries with smaller margins are always deferred.
    pub low: f64,
    /// No margin exceeds this, for the bound to hold; the steps do not depend on it.
    pub high: f64,
    /// First step η_1, in units of the margin.
    pub step: f64,
    /// η_t = step·t^−decay, in [1/2, 1).
    pub decay: f64,
}

/// A threshold that follows the traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct RollingThreshold {
    alpha: f64,
    steps: Steps,
    /// τ.
    threshold: f64,
    /// Largest start.
    top: f64,
    /// Labels since the steps last started, and in all.
    t: u64,
    n: u64,
    /// False acceptances among them.
    losses: u64,
    /// Sum of 1/η at the ends of earlier runs of steps.
    carried: f64,
}

impl RollingThreshold {
    /// Start at a threshold, as a rule that of a calibration at α.
    pub fn new(alpha: f64, start: f64, steps: Steps) -> Result<Self> {
        check_alpha(alpha)?;
        steps.check()?;
        let start = steps.start(start)?;
        Ok(Self { alpha, steps, threshold: start, top: start, t: 0, n: 0, losses: 0, carried: 0.0 })
    }

    /// α.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// How the threshold moves.
    pub fn steps(&self) -> Steps {
        self.steps
    }

    /// Labels so far.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Labels since the steps last started.
    pub fn since_restart(&self) -> u64 {
        self.t
    }

    /// False acceptances so far.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// The threshold to serve: the smallest single that is no smaller than τ, which decides alike.
    pub fn threshold(&self) -> f32 {
        let near = self.threshold as f32;
        if f64::from(near) < self.threshold { near.next_up() } else { near }
    }

    /// One label: the query had this margin, was decided by `decided_by` (the present threshold, where
    /// none is given), and its full-information choice is an edge model or not. The next threshold.
    pub fn update(
        &mut self,
        margin: f32,
        prefers_edge: bool,
        decided_by: Option<f32>,
    ) -> Result<f32> {
        self.update_batch(&[margin], &[prefers_edge], decided_by.as_ref().map(std::slice::from_ref))
    }

    /// The same for many labels, in their order; all are checked first. Without thresholds the batch was
    /// decided by the present one.
    pub fn update_batch(
        &mut self,
        margins: &[f32],
        prefers_edge: &[bool],
        decided_by: Option<&[f32]>,
    ) -> Result<f32> {
        check_finite("margins", margins)?;
        check_len("prefers_edge", margins.len(), prefers_edge.len())?;
        if let Some(thresholds) = decided_by {
            check_len("decided_by", margins.len(), thresholds.len())?;
            if thresholds.iter().any(|t| t.is_nan()) {
                return Err(Error::argument("decided_by", "numbers or infinities", "NaN"));
            }
        }
        let present = self.threshold();
        for (i, (margin, prefers)) in margins.iter().zip(prefers_edge).enumerate() {
            let threshold = decided_by.map_or(present, |t| t[i]);
            self.step(*prefers && accepts(*margin, threshold));
        }
        Ok(self.threshold())
    }

    fn step(&mut self, loss: bool) {
        (self.t, self.n, self.losses) = (self.t + 1, self.n + 1, self.losses + u64::from(loss));
        let excess = f64::from(u8::from(loss)) - self.alpha;
        self.threshold = (self.threshold + self.eta(self.t) * excess).max(self.steps.low);
    }

    fn eta(&self, t: u64) -> f64 {
        self.steps.step * libm::pow(t as f64, -self.steps.decay)
    }

    /// Start the steps again, as after an alarm: at the present threshold, or at a new one.
    pub fn restart(&mut self, start: Option<f64>) -> Result<()> {
        let start = start.map_or(Ok(self.threshold), |start| self.steps.start(start))?;
        self.carried = self.ended();
        (self.t, self.threshold, self.top) = (0, start, self.top.max(start));
        Ok(())
    }

    /// Sum of 1/η at the ends of all runs of steps, were this one to end now.
    fn ended(&self) -> f64 {
        self.carried + if self.t == 0 { 0.0 } else { self.eta(self.t).recip() }
    }

    /// What the mean loss of the first `n` labels (at least those so far, and their number if none is
    /// given) does not exceed, whatever the sequence, if steps do not start again. `late`: labels that came
    /// in between a query's decision and its own label, at most. Infinite before any label.
    pub fn long_run_bound(&self, n: Option<u64>, late: u64) -> Result<f64> {
        let n = n.unwrap_or(self.n);
        if n < self.n || n > MAX_LABELS {
            let expected = format!("at least the {} labels so far, at most 2^52", self.n);
            return Err(Error::argument("n", expected, n));
        }
        let then = Self { t: self.t + (n - self.n), ..self.clone() };
        let most = self.steps.high + (1.0 + late as f64) * self.steps.step * (1.0 - self.alpha);
        let width = most.max(self.top) - self.steps.low;
        Ok(if n == 0 { f64::INFINITY } else { self.alpha + width * then.ended() / n as f64 })
    }

    /// What both saw, of different queries: thresholds averaged by labels, steps as small as after all.
    ///
    /// The bound of the whole is the sum of both; so merge per day rather than per query.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        if self.alpha != other.alpha {
            let expected = format!("a threshold of the same alpha, {}", self.alpha);
            return Err(Error::argument("merge", expected, other.alpha));
        }
        if self.steps != other.steps {
            let expected = format!("a threshold that moves alike, {:?}", self.steps);
            return Err(Error::argument("merge", expected, format!("{:?}", other.steps)));
        }
        // A state that saw nothing adds nothing, to the bound neither.
        if self.n == 0 || other.n == 0 {
            let seen = if self.n == 0 { other } else { self };
            return Ok(Self { top: self.top.max(other.top), ..seen.clone() });
        }
        let (t, labels) = (self.t + other.t, (self.t as f64, other.t as f64));
        // Where both have just started again, the mean is that of their starts.
        let (a, b) = if t == 0 { (1.0, 1.0) } else { labels };
        Ok(Self {
            threshold: (a * self.threshold + b * other.threshold) / (a + b),
            top: self.top.max(other.top),
            t,
            n: self.n + other.n,
            losses: self.losses + other.losses,
            carried: self.ended() + other.ended(),
            ..self.clone()
        })
    }

    /// The state: a few hundred bytes, the same for the same state.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(NAME);
        let Steps { low, high, step, decay } = self.steps;
        out.f64(self.alpha).f64(low).f64(high).f64(step).f64(decay);
        out.f64(self.threshold).f64(self.top);
        out.u64(self.t).u64(self.n).u64(self.losses).f64(self.carried);
        out.finish()
    }

    /// A state back; one that no sequence of labels leads to is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let what = "rolling threshold state";
        let mut r = Reader::open(NAME, what, bytes, |_| Some(11))?;
        let alpha = r.f64();
        let steps = Steps { low: r.f64(), high: r.f64(), step: r.f64(), decay: r.f64() };
        let out = Self {
            alpha,
            steps,
            threshold: r.f64(),
            top: r.f64(),
            t: r.u64(),
            n: r.u64(),
            losses: r.u64(),
            carried: r.f64(),
        };
        let settings = check_alpha(alpha).and_then(|()| steps.check());
        r.check(settings.is_ok(), "settings that a threshold can have", format!("{steps:?}"))?;
        let Self { threshold, top, t, n, losses, carried, .. } = out;
        let counts = t <= n && losses <= n && n <= MAX_LABELS;
        r.check(counts, "counts of labels that agree", format!("{t}, {n}, {losses}"))?;
        let range = top >= steps.low && top <= steps.above();
        r.check(range, "a start within the range", top)?;
        // Each label moves it by at most a first step; and it never falls below.
        let most = steps.high.max(top) + n as f64 * steps.step;
        let reached = threshold >= steps.low && threshold <= most;
        r.check(reached, "a threshold that so many labels lead to", threshold)?;
        // At most n runs and merges, each of at most n labels.
        let earlier = (n as f64 + 1.0).powi(2) / steps.step;
        r.check((0.0..=earlier).contains(&carried), "earlier runs as long as n", carried)?;
        Ok(out)
    }
}

impl Steps {
    fn check(&self) -> Result<()> {
        let Self { low, high, step, decay } = *self;
        if !(low < high && -MAX_MARGIN <= low && high <= MAX_MARGIN) {
            let expected = "two numbers, low < high, of size at most 1e30";
            return Err(Error::argument(
                "low and high",
                expected,
                format!("{} and {}", number(low), number(high)),
            ));
        }
        let width = high - low;
        if !(step > 0.0 && step <= width && step >= width * 1e-9) {
            let expected = "a first step above 1e-9 (high - low) and at most high - low";
            return Err(Error::argument("step", expected, step));
        }
        if !(0.5..1.0).contains(&decay) {
            return Err(Error::argument("decay", "a number from 0.5 to below 1", decay));
        }
        Ok(())
    }

    /// Above every margin.
    fn above(&self) -> f64 {
        f64::from((self.high as f32).next_up()).max(self.high)
    }

    /// A start within the range, or an infinity: −∞ (accept all) is its lower end, +∞ (defer all) lies just
    /// above it.
    fn start(&self, start: f64) -> Result<f64> {
        if start.is_nan() || (start.is_finite() && !(self.low..=self.above()).contains(&start)) {
            let expected = format!("a margin from low to high ({} to {})", self.low, self.high);
            return Err(Error::argument("start", format!("{expected}, or an infinity"), start));
        }
        Ok(start.clamp(self.low, self.above()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: Steps = Steps { low: -1.0, high: 1.0, step: 0.1, decay: 0.6 };

    #[test]
    fn the_bound_is_reached_by_nobody_and_approached_by_the_worst() {
        // The worst sequence: nothing to lose until the threshold is at its floor, then only losses.
        let mut r = RollingThreshold::new(0.1, 0.0, STEPS).unwrap();
        for t in 0..200_000_u64 {
            let turn = t >= 100_000;
            let margin = if turn { 1.0 } else { 0.0 };
            r.update(margin, turn, None).unwrap();
            let risk = r.losses() as f64 / r.n() as f64;
            assert!(risk <= r.long_run_bound(None, 0).unwrap() + 1e-12, "{t}");
        }
        assert!(r.long_run_bound(Some(10_000_000), 0).unwrap() < 0.2);
    }

    #[test]
    fn infinite_starts_are_the_ranges_ends() {
        let start = |x| RollingThreshold::new(0.1, x, STEPS).map(|r| r.threshold());
        assert_eq!(start(f64::NEG_INFINITY).unwrap(), -1.0);
        assert_eq!(start(f64::INFINITY).unwrap(), 1.0_f32.next_up());
        assert_eq!(start(0.25).unwrap(), 0.25);
        assert!(start(f64::NAN).is_err());
        assert!(start(-1.5).is_err() && start(1.5).is_err(), "nothing is moved in silence");
        // A single that decides as the double does.
        assert_eq!(start(0.1).unwrap(), 0.1_f32);
        assert_eq!(start(0.7).unwrap(), 0.7_f32.next_up());
    }

    #[test]
    fn damaged_and_forged_states_are_refused() {
        let mut r = RollingThreshold::new(0.1, 0.0, STEPS).unwrap();
        r.update_batch(&[0.5, 0.1, -0.5], &[true, false, true], None).unwrap();
        r.restart(None).unwrap();
        r.update(0.7, true, Some(0.2)).unwrap();
        let good = r.to_bytes();
        assert_eq!(RollingThreshold::from_bytes(&good).unwrap(), r);
        for end in 0..good.len() {
            assert!(RollingThreshold::from_bytes(&good[..end]).is_err());
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(RollingThreshold::from_bytes(&bad).is_err(), "byte {at}");
        }
        for (number, bits) in [
            (0, 1.0_f64.to_bits()),
            (1, 2.0_f64.to_bits()),
            (3, f64::NAN.to_bits()),
            (4, 0.0_f64.to_bits()),
            (5, f64::INFINITY.to_bits()),
            (5, (-2.0_f64).to_bits()),
            (6, 9.0_f64.to_bits()),
            (7, 9),
            (8, u64::MAX),
            (9, 5),
            (10, (-1.0_f64).to_bits()),
            (10, f64::INFINITY.to_bits()),
        ] {
            let mut words = Writer::new(NAME);
            for (i, w) in good[24..good.len() - 32].as_chunks::<8>().0.iter().enumerate() {
                words.u64(if i == number { bits } else { u64::from_le_bytes(*w) });
            }
            let error = RollingThreshold::from_bytes(&words.finish()).unwrap_err();
            assert!(error.to_string().len() < 400, "{error}");
        }
    }
}
