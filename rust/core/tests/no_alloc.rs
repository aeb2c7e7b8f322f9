//! The single-decision path allocates nothing: a counting allocator watches it.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Rng, gate};
use cr2fast_core::gate::Gate;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
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
