//! Second pass: margins in the cells that the first pass named, counted by the low half of their keys.

use crate::base::error::{Error, Result};
use crate::base::limits::MAX_SAMPLES;
use crate::calibration::counts::{CELLS, MAX_LAMS, check_rows, check_total, sums_to_at_most};
use crate::calibration::crc::just_above;
use crate::calibration::state::{Reader, Writer};
use crate::ranks::found::Found;
use crate::ranks::histogram::{descend, key, unkey};

/// Cells counted in a second pass, at most: half a gigabyte.
pub(super) const MAX_WANTED: usize = 1024;

const SECOND: &str = "cr2fast.cell_counts/1";

/// A cell that the second pass looks into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Index of its λ.
    pub l: usize,
    /// High half of the keys in it.
    pub high: u32,
    /// How many the first pass counted.
    pub total: u64,
}

/// What a threshold is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
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
    /// Nothing counted yet, after a first pass over `of` rows.
    pub(super) fn new(lams: usize, of: usize, wanted: Vec<Wanted>, cells: Vec<Cell>) -> Self {
        let counts = vec![0; cells.len() * CELLS];
        Self { lams, of, n: 0, wanted, cells, counts }
    }

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
