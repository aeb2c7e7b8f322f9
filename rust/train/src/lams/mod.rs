//! The cost weights worth learning, from the data.
//!
//! In: p and c (N, M) of the training split, by the teacher that will serve. Out: [`LamRange`], from
//! where 2 % of the full-information choices are local to where 98 % are (equations 26–29, 46–48 of
//! arXiv 2605.12001). Below it every query goes to the edge whatever λ is, above it none does: what a
//! gate learns there, and a grid that lies there, is mostly of no use.
//!
//! Mostly: the edge models trade with each other too. Where more than a tenth of the choices have moved
//! to a cheaper edge model before 2 % are local, the range starts where 2 % have moved. On one pool all
//! of them have: 70 billion parameters give way to 3 between λ = .13 and .8, and no query becomes local
//! before 1.2; a range from there on holds no point that is nearly as accurate as the largest model.
//!
//! Row by row, the choice is local on one interval of λ: p_0 − p_m ≥ λ·(c_0 − c_m) is a half-line for
//! each edge model m. So the rate is known at every λ from the ends of N intervals, without a search.
//!
//! **Where the rate never comes to 2 % or to 98 %** (a local model that is the best for many queries at
//! no price at all, or that costs more than an edge model), that end lies at the 2 % or 98 % quantile of
//! the λ at which a choice changes. Where fewer than 2 % of the choices change at any λ there is nothing
//! to learn from, and the range is the paper's. Either is said in the note.

mod grid;

use serde::Serialize;

use grid::{apart, rounded, spread, within};

/// The paper's range, which is taken where the data tell none.
pub const PAPER_LAMS: (f64, f64) = (0.1, 20.0);
/// The rate at the lower end, and what is missing to 1 at the upper one.
const TAIL: f64 = 0.02;
/// Points of the grid.
const POINTS: usize = 32;
/// Where more choices than this part change before 2 % are local, the range starts where 2 % have
/// changed, and this many points lie below the local ones, which keep a margin for another sample.
const MANY: f64 = 0.1;
const BELOW: usize = 4;
const MARGIN: f64 = 0.04;

/// Cost weights to learn, and why these.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LamRange {
    /// "auto", or "given" where the caller named the ends.
    pub source: &'static str,
    /// Least λ.
    pub low: f64,
    /// Greatest λ.
    pub high: f64,
    /// Where the full-information local rate of the training split is 2 % and 98 %.
    pub local: [f64; 2],
    /// That rate there.
    pub local_rate: [f64; 2],
    /// Where to calibrate by default, ascending; empty where the caller named the ends.
    pub grid: Vec<f64>,
    /// What stood in the way of 2 % and 98 %, if anything did.
    pub note: Option<String>,
}

/// The full-information local rate of some rows, at every λ.
pub struct LocalRate {
    /// Rows.
    n: usize,
    /// Rows that are local as λ falls to 0.
    at_zero: f64,
    /// (λ, change): where rows become local (+1) or cease to be (−1), ascending.
    steps: Vec<(f64, f64)>,
    /// Rows whose choice changes at some λ.
    changing: usize,
    /// λ at which rows leave the choice that they have as λ falls to 0, ascending.
    leaving: Vec<f64>,
}

impl LocalRate {
    /// From p and c (N, M), the local model first.
    pub fn new(p: &[f32], c: &[f32], models: usize) -> Self {
        let mut rate = Self {
            n: p.len() / models,
            at_zero: 0.0,
            steps: Vec::new(),
            changing: 0,
            leaving: Vec::new(),
        };
        for (p, c) in p.chunks_exact(models).zip(c.chunks_exact(models)) {
            rate.leaving.extend(leaving(p, c));
            let Some((from, to)) = local_interval(p, c) else { continue };
            if from > 0.0 {
                rate.steps.push((from, 1.0));
            } else {
                rate.at_zero += 1.0;
            }
            if to.is_finite() {
                rate.steps.push((to, -1.0));
            }
            rate.changing += usize::from(from > 0.0 || to.is_finite());
        }
        rate.leaving.sort_by(f64::total_cmp);
        // Where one row becomes local and another ceases to be, both are local at that very λ.
        rate.steps.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        rate
    }

