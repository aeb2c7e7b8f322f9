//! Exact calibration of rows that no single machine holds, in two passes over them.
//!
//! In: margins and r of any share of the rows, at L cost weights, wherever they are. Out: the thresholds
//! that one machine would choose on all rows together, bit for bit.
//!
//! A margin is known by an ordered key of 32 bits ([`crate::ranks::histogram`]). The first pass counts the
//! margins with r = 1 by the high 16 bits of their keys: half a megabyte per λ, however many rows. Counts
//! of several machines are added ([`MarginCounts::merge`]), and then tell in which cell the (k+1)-th largest
//! margin lies, and how many lie in the cells above. The second pass counts, within these cells only,
//! by the low 16 bits ([`CellCounts`]); counts are added again, and the margin is found.

use crate::base::checks::{check_finite, check_len};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_SAMPLES;
use crate::calibration::crc::just_above;
use crate::calibration::promise::Promise;
use crate::calibration::state::{Reader, Writer};
use crate::ranks::found::Found;
use crate::ranks::histogram::{descend, key, unkey};

/// Cells of 16 bits.
const CELLS: usize = 1 << 16;
/// Cost weights of one state, at most: half a gigabyte.
const MAX_LAMS: usize = 1024;
/// Cells counted in a second pass, at most: half a gigabyte.
const MAX_WANTED: usize = 1024;

const FIRST: &str = "cr2fast.margin_counts/1";
const SECOND: &str = "cr2fast.cell_counts/1";

/// What margins and labels of one share have to look like: the rows' number.
fn check_rows(lams: usize, margins: &[f32], prefers_edge: &[bool]) -> Result<usize> {
    check_finite("margins", margins)?;
    check_len("prefers_edge (L·N values)", margins.len(), prefers_edge.len())?;
    if !margins.len().is_multiple_of(lams) {
        return Err(Error::argument("margins", format!("{lams} rows of equal length"), "others"));
    }
    Ok(margins.len() / lams)
}

fn check_total(n: usize) -> Result<()> {
    if n <= MAX_SAMPLES {
        return Ok(());
    }
    Err(Error::argument("samples", format!("at most {MAX_SAMPLES} in all"), n))
}

/// First pass: margins with r = 1, counted by the high half of their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct MarginCounts {
    lams: usize,
    /// Rows seen, whatever their r.
    n: usize,
    /// (L, 2^16).
    counts: Vec<u64>,
}

impl MarginCounts {
    /// Nothing counted yet, at L cost weights.
    pub fn new(lams: usize) -> Result<Self> {
        if lams == 0 || lams > MAX_LAMS {
            return Err(Error::argument("lams", format!("1 to {MAX_LAMS} cost weights"), lams));
        }
        Ok(Self { lams, n: 0, counts: vec![0; lams * CELLS] })
    }

    /// Cost weights L.
    pub fn lams(&self) -> usize {
        self.lams
    }

    /// Rows so far.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Count N rows: margins (L, N) and r (L, N).
    pub fn update(&mut self, margins: &[f32], prefers_edge: &[bool]) -> Result<()> {
        let n = check_rows(self.lams, margins, prefers_edge)?;
        check_total(self.n + n)?;
        self.n += n;
        if n == 0 {
            return Ok(());
        }
        let rows = margins.chunks_exact(n).zip(prefers_edge.chunks_exact(n));
        for ((margins, prefers), counts) in rows.zip(self.counts.chunks_exact_mut(CELLS)) {
            for (margin, _) in margins.iter().zip(prefers).filter(|(_, r)| **r) {
                counts[(key(*margin) >> 16) as usize] += 1;
            }
        }
        Ok(())
    }

