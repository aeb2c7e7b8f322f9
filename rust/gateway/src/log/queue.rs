//! A bounded queue that is emptied in batches: whoever puts something in wakes nobody, almost always.
//!
//! In: items, from any thread. Out: all that have gathered, to the one thread that takes. It is woken by
//! the first item of a batch, sleeps for as long as items may wait, and is woken once more only where
//! the queue is half full or has been closed: a wake-up costs the putting thread a system call and a
//! change of context, which a request would wait for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    closed: bool,
}

/// The queue.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    room: usize,
}

impl<T> Queue<T> {
    /// One with room for so many items.
    pub fn new(room: usize) -> Self {
        let state = Mutex::new(State { items: Vec::new(), closed: false });
        Self { state, changed: Condvar::new(), room }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of items that wakes the one who takes before its time.
    fn many(&self) -> usize {
        self.room.div_ceil(2)
    }

    /// Put an item in; whether there was room.
    pub fn put(&self, item: T) -> bool {
        let mut state = self.state();
        if state.items.len() >= self.room {
            return false;
        }
        state.items.push(item);
        let n = state.items.len();
        drop(state);
        if n == 1 || n == self.many() {
            self.changed.notify_one();
        }
        true
    }

    /// No more items will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Wait for a first item, then at most `gather` for others; all of them go into `into`, which is
    /// empty. Whether more may come.
    pub fn take(&self, gather: Duration, into: &mut Vec<T>) -> bool {
        let first = self.changed.wait_while(self.state(), |s| s.items.is_empty() && !s.closed);
        let first = first.unwrap_or_else(PoisonError::into_inner);
        let few = |s: &mut State<T>| s.items.len() < self.many() && !s.closed;
        let gathered = self.changed.wait_timeout_while(first, gather, few);
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.items, into);
        !state.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_full_queue_takes_no_more_and_what_waits_comes_in_order() {
        let queue = Queue::new(4);
        let taken: Vec<bool> = (0..6).map(|i| queue.put(i)).collect();
        assert_eq!(taken, [true, true, true, true, false, false]);
        let mut items = Vec::new();
        assert!(queue.take(LONG, &mut items), "half full: it does not wait");
        assert_eq!(items, [0, 1, 2, 3]);
        assert!(queue.put(6), "there is room again");
        items.clear();
        queue.close();
        assert!(!queue.take(LONG, &mut items), "closed: it does not wait");
        assert_eq!(items, [6]);
    }

    #[test]
    fn items_of_many_threads_all_arrive() {
        let queue = Queue::new(1 << 16);
        let (threads, each) = (4, 5_000);
        let mut all = Vec::new();
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                let (mut all, mut batch) = (Vec::new(), Vec::new());
                while queue.take(Duration::from_millis(1), &mut batch) {
                    all.append(&mut batch);
                }
                all.append(&mut batch);
                all
            });
            let putters: Vec<_> = (0..threads)
                .map(|k| {
                    scope.spawn({
                        let queue = &queue;
                        move || (0..each).all(|i| queue.put(k * each + i))
                    })
                })
                .collect();
            assert!(putters.into_iter().all(|p| p.join().unwrap()));
            queue.close();
            all = taker.join().unwrap();
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(0..threads * each));
    }
}
