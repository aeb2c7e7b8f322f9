//! What memory the hot paths take, by a counting allocator: a decision none, calibration under 1 MB a
//! thread beyond its input.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Rng, gate};
use cr2fast_core::Gate;
use cr2fast_core::crc_thresholds;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        LIVE.with(|l| {
            l.set(l.get() + layout.size().cast_signed());
            PEAK.with(|p| p.set(p.get().max(l.get())));
        });
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.with(|l| l.set(l.get() - layout.size().cast_signed()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> usize {
    let before = COUNT.with(Cell::get);
    f();
    COUNT.with(Cell::get) - before
}

/// Most bytes alive at once in `f`, beyond those before it.
fn peak(f: impl FnOnce()) -> isize {
    let before = LIVE.with(Cell::get);
    PEAK.with(|p| p.set(before));
    f();
    PEAK.with(Cell::get) - before
}

#[test]
fn thresholds_take_under_a_megabyte() {
    assert!(peak(|| drop(vec![0_u8; 5_000_000])) >= 5_000_000, "the counter counts");
    let alphas = [0.002, 0.005, 0.01, 0.02, 0.05, 0.2];
    for n in [1_000, 10_000, 100_000, 390_000, 400_000, 3_000_000] {
        let continuous = Rng::new(3).vec(n, 1.0);
        // Ties defeat the brackets: the slower way is watched too.
        let coarse: Vec<f32> = continuous.iter().map(|s| (s * 4.0).round()).collect();
        let prefers: Vec<bool> = Rng::new(4).vec(n, 1.0).iter().map(|u| *u < 0.2).collect();
        for scores in [continuous, coarse] {
            let bytes = peak(|| {
                crc_thresholds(&scores, &prefers, n, &alphas, false, 1).unwrap();
            });
            assert!(bytes < 1_000_000, "{n} samples: {bytes} bytes");
        }
    }
}

#[test]
fn one_decision_allocates_nothing() {
    let g = Gate::new(gate(384, 256, 1)).unwrap();
    let film = g.film(1.0).unwrap();
    let x = Rng::new(2).vec(384, 0.1);
    assert!(allocations(|| drop(vec![0_u8; 100])) > 0, "the counter counts");
    let mut sum = 0.0;
    let count = allocations(|| {
        for _ in 0..1_000 {
            sum += g.margin(&x, &film).unwrap();
        }
    });
    assert!(sum.is_finite());
    assert_eq!(count, 0);
}
