//! First pass: margins counted by the high half of their keys.

use crate::base::checks::check_len;
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_SAMPLES;
use crate::calibration::counts::cells::{Cell, CellCounts, MAX_WANTED, Wanted};
use crate::calibration::counts::{CELLS, MAX_LAMS, check_rows, check_total, sums_to_at_most};
use crate::calibration::promise::Promise;
use crate::calibration::state::{Reader, Writer};
use crate::ranks::histogram::{descend, key};

const FIRST: &str = "cr2fast.margin_counts/1";

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
        Ok(CellCounts::new(self.lams, self.n, wanted, cells))
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