    /// The rate at `lam`.
    pub fn at(&self, lam: f64) -> f64 {
        let before = |(at, change): &&(f64, f64)| *at < lam || (*at == lam && *change > 0.0);
        let sum: f64 = self.steps.iter().take_while(before).map(|s| s.1).sum();
        (self.at_zero + sum) / self.n as f64
    }

    /// The least λ > 0 at which the rate comes to `target`, from below.
    fn first(&self, target: f64) -> Option<f64> {
        let mut local = self.at_zero;
        if local >= target * self.n as f64 {
            return None;
        }
        self.steps.iter().find_map(|(lam, change)| {
            local += change;
            (local >= target * self.n as f64).then_some(*lam)
        })
    }

    /// A quantile of the λ at which choices change.
    fn quantile(&self, q: f64) -> f64 {
        self.steps[((self.steps.len() - 1) as f64 * q).round() as usize].0
    }

    /// The range to learn, within `limits`.
    pub fn range(&self, limits: (f64, f64)) -> LamRange {
        let mut notes = Vec::new();
        let (low, high) = if (self.changing as f64) < TAIL * self.n as f64 {
            notes.push(format!(
                "the full-information choice changes with lam for {} of {} queries: the range is \
                 the paper's",
                self.changing, self.n
            ));
            PAPER_LAMS
        } else {
            let (low, high) = self.ends(&mut notes);
            let (low, high) = apart(low, high, &mut notes);
            within(low, high, limits, &mut notes)
        };
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        let local_rate = [self.at(low), self.at(high)];
        let is_papers = (low, high) == PAPER_LAMS;
        let start = self.edge_start(low, limits).filter(|_| !is_papers);
        let grid = self.grid(start.unwrap_or(low), high, start.is_some());
        LamRange {
            source: "auto",
            low: start.unwrap_or(low),
            high,
            local: [low, high],
            local_rate,
            grid,
            note,
        }
    }

    /// Where choices start to change, if many do so before any becomes local.
    fn edge_start(&self, low: f64, limits: (f64, f64)) -> Option<f64> {
        let before = self.leaving.partition_point(|l| *l < low) as f64 / self.n as f64;
        let start = *self.leaving.get((TAIL * self.n as f64) as usize)?;
        let start = rounded(start.clamp(limits.0, limits.1), true);
        (before > MANY && start < low).then_some(start)
    }

    /// A range that the caller named.
    pub fn given(&self, (low, high): (f64, f64)) -> LamRange {
        let local = [low, high];
        let local_rate = local.map(|lam| self.at(lam));
        LamRange { source: "given", low, high, local, local_rate, grid: Vec::new(), note: None }
    }

    /// The default grid between `low` and `high`: [`BELOW`] points under the local range where it has
    /// a part there, the others where choices become local.
    fn grid(&self, low: f64, high: f64, is_extended: bool) -> Vec<f64> {
        let steps: Vec<f64> = self.steps.iter().map(|s| s.0).collect();
        if !is_extended || steps.is_empty() {
            return spread(low, high, POINTS, &steps);
        }
        let inner = |part: f64| self.first(part).unwrap_or_else(|| self.quantile(part));
        let (a, b) = (rounded(inner(MARGIN), true), rounded(inner(1.0 - MARGIN), false));
        if !(low < a && a < b && b <= high) {
            return spread(low, high, POINTS, &steps);
        }
        let mut below = spread(low, a, BELOW + 1, &self.leaving);
        below.truncate(BELOW);
        below.extend(spread(a, b, POINTS - BELOW, &steps));
        below
    }

    fn ends(&self, notes: &mut Vec<String>) -> (f64, f64) {
        let mut end = |target: f64| {
            self.first(target).unwrap_or_else(|| {
                notes.push(format!(
                    "no lam takes the full-information local rate up to {target}: that end is where \
                     {target} of the choices that change with lam have changed"
                ));
                self.quantile(target)
            })
        };
        let (low, high) = (end(TAIL), end(1.0 - TAIL));
        if low < high { (low, high) } else { (self.quantile(TAIL), self.quantile(1.0 - TAIL)) }
    }
}

