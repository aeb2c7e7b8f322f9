//! Symmetric positive-definite systems, in double precision.
//!
//! In: A (k, k), its lower triangle, and B (k, m). Out: X with A·X = B, by A = L·Lᵀ.

use rayon::prelude::*;

use crate::ops::product::{Strided, accumulate};

/// Rows of the trailing matrix that one product updates.
const ROWS: usize = 1024;

/// Solve in place: B becomes X, and A's lower triangle L. `panel` columns are factored at a time
/// (k: by the textbook's loop); whether every pivot was positive.
#[must_use]
pub fn solve(a: &mut [f64], b: &mut [f64], (k, m): (usize, usize), panel: usize) -> bool {
    for start in (0..k).step_by(panel) {
        let end = (start + panel).min(k);
        factor(a, k, start, end);
        let diagonal = a[start * k..end * k].to_vec();
        a[end * k..].par_chunks_mut(k).for_each(|row| below(row, &diagonal, k, start, end));
        update(a, k, start, end);
    }
    let positive = (0..k).all(|i| a[i * k + i] > 0.0);
    for col in 0..m {
        for i in 0..k {
            let dot: f64 = (0..i).map(|t| a[i * k + t] * b[t * m + col]).sum();
            b[i * m + col] = (b[i * m + col] - dot) / a[i * k + i];
        }
        for i in (0..k).rev() {
            let dot: f64 = (i + 1..k).map(|t| a[t * k + i] * b[t * m + col]).sum();
            b[i * m + col] = (b[i * m + col] - dot) / a[i * k + i];
        }
    }
    positive
}

/// The diagonal block of a panel.
fn factor(a: &mut [f64], k: usize, start: usize, end: usize) {
    for j in start..end {
        for i in j..end {
            let dot: f64 = (start..j).map(|t| a[i * k + t] * a[j * k + t]).sum();
            let v = a[i * k + j] - dot;
            a[i * k + j] = if i == j { v.sqrt() } else { v / a[j * k + j] };
        }
    }
}

/// A row below the panel's diagonal block.
fn below(row: &mut [f64], diagonal: &[f64], k: usize, start: usize, end: usize) {
    for j in start..end {
        let l = &diagonal[(j - start) * k..][..=j];
        let dot: f64 = (start..j).map(|t| row[t] * l[t]).sum();
        row[j] = (row[j] - dot) / l[j];
    }
}

/// What the panel takes off the lower triangle to its right.
fn update(a: &mut [f64], k: usize, start: usize, end: usize) {
    let width = end - start;
    let panel: Vec<f64> = a[end * k..].chunks(k).flat_map(|row| row[start..end].to_vec()).collect();
    for first in (end..k).step_by(ROWS) {
        let last = (first + ROWS).min(k);
        let rows = &panel[(first - end) * width..(last - end) * width];
        let all = Strided::new(&panel, width);
        let sizes = (last - first, width, last - end);
        accumulate(sizes, -1.0, Strided::new(rows, width), all.t(), &mut a[first * k + end..], k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A = H·Hᵀ + I of a fixed H, in panels of several widths: A·X = B, and the same X.
    #[test]
    fn panels_solve_the_system() {
        let (k, m) = (37, 3);
        let h: Vec<f64> =
            (0..k * k).map(|i| f64::from((i * 7919 % 101) as u32) / 50.0 - 1.0).collect();
        let entry = |i: usize, j: usize| {
            (0..k).map(|t| h[i * k + t] * h[j * k + t]).sum::<f64>() + f64::from(u8::from(i == j))
        };
        let a: Vec<f64> = (0..k * k).map(|at| entry(at / k, at % k)).collect();
        let b: Vec<f64> = (0..k * m).map(|i| f64::from((i * 31 % 17) as u32)).collect();
        for panel in [1, 5, 16, k, k + 9] {
            let (mut l, mut x) = (a.clone(), b.clone());
            assert!(solve(&mut l, &mut x, (k, m), panel));
            for i in 0..k {
                for j in 0..m {
                    let got: f64 = (0..k).map(|t| a[i * k + t] * x[t * m + j]).sum();
                    assert!((got - b[i * m + j]).abs() < 1e-8, "panel {panel}: {got}");
                }
            }
        }
        let mut singular = vec![0.0; 4];
        assert!(!solve(&mut singular, &mut [1.0, 1.0], (2, 1), 2));
    }
}