    /// What both counted, of different rows.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        check_len("lams", self.lams, other.lams)?;
        check_total(self.n + other.n)?;
        let counts = self.counts.iter().zip(&other.counts).map(|(a, b)| a + b).collect();
        Ok(Self { lams: self.lams, n: self.n + other.n, counts })
    }

    /// What the second pass has to count for thresholds at these levels. Levels that the rows cannot
    /// promise defer everything where `defer` allows it.
    pub fn second_pass(&self, alphas: &[f64], promise: Promise, defer: bool) -> Result<CellCounts> {
        if self.n == 0 || alphas.is_empty() {
            let expected = "at least one row counted, and one risk level";
            let got = format!("{} and {}", self.n, alphas.len());
            return Err(Error::argument("second pass", expected, got));
        }
        let allowed = promise.allowed(self.n, self.lams, alphas)?;
        if let Some(at) = allowed.iter().position(Option::is_none).filter(|_| !defer) {
            return Err(promise.infeasible(alphas[at], self.n, (self.lams, alphas.len())));
        }
        let (mut wanted, mut cells) = (Vec::new(), Vec::<Cell>::new());
        for (l, counts) in self.counts.chunks_exact(CELLS).enumerate() {
            for k in &allowed {
                wanted.push(match k.map(|k| descend(counts, k as u64)) {
                    None => Wanted::Defer,
                    Some(None) => Wanted::Accept,
                    Some(Some((high, rank))) => {
                        let cell = Cell { l, high, total: counts[high as usize] };
                        let place = cells.iter().position(|c| *c == cell);
                        let place = place.unwrap_or_else(|| {
                            cells.push(cell);
                            cells.len() - 1
                        });
                        Wanted::Rank { cell: place, rank }
                    }
                });
            }
        }
        if cells.len() > MAX_WANTED {
            return Err(Error::argument(
                "second pass",
                format!("at most {MAX_WANTED} cells; ask for fewer cost weights or levels at once"),
                cells.len(),
            ));
        }
        let counts = vec![0; cells.len() * CELLS];
        Ok(CellCounts { lams: self.lams, of: self.n, n: 0, wanted, cells, counts })
    }

    /// The state, half a megabyte per λ.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(FIRST);
        out.u64(self.lams as u64).u64(self.n as u64);
        for count in &self.counts {
            out.u64(*count);
        }
        out.finish()
    }

    /// A state back; one that no rows lead to is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let size =
            |lams: u64| (1..=MAX_LAMS as u64).contains(&lams).then(|| 2 + lams as usize * CELLS);
        let mut r = Reader::open(FIRST, "margin counts", bytes, size)?;
        let (lams, n) = (r.u64() as usize, r.u64());
        r.check(n <= MAX_SAMPLES as u64, "a number of rows", n)?;
        let counts: Vec<u64> = (0..lams * CELLS).map(|_| r.u64()).collect();
        r.check(counts.chunks_exact(CELLS).all(|c| sums_to_at_most(c, n)), "counts of n rows", n)?;
        Ok(Self { lams, n: n as usize, counts })
    }
}

fn sums_to_at_most(counts: &[u64], n: u64) -> bool {
    let sum = counts.iter().try_fold(0_u64, |sum, c| sum.checked_add(*c));
    sum.is_some_and(|sum| sum <= n)
}

/// A cell that the second pass looks into.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    l: usize,
    /// High half of the keys in it.
    high: u32,
    /// How many the first pass counted.
    total: u64,
}

/// What a threshold is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    /// The level cannot be promised.
    Defer,
    /// Fewer queries prefer the edge than may be accepted falsely.
    Accept,
    /// The rank-th largest margin of a cell, from 0.
    Rank { cell: usize, rank: u64 },
}

/// Second pass: margins with r = 1 in the wanted cells, counted by the low half of their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct CellCounts {
    lams: usize,
    /// Rows of the first pass, and those seen in this one.
    of: usize,
    n: usize,
    /// (L, A).
    wanted: Vec<Wanted>,
    cells: Vec<Cell>,
    /// (cells, 2^16).
    counts: Vec<u64>,
}

impl CellCounts {
    /// Cost weights L.
    pub fn lams(&self) -> usize {
        self.lams
    }

    /// Risk levels A.
    pub fn alphas(&self) -> usize {
        self.wanted.len() / self.lams
    }