/// The λ at which a cheaper model overtakes the one that is best at no price.
fn leaving(p: &[f32], c: &[f32]) -> Option<f64> {
    let better = |a: &usize, b: &usize| p[*a].total_cmp(&p[*b]).then(c[*b].total_cmp(&c[*a]));
    let best = (0..p.len()).max_by(better)?;
    let overtakes = |m: usize| {
        let saved = f64::from(c[best]) - f64::from(c[m]);
        (saved > 0.0).then(|| (f64::from(p[best]) - f64::from(p[m])) / saved)
    };
    (0..p.len()).filter_map(overtakes).min_by(f64::total_cmp)
}

/// Where λ > 0 leaves the choice local, both ends included; `None` where it is never.
fn local_interval(p: &[f32], c: &[f32]) -> Option<(f64, f64)> {
    let (mut from, mut to) = (0.0_f64, f64::INFINITY);
    for (pm, cm) in p[1..].iter().zip(&c[1..]) {
        let ahead = f64::from(p[0]) - f64::from(*pm);
        let dearer = f64::from(c[0]) - f64::from(*cm);
        if dearer < 0.0 {
            from = from.max(ahead / dearer);
        } else if dearer > 0.0 {
            to = to.min(ahead / dearer);
        } else if ahead < 0.0 {
            return None;
        }
    }
    (to > 0.0 && from <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use cr2fast_core::choice_margin;
    use rand::Rng;

    use super::*;
    use crate::ops::nn::{self, Stream};

    const LIMITS: (f64, f64) = (1e-6, 1e6);

    /// Rows with a local model that is `dearer` in some, and the rate counted at each λ.
    fn rows(n: usize, dearer: f64, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let rng = &mut nn::stream(seed, Stream::Split);
        let p = (0..3 * n).map(|_| rng.random::<f32>()).collect();
        let c = (0..n).flat_map(|_| {
            let local = if rng.random_bool(dearer) { 2.0 } else { 0.05 };
            [local * rng.random::<f32>(), rng.random_range(0.1..0.5), 1.0]
        });
        (p, c.collect())
    }

    fn counted(p: &[f32], c: &[f32], lam: f64) -> f64 {
        let rows = p.chunks_exact(3).zip(c.chunks_exact(3));
        let local = rows.filter(|(p, c)| choice_margin(p, c, lam) >= 0.0).count();
        local as f64 / (p.len() / 3) as f64
    }

    #[test]
    fn the_rate_is_what_counting_choices_gives() {
        for dearer in [0.0, 0.3, 1.0] {
            let (p, c) = rows(500, dearer, 7);
            let rate = LocalRate::new(&p, &c, 3);
            for i in 0..200 {
                let lam = libm::exp(f64::from(i) * 0.08 - 9.0);
                assert_eq!(rate.at(lam), counted(&p, &c, lam), "{dearer} {lam}");
            }
        }
    }

    #[test]
    fn a_range_ends_at_two_and_at_ninety_eight_percent() {
        // The local model is never the best at no price.
        let (mut p, c) = rows(4000, 0.0, 1);
        p.chunks_exact_mut(3).for_each(|p| p[0] = 0.9 * p[0].min(p[2]));
        let rate = LocalRate::new(&p, &c, 3);
        let range = rate.range(LIMITS);
        assert_eq!((range.source, &range.note), ("auto", &None));
        let rates = range.local.map(|lam| counted(&p, &c, lam));
        assert_eq!(range.local_rate, rates);
        assert!(rates[0] >= 0.02 && rates[0] < 0.03, "{rates:?}");
        assert!(rates[1] <= 0.98 && rates[1] > 0.97, "{rates:?}");
        // No step passes over more than its part of the choices.
        let [low, high] = range.local;
        let grid = rate.grid(low, high, false);
        assert_eq!((grid.len(), grid[0], grid[31]), (32, low, high));
        assert!(grid.is_sorted_by(|a, b| a < b));
        for pair in grid.windows(2) {
            assert!(
                counted(&p, &c, pair[1]) - counted(&p, &c, pair[0]) < 0.96 / 31.0 / 0.75 + 0.001
            );
            assert!((pair[1] / pair[0]).ln() < (high / low).ln() / 31.0 / 0.25 + 0.001);
        }
        for end in [range.low, range.high] {
            assert_eq!(format!("{end:.2e}").parse::<f64>().unwrap(), end);
        }
    }

    /// A large model gives way to a small one long before the device takes any.
    #[test]
    fn a_range_starts_where_edge_models_trade_with_each_other() {
        let (mut p, mut c) = rows(4000, 0.0, 4);
        p.chunks_exact_mut(3).for_each(|p| {
            (p[0], p[1], p[2]) = (0.3 * p[0], 0.5 + 0.01 * p[1], 0.6 + 0.1 * p[2]);
        });
        c.chunks_exact_mut(3).for_each(|c| (c[0], c[1]) = (0.01, 0.05 + 0.1 * c[1]));
        let range = LocalRate::new(&p, &c, 3).range(LIMITS);
        assert_eq!((range.low, range.high), (range.grid[0], range.local[1]));
        assert!(range.low < range.local[0], "{range:?}");
        let moved = |lam: f64| {
            let gone = |(p, c): (&[f32], &[f32])| {
                choice_margin(&[p[2], p[0], p[1]], &[c[2], c[0], c[1]], lam) < 0.0
            };
            p.chunks_exact(3).zip(c.chunks_exact(3)).filter(|r| gone(*r)).count() as f64 / 4000.0
        };
        assert!((0.019..0.03).contains(&moved(range.low)), "{}", moved(range.low));
        assert_eq!(range.grid.len(), 32);
        assert!(range.grid.is_sorted_by(|a, b| a < b));
        let inside = range.grid.iter().filter(|l| (0.02..=0.98).contains(&counted(&p, &c, **l)));
        assert_eq!(inside.count(), 28);
    }

    #[test]
    fn an_end_that_the_rate_never_comes_to_is_said() {
        // A third is local at every λ, and a third at none above 2.
        let (p, c) = rows(4000, 0.3, 2);
        let range = LocalRate::new(&p, &c, 3).range(LIMITS);
        let note = range.note.unwrap();
        assert!(note.contains("up to 0.02") && note.contains("up to 0.98"), "{note}");
        assert!(range.low < range.high);
        // Dearer everywhere: the rate falls.
        let (p, c) = rows(4000, 1.0, 3);
        let rate = LocalRate::new(&p, &c, 3);
        let range = rate.range(LIMITS);
        assert!(range.low < range.high && range.local_rate[0] > range.local_rate[1]);
    }

    #[test]
    fn nothing_to_learn_from_gives_the_papers_range() {
        // Always the best and the cheapest; never the best nor cheaper; the same as all others.
        for (p, c) in [
            ([0.9, 0.1, 0.1], [0.1, 0.5, 1.0]),
            ([0.1, 0.9, 0.9], [1.0, 0.5, 1.0]),
            ([0.5; 3], [1.0; 3]),
        ] {
            let range = LocalRate::new(&p.repeat(100), &c.repeat(100), 3).range(LIMITS);
            assert_eq!((range.low, range.high), PAPER_LAMS);
            assert!(range.grid.is_sorted_by(|a, b| a < b));
            assert!(range.note.unwrap().contains("of 100 queries: the range is the paper's"));
        }
    }

    #[test]
    fn one_step_and_steps_beyond_the_limits_give_a_range_too() {
        for (gap, low, high) in [(0.5_f32, 0.707, 1.42), (5e-10, 1e-6, 2e-6)] {
            let (p, c) = ([0.0, gap, gap], [0.5, 1.0, 1.0]);
            let range = LocalRate::new(&p.repeat(50), &c.repeat(50), 3).range(LIMITS);
            assert!((range.low / low - 1.0).abs() < 0.01, "{range:?}");
            assert!((range.high / high - 1.0).abs() < 0.01, "{range:?}");
            assert!(range.note.unwrap().contains("widened"));
        }
        let (p, c) = ([0.0, 0.9, 0.9], [1.0, 1.0 + 2e-7, 1.0 + 2e-7]);
        let range = LocalRate::new(&p.repeat(50), &c.repeat(50), 3).range(LIMITS);
        assert!(range.high == 1e6 && range.low < 1e6, "{range:?}");
    }
}
