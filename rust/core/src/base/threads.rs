//! Split rows over scoped threads: started for one call, gone after it, no pool left behind.

use std::thread;

/// Rows a thread takes at least: under this the cost of starting it outweighs its work.
const MIN_ROWS: usize = 64;

/// Threads to use for `rows` rows when the caller allows `threads` (0: one per core). Never more than
/// the system says run at once, so that a careless number cannot exhaust it.
pub fn plan(threads: usize, rows: usize) -> usize {
    if threads == 1 {
        return 1;
    }
    allowed(threads).min(rows / MIN_ROWS).max(1)
}

/// Threads for a call that allows `threads` (0: one per core): never more than may run at once by the
/// process's CPU affinity and its control group's quota, whatever cores the machine has.
pub fn allowed(threads: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if threads == 0 { cores } else { threads.min(cores) }
}

/// Call `f(first_row, rows_of_out)` on contiguous parts of `out`, `width` values a row.
pub fn rows<T: Send>(
    threads: usize,
    out: &mut [T],
    width: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let n = out.len().checked_div(width).unwrap_or(0);
    split(plan(threads, n), out, width, f);
}

/// The same for rows that are each a large piece of work.
pub fn chunks<T: Send>(
    threads: usize,
    out: &mut [T],
    width: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let n = out.len().checked_div(width).unwrap_or(0);
    split(plan(threads, n * MIN_ROWS), out, width, f);
}

fn split<T: Send>(parts: usize, out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if parts == 1 {
        return f(0, out);
    }
    let per = (out.len() / width).div_ceil(parts);
    thread::scope(|scope| {
        let mut parts = out.chunks_mut(per * width).enumerate();
        // The caller's thread takes the first: it is awake, and on a core of its own.
        let first = parts.next();
        for (i, part) in parts {
            let f = &f;
            scope.spawn(move || f(i * per, part));
        }
        if let Some((_, part)) = first {
            f(0, part);
        }
    });
}

/// Call `f(first, columns)` on parts of `out`, (L, N) values in rows of `n`: `columns` holds for each
/// of the L rows the same range of its N values, from `first` on.
pub fn columns<T: Send>(
    threads: usize,
    out: &mut [T],
    n: usize,
    f: impl Fn(usize, &mut [&mut [T]]) + Sync,
) {
    let per = n.div_ceil(plan(threads, n)).max(1);
    let mut parts: Vec<Vec<&mut [T]>> = (0..n.div_ceil(per)).map(|_| Vec::new()).collect();
    for row in out.chunks_exact_mut(n.max(1)) {
        for (part, values) in parts.iter_mut().zip(row.chunks_mut(per)) {
            part.push(values);
        }
    }
    thread::scope(|scope| {
        let mut parts = parts.into_iter().enumerate();
        let first = parts.next();
        for (i, mut part) in parts {
            let f = &f;
            scope.spawn(move || f(i * per, &mut part));
        }
        if let Some((_, mut part)) = first {
            f(0, &mut part);
        }
    });
}