    /// Rows so far.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Count N rows again: the same margins (L, N) and r (L, N) as in the first pass, in any order.
    pub fn update(&mut self, margins: &[f32], prefers_edge: &[bool]) -> Result<()> {
        let n = check_rows(self.lams, margins, prefers_edge)?;
        check_total(self.n + n)?;
        self.n += n;
        for (cell, counts) in self.cells.iter().zip(self.counts.chunks_exact_mut(CELLS)) {
            let span = cell.l * n..(cell.l + 1) * n;
            let rows = margins[span.clone()].iter().zip(&prefers_edge[span]);
            for key in rows.filter(|(_, r)| **r).map(|(margin, _)| key(*margin)) {
                if key >> 16 == cell.high {
                    counts[key as usize & (CELLS - 1)] += 1;
                }
            }
        }
        Ok(())
    }

    /// What both counted, of different rows.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        let same = (self.lams, self.of) == (other.lams, other.of)
            && (&self.wanted, &self.cells) == (&other.wanted, &other.cells);
        if !same {
            let expected = "counts for the same first pass and levels";
            return Err(Error::argument("merge", expected, "those of another"));
        }
        check_total(self.n + other.n)?;
        let counts = self.counts.iter().zip(&other.counts).map(|(a, b)| a + b).collect();
        Ok(Self { n: self.n + other.n, counts, ..self.clone() })
    }

    /// Thresholds (L, A), once all rows were counted twice.
    pub fn thresholds(&self) -> Result<Vec<f32>> {
        let seen = self.counts.chunks_exact(CELLS).map(|c| c.iter().sum::<u64>());
        let whole = self.cells.iter().map(|c| c.total).eq(seen);
        if self.n != self.of || !whole {
            return Err(Error::argument(
                "second pass",
                format!("the {} rows of the first pass, each once", self.of),
                if self.n == self.of { "others".into() } else { format!("{} rows", self.n) },
            ));
        }
        let found = |wanted: &Wanted| match *wanted {
            Wanted::Defer => f32::INFINITY,
            Wanted::Accept => just_above(Found::TooFew),
            Wanted::Rank { cell, rank } => {
                let low = descend(&self.counts[cell * CELLS..(cell + 1) * CELLS], rank);
                let low = low.map(|(low, _)| unkey(self.cells[cell].high << 16 | low));
                just_above(low.map_or(Found::Unstable, Found::Score))
            }
        };
        Ok(self.wanted.iter().map(found).collect())
    }

    /// The state: half a megabyte per wanted cell, of which there are at most A per λ.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(SECOND);
        let words = 6 + 3 * self.wanted.len() + 3 * self.cells.len() + self.counts.len();
        out.u64(words as u64).u64(self.lams as u64).u64(self.of as u64).u64(self.n as u64);
        out.u64(self.wanted.len() as u64).u64(self.cells.len() as u64);
        for wanted in &self.wanted {
            let (kind, cell, rank) = match *wanted {
                Wanted::Defer => (0, 0, 0),
                Wanted::Accept => (1, 0, 0),
                Wanted::Rank { cell, rank } => (2, cell, rank),
            };
            out.u64(kind).u64(cell as u64).u64(rank);
        }
        for cell in &self.cells {
            out.u64(cell.l as u64).u64(cell.high.into()).u64(cell.total);
        }
        for count in &self.counts {
            out.u64(*count);
        }
        out.finish()
    }

    /// A state back; one that no rows lead to is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut r =
            Reader::open(SECOND, "cell counts", bytes, |words| usize::try_from(words).ok())?;
        let words = r.u64();
        let [lams, of, n, wanted, cells] = std::array::from_fn(|_| r.u64());
        let sizes = (1..=MAX_LAMS as u64).contains(&lams)
            && cells <= MAX_WANTED as u64
            && wanted <= words
            && wanted.checked_rem(lams) == Some(0)
            && words == 6 + 3 * wanted + cells * (3 + CELLS as u64)
            && n.max(of) <= MAX_SAMPLES as u64;
        r.check(sizes && wanted > 0, "sizes that agree", format!("{lams}, {wanted}, {cells}"))?;
        let kinds: Vec<_> = (0..wanted).map(|_| (r.u64(), r.u64(), r.u64())).collect();
        let found: Vec<_> = (0..cells).map(|_| (r.u64(), r.u64(), r.u64())).collect();
        let inside =
            |(l, high, total): &(u64, u64, u64)| *l < lams && *high < CELLS as u64 && *total <= of;
        r.check(found.iter().all(inside), "cells of the first pass", "others")?;
        let known = |(kind, cell, rank): &(u64, u64, u64)| match kind {
            0 | 1 => true,
            2 => found.get(*cell as usize).is_some_and(|(_, _, total)| rank < total),
            _ => false,
        };
        r.check(kinds.iter().all(known), "ranks within their cells", "others")?;
        let counts: Vec<u64> = (0..cells as usize * CELLS).map(|_| r.u64()).collect();
        r.check(counts.chunks_exact(CELLS).all(|c| sums_to_at_most(c, n)), "counts of n rows", n)?;
        let of_kind = |(kind, cell, rank): (u64, u64, u64)| match kind {
            0 => Wanted::Defer,
            1 => Wanted::Accept,
            _ => Wanted::Rank { cell: cell as usize, rank },
        };
        Ok(Self {
            lams: lams as usize,
            of: of as usize,
            n: n as usize,
            wanted: kinds.into_iter().map(of_kind).collect(),
            cells: found
                .into_iter()
                .map(|(l, high, total)| Cell { l: l as usize, high: high as u32, total })
                .collect(),
            counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::crc::thresholds;

    fn numbers(n: usize, mut state: u64) -> Vec<f32> {
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 40) as f32 / (1 << 22) as f32 - 2.0).powi(3)
            })
            .collect()
    }

    #[test]
    fn two_passes_over_shares_are_one_machine_bit_for_bit() {
        let (lams, n, alphas) = (3, 5000, [0.0001, 0.001, 0.01, 0.05, 0.5]);
        for ties in [false, true] {
            let mut margins = numbers(lams * n, 7);
            if ties {
                for m in &mut margins {
                    *m = (*m * 2.0).round() / 2.0;
                }
            }
            let prefers: Vec<bool> = numbers(lams * n, 8).iter().map(|u| *u < -0.2).collect();
            let one = thresholds(&margins, &prefers, n, &alphas, true, 1).unwrap();
            let share = |from: usize, to: usize| {
                let cut = |l: usize| l * n + from..l * n + to;
                let m: Vec<f32> = (0..lams).flat_map(|l| margins[cut(l)].to_vec()).collect();
                let r: Vec<bool> = (0..lams).flat_map(|l| prefers[cut(l)].to_vec()).collect();
                (m, r)
            };
            let shares = [share(0, 1), share(1, 1), share(1, 3000), share(3000, n)];
            let mut first = MarginCounts::new(lams).unwrap();
            for (m, r) in &shares {
                let mut part = MarginCounts::new(lams).unwrap();
                part.update(m, r).unwrap();
                let sent = MarginCounts::from_bytes(&part.to_bytes()).unwrap();
                assert_eq!(sent, part);
                first = first.merge(&sent).unwrap();
            }
            let empty = first.second_pass(&alphas, Promise::Each, true).unwrap();
            assert!(first.second_pass(&alphas, Promise::Each, false).is_err());
            let mut second = empty.clone();
            assert!(second.thresholds().is_err());
            for (m, r) in &shares {
                let mut part = empty.clone();
                part.update(m, r).unwrap();
                let sent = CellCounts::from_bytes(&part.to_bytes()).unwrap();
                assert_eq!(sent, part);
                second = second.merge(&sent).unwrap();
            }
            let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(second.thresholds().unwrap()), bits(one));
        }
    }

    #[test]
    fn other_rows_in_the_second_pass_are_noticed() {
        let (margins, prefers) = (numbers(400, 3), vec![true; 400]);
        let mut first = MarginCounts::new(1).unwrap();
        first.update(&margins, &prefers).unwrap();
        let mut second = first.second_pass(&[0.1], Promise::Each, false).unwrap();
        let shifted: Vec<f32> = margins.iter().map(|m| m + 100.0).collect();
        second.update(&shifted, &prefers).unwrap();
        assert!(second.thresholds().unwrap_err().to_string().contains("got others"));
        second.update(&margins, &prefers).unwrap();
        assert!(second.thresholds().unwrap_err().to_string().contains("800 rows"));
    }
}
