//! An alarm for a risk that is too high, valid at every moment.
//!
//! In: losses x_i ≥ 0, one per query, ℓ_i = r_i·1[accepted] or, where only some queries are looked at,
//! ℓ_i·1[looked at]/π_i. Out: whether to accuse the router of a risk above α.
//!
//! Wealth W_t = mean over bets b of Π_i (1 + b·(x_i − α)): what a gambler holds who starts with 1 and
//! bets that the losses exceed α, by a fixed grid of bets b in (0, 1/α). If E[x_i | the past] ≤ α for
//! every i, then W is a nonnegative supermartingale, and by Ville's inequality
//! P(W_t ≥ 1/δ at any t) ≤ δ. (Waudby-Smith & Ramdas, JRSS-B 2024, bet this way on a mean; Podkopaev &
//! Ramdas, ICLR 2022, watch a deployed model's risk.)
//!
//! What that needs of the losses, and no more: they are never negative (then every factor is at least
//! 1 − b·α > 0), and their mean given the past is at most α. A weight 1/π keeps the mean, whatever π is,
//! as long as π > 0 was fixed before the query was drawn for it; so weights are 0 (not looked at) or from
//! 1 to a bound. The bound guards against forged weights; the promise does not depend on it.

use crate::base::checks::check_alpha;
use crate::base::error::{Error, Result};
use crate::calibration::state::{Reader, Writer};

/// Bets b = 2^k: where losses are 0 or 1 and the risk is ρ·α, the best bet is close to ρ − 1; where
/// only a fraction π is looked at, to π·(ρ − 1).
const BETS: [f64; 11] = [0.015_625, 0.031_25, 0.062_5, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0];
/// Largest b·α: a gambler loses half of what he has at most.
const BOLDEST: f64 = 0.5;
/// Largest weight 1/π.
pub const MAX_WEIGHT: f64 = 1e6;

/// Queries of one alarm, at most: a century of a million per second.
const MAX_QUERIES: u64 = 1 << 52;

/// Products stay in [2^−128, 2^128); powers of 2^256 are counted apart.
const SMALL: f64 = f64::from_bits((1023 - 128) << 52);
const LARGE: f64 = f64::from_bits((1023 + 128) << 52);
const UP: f64 = f64::from_bits((1023 + 256) << 52);
const DOWN: f64 = f64::from_bits((1023 - 256) << 52);

const NAME: &str = "cr2fast.risk_alarm/1";

/// A product of very many factors: the product is `value` · 2^(256·`power`).
///
/// Scaling by powers of two rounds nothing, so the bits do not depend on when it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Product {
    value: f64,
    power: i64,
}

impl Product {
    fn scaled(mut self) -> Self {
        while self.value >= LARGE {
            (self.value, self.power) = (self.value * DOWN, self.power + 1);
        }
        while self.value < SMALL {
            (self.value, self.power) = (self.value * UP, self.power - 1);
        }
        self
    }

    fn ln(self) -> f64 {
        libm::log(self.value) + 256.0 * self.power as f64 * std::f64::consts::LN_2
    }

    /// The number, or 0 or infinity where no double is as small or as large.
    fn plain(self) -> f64 {
        let power = self.power.clamp(-8, 8);
        let scale = if power < 0 { DOWN } else { UP };
        (0..power.abs()).fold(self.value, |x, _| x * scale)
    }
}

/// Anytime-valid alarm for a risk above α.
#[derive(Clone, Debug, PartialEq)]
pub struct RiskAlarm {
    alpha: f64,
    delta: f64,
    n: u64,
    /// Sum of the losses, weighted.
    total: f64,
    /// The query that raised the alarm, from 1; 0 without one.
    alarmed_at: u64,
    /// Bets that α allows: the first so many of [`BETS`].
    bets: usize,
    products: [Product; BETS.len()],
}

impl RiskAlarm {
    /// An alarm that a router of risk at most α raises with probability at most δ, ever.
    pub fn new(alpha: f64, delta: f64) -> Result<Self> {
        check_alpha(alpha)?;
        if !(delta > 0.0 && delta < 1.0) {
            return Err(Error::argument("delta", "a number in (0, 1)", delta));
        }
        Ok(Self {
            alpha,
            delta,
            n: 0,
            total: 0.0,
            alarmed_at: 0,
            bets: BETS.iter().take_while(|b| **b * alpha <= BOLDEST).count(),
            products: [Product { value: 1.0, power: 0 }; BETS.len()],
        })
    }

    /// α.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// δ.
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// Queries so far.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Mean loss so far, weighted; NaN before any.
    pub fn mean(&self) -> f64 {
        self.total / self.n as f64
    }

    /// Whether the alarm was ever raised.
    pub fn alarmed(&self) -> bool {
        self.alarmed_at > 0
    }

    /// The query, counted from 1, that raised it.
    pub fn alarmed_at(&self) -> Option<u64> {
        self.alarmed().then_some(self.alarmed_at)
    }

