//! Exact calibration of rows that no single machine holds, in two passes over them.
//!
//! In: margins and r of any share of the rows, at L cost weights, wherever they are. Out: the thresholds
//! that one machine would choose on all rows together, bit for bit.
//!
//! A margin is known by an ordered key of 32 bits ([`crate::ranks::histogram`]). The first pass counts the
//! margins with r = 1 by the high 16 bits of their keys: half a megabyte per λ, however many rows. Counts
//! of several machines are added ([`margins::MarginCounts::merge`]), and then tell in which cell the (k+1)-th largest
//! margin lies, and how many lie in the cells above. The second pass counts, within these cells only,
//! by the low 16 bits ([`cells::CellCounts`]); counts are added again, and the margin is found.

use crate::base::checks::{check_finite, check_len};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_SAMPLES;

pub mod cells;
pub mod margins;

/// Cells of 16 bits.
const CELLS: usize = 1 << 16;
/// Cost weights of one state, at most: half a gigabyte.
const MAX_LAMS: usize = 1024;

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

fn sums_to_at_most(counts: &[u64], n: u64) -> bool {
    let sum = counts.iter().try_fold(0_u64, |sum, c| sum.checked_add(*c));
    sum.is_some_and(|sum| sum <= n)
}

#[cfg(test)]
mod tests {
    use super::cells::CellCounts;
    use super::margins::MarginCounts;
    use crate::calibration::crc::thresholds;
    use crate::calibration::promise::Promise;

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