    /// Wealth W_t; infinity or 0 where no double is as large or as small.
    pub fn wealth(&self) -> f64 {
        self.products().iter().map(|p| p.plain()).sum::<f64>() / self.bets as f64
    }

    /// ln W_t, finite always.
    pub fn log_wealth(&self) -> f64 {
        let logs = self.products().iter().map(|p| p.ln());
        let most = logs.clone().fold(f64::NEG_INFINITY, f64::max);
        most + libm::log(logs.map(|l| libm::exp(l - most)).sum::<f64>() / self.bets as f64)
    }

    fn products(&self) -> &[Product] {
        &self.products[..self.bets]
    }

    /// Count one query; true once the alarm was ever raised.
    ///
    /// `loss` lies in [0, 1]. `weight` is 1 where every query is looked at, 1/π where this one was looked
    /// at with probability π, and 0 (or a loss of 0) where it was not: leaving those out instead voids
    /// the promise.
    pub fn update(&mut self, loss: f64, weight: f64) -> Result<bool> {
        check_loss(loss, weight)?;
        self.step(loss * weight);
        Ok(self.alarmed())
    }

    /// The same for many, in their order; all are checked first. Without weights each is 1.
    pub fn update_many(&mut self, losses: &[f64], weights: Option<&[f64]>) -> Result<bool> {
        if let Some(weights) = weights {
            crate::base::checks::check_len("weights", losses.len(), weights.len())?;
        }
        let weight = |i: usize| weights.map_or(1.0, |w| w[i]);
        let of = |e: Error, i: usize| match e {
            Error::Argument { what, expected, got } => {
                Error::argument(format!("{what}[{i}]"), expected, got)
            }
            other => other,
        };
        for (i, loss) in losses.iter().enumerate() {
            check_loss(*loss, weight(i)).map_err(|e| of(e, i))?;
        }
        for (i, loss) in losses.iter().enumerate() {
            self.step(loss * weight(i));
        }
        Ok(self.alarmed())
    }

    fn step(&mut self, x: f64) {
        self.n += 1;
        self.total += x;
        let excess = x - self.alpha;
        let mut unscaled = false;
        for (product, bet) in self.products.iter_mut().zip(BETS).take(self.bets) {
            product.value *= 1.0 + bet * excess;
            unscaled |= product.value < SMALL || product.value >= LARGE;
        }
        if unscaled {
            self.products = self.products.map(Product::scaled);
        }
        // Below α every factor is below 1.
        if excess > 0.0 && !self.alarmed() {
            self.judge();
        }
    }

    fn judge(&mut self) {
        if !self.alarmed() && self.wealth() >= 1.0 / self.delta {
            self.alarmed_at = self.n;
        }
    }

    /// What both saw, of different queries: the wealth of one sequence after the other.
    ///
    /// An alarm that one of them raised stays. Watched apart, k alarms accuse wrongly with probability at
    /// most k·δ together.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        for (name, mine, its) in
            [("alpha", self.alpha, other.alpha), ("delta", self.delta, other.delta)]
        {
            if mine != its {
                let expected = format!("an alarm of the same {name}, {mine}");
                return Err(Error::argument("merge", expected, its));
            }
        }
        let mut out = self.clone();
        out.n += other.n;
        out.total += other.total;
        for (p, q) in out.products.iter_mut().zip(other.products) {
            *p = Product { value: p.value * q.value, power: p.power + q.power }.scaled();
        }
        out.alarmed_at = match (self.alarmed_at, other.alarmed_at) {
            (0, at) | (at, 0) => at,
            (a, b) => a.min(b),
        };
        out.judge();
        Ok(out)
    }

    /// The state: a few hundred bytes, the same for the same state.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(NAME);
        out.u64(self.bets as u64).f64(self.alpha).f64(self.delta);
        out.u64(self.n).f64(self.total).u64(self.alarmed_at);
        for product in self.products() {
            out.f64(product.value).u64(product.power.cast_unsigned());
        }
        out.finish()
    }

    /// A state back; one that no sequence of losses leads to is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let size = |bets| (1..=BETS.len() as u64).contains(&bets).then(|| 6 + 2 * bets as usize);
        let mut r = Reader::open(NAME, "alarm state", bytes, size)?;
        let (bets, alpha, delta) = (r.u64(), r.f64(), r.f64());
        let mut out = Self::new(alpha, delta)
            .map_err(|_| Error::state("alarm state", "alpha and delta in (0, 1)", "others"))?;
        (out.n, out.total, out.alarmed_at) = (r.u64(), r.f64(), r.u64());
        r.check(bets as usize == out.bets, "the bets that alpha allows", bets)?;
        r.check(out.n <= MAX_QUERIES, "at most 2^52 queries", out.n)?;
        let n = out.n as f64;
        let total = out.total >= 0.0 && out.total <= n * MAX_WEIGHT * (1.0 + 1e-9);
        r.check(total, "a sum of losses that so many queries can have", out.total)?;
        r.check(out.alarmed_at <= out.n, "an alarm no later than the last query", out.alarmed_at)?;
        for (bet, place) in BETS.into_iter().zip(&mut out.products).take(out.bets) {
            let product = Product { value: r.f64(), power: r.u64().cast_signed() };
            let least = n * libm::log1p(-bet * alpha);
            let most = n * libm::log1p(bet * (MAX_WEIGHT - alpha));
            let slack = 1e-6 * (1.0 + n);
            let good = (SMALL..LARGE).contains(&product.value)
                && product.power.unsigned_abs() < 1 << 40
                && product.ln() >= least - slack
                && product.ln() <= most + slack;
            r.check(good, "wealth that so many losses can lead to", format!("{product:?}"))?;
            *place = product;
        }
        let missed = !out.alarmed() && out.wealth() >= 1.0 / delta;
        r.check(!missed, "an alarm where the wealth is at least 1/delta", out.wealth())?;
        Ok(out)
    }
}

fn check_loss(loss: f64, weight: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&loss) {
        return Err(Error::argument("loss", "a number from 0 to 1", loss));
    }
    if weight == 0.0 || (1.0..=MAX_WEIGHT).contains(&weight) {
        return Ok(());
    }
    let expected = "0 (not looked at) or 1/pi for a probability pi in [1e-6, 1], so from 1 to 1e6";
    Err(Error::argument("weight", expected, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm() -> RiskAlarm {
        RiskAlarm::new(0.05, 0.01).unwrap()
    }

    /// Ten million losses neither underflow nor overflow, and the wealth is what its logarithm says.
    #[test]
    fn very_many_updates_stay_numbers() {
        let mut quiet = alarm();
        for _ in 0..10_000_000 {
            quiet.update(0.0, 1.0).unwrap();
        }
        let slowest = 1e7 * (-BETS[0] * 0.05).ln_1p() - (quiet.bets as f64).ln();
        assert!((quiet.log_wealth() / slowest - 1.0).abs() < 1e-8, "{}", quiet.log_wealth());
        assert_eq!((quiet.wealth(), quiet.alarmed()), (0.0, false));
        let mut loud = alarm();
        for _ in 0..1_000_000 {
            loud.update(1.0, MAX_WEIGHT).unwrap();
        }
        let fastest = 1e6 * (8.0_f64 * (1e6 - 0.05)).ln_1p() - (loud.bets as f64).ln();
        assert!((loud.log_wealth() / fastest - 1.0).abs() < 1e-8);
        assert_eq!((loud.wealth(), loud.alarmed_at()), (f64::INFINITY, Some(1)));
        for state in [quiet, loud] {
            assert_eq!(RiskAlarm::from_bytes(&state.to_bytes()).unwrap(), state);
        }
    }

    #[test]
    fn one_by_one_and_many_are_the_same_bits() {
        let losses: Vec<f64> = (0..5000).map(|i| f64::from(u8::from(i % 13 == 0))).collect();
        let weights: Vec<f64> = (0..5000).map(|i| f64::from(1 + i % 7)).collect();
        let (mut one, mut many) = (alarm(), alarm());
        for (loss, weight) in losses.iter().zip(&weights) {
            one.update(*loss, *weight).unwrap();
        }
        assert!(many.update_many(&losses, Some(&weights)).unwrap());
        assert_eq!(one.to_bytes(), many.to_bytes());
    }

    #[test]
    fn what_breaks_the_promise_is_refused_and_changes_nothing() {
        let mut a = alarm();
        for (loss, weight) in [
            (-0.1, 1.0),
            (1.1, 1.0),
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (1.0, 0.5),
            (1.0, -1.0),
            (1.0, f64::INFINITY),
            (0.0, 2e6),
        ] {
            assert!(a.update(loss, weight).is_err(), "{loss} {weight}");
            assert!(a.update_many(&[0.0, loss], Some(&[1.0, weight])).is_err());
        }
        assert_eq!(a, alarm());
    }

    #[test]
    fn forged_and_damaged_states_are_refused() {
        let mut a = alarm();
        a.update_many(&[0.0, 1.0, 0.25], None).unwrap();
        let good = a.to_bytes();
        for end in 0..good.len() {
            assert!(RiskAlarm::from_bytes(&good[..end]).is_err());
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(RiskAlarm::from_bytes(&bad).is_err(), "byte {at}");
        }
        // Hashed by the forger: wealth out of nothing, NaN, an alarm in the future.
        for (number, bits) in [
            (0, 3),
            (0, u64::MAX),
            (1, 2.0_f64.to_bits()),
            (3, 0),
            (4, f64::NAN.to_bits()),
            (5, 4),
            (6, 1e40_f64.to_bits()),
            (6, f64::NAN.to_bits()),
            (6, 0),
            (7, 1 << 50),
            (7, i64::MIN.cast_unsigned()),
        ] {
            let mut words = Writer::new(NAME);
            for (i, w) in good[24..good.len() - 32].as_chunks::<8>().0.iter().enumerate() {
                words.u64(if i == number { bits } else { u64::from_le_bytes(*w) });
            }
            let error = RiskAlarm::from_bytes(&words.finish()).unwrap_err();
            assert!(error.to_string().len() < 400, "{error}");
        }
    }
}
