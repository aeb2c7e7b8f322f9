//! A bounded queue that is emptied in batches: whoever puts something in wakes nobody, almost always.
//!
//! In: items, from any thread, each with the bytes that it holds. Out: all that have gathered, to the one
//! thread that takes. Items and bytes are bounded; what is taken counts until the next is. The taker is woken by
//! the first item of a batch, sleeps for as long as items may wait, and is woken once more only where
//! the queue is half full or has been closed: a wake-up costs the putting thread a system call and a
//! change of context, which a request would wait for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    /// Of these items.
    bytes: usize,
    /// Of those that were taken last: whoever took them may be at work on them still.
    taken: usize,
    /// Whether somebody waits until an item is done with.
    hurried: bool,
    closed: bool,
}

/// The queue.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    room: usize,
    most_bytes: usize,
}

impl<T> Queue<T> {
    /// One with room for so many items, of so many bytes together.
    pub fn new(room: usize, most_bytes: usize) -> Self {
        let state = State { items: Vec::new(), bytes: 0, taken: 0, hurried: false, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), room, most_bytes }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much is there that the one who takes need not wait for more.
    fn is_half_full(&self, state: &State<T>) -> bool {
        state.items.len() >= self.room.div_ceil(2) || state.bytes >= self.most_bytes / 2
    }

    /// Put an item in; whether there was room.
    pub fn put(&self, item: T, bytes: usize) -> bool {
        self.add(item, bytes, false)
    }

    /// The same of an item that somebody waits for: others are not gathered first.
    pub fn hurry(&self, item: T, bytes: usize) -> bool {
        self.add(item, bytes, true)
    }

    fn add(&self, item: T, bytes: usize, hurried: bool) -> bool {
        let mut state = self.state();
        let all = state.bytes.saturating_add(state.taken).saturating_add(bytes);
        if state.items.len() >= self.room || all > self.most_bytes {
            return false;
        }
        let before = self.is_half_full(&state) || state.hurried;
        state.items.push(item);
        state.bytes += bytes;
        state.hurried |= hurried;
        let now = self.is_half_full(&state) || state.hurried;
        let wakes = state.items.len() == 1 || (!before && now);
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        true
    }

    /// Whether the smallest item would find no room.
    pub fn is_full(&self) -> bool {
        let state = self.state();
        let bytes = state.bytes.saturating_add(state.taken);
        state.items.len() >= self.room || bytes >= self.most_bytes
    }

    /// No more items will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Wait for a first item, then at most `gather` for others; all of them go into `into`, which is
    /// empty. Whether more may come.
    pub fn take(&self, gather: Duration, into: &mut Vec<T>) -> bool {
        let mut state = self.state();
        state.taken = 0;
        let first = self.changed.wait_while(state, |s| s.items.is_empty() && !s.closed);
        let first = first.unwrap_or_else(PoisonError::into_inner);
        let few = |s: &mut State<T>| !self.is_half_full(s) && !s.hurried && !s.closed;
        let gathered = self.changed.wait_timeout_while(first, gather, few);
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        state.hurried = false;
        std::mem::swap(&mut state.items, into);
        state.taken = std::mem::take(&mut state.bytes);
        !state.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_full_queue_takes_no_more_and_what_waits_comes_in_order() {
        let queue = Queue::new(4, 1_000);
        let taken: Vec<bool> = (0..6).map(|i| queue.put(i, 1)).collect();
        assert_eq!(taken, [true, true, true, true, false, false]);
        let mut items = Vec::new();
        assert!(queue.take(LONG, &mut items), "half full: it does not wait");
        assert_eq!(items, [0, 1, 2, 3]);
        assert!(queue.put(6, 1), "there is room again");
        items.clear();
        queue.close();
        assert!(!queue.take(LONG, &mut items), "closed: it does not wait");
        assert_eq!(items, [6]);
    }

    #[test]
    fn large_items_fill_it_before_many_do_and_those_that_are_worked_on_count() {
        let queue = Queue::new(1_000, 100);
        assert!(!queue.put(0, 101), "more than ever fits");
        let taken: Vec<bool> = (1..=5).map(|i| queue.put(i, 30)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(queue.put(6, 10), "to the byte");
        let mut items = Vec::new();
        assert!(queue.take(LONG, &mut items), "half full: it does not wait");
        assert_eq!(items, [1, 2, 3, 6]);
        // A disk that is stuck holds the taker here.
        assert!(!queue.put(7, 1), "what was taken is still in memory");
        items.clear();
        queue.close();
        assert!(!queue.take(LONG, &mut items));
        assert!(items.is_empty() && queue.put(8, 100), "and no more, once it is done with");
        assert!(!queue.put(9, usize::MAX), "no sum of bytes wraps");
    }

    #[test]
    fn an_item_that_somebody_waits_for_is_taken_at_once_with_those_before_it() {
        let queue = Queue::new(1_000, 1_000);
        let mut items = Vec::new();
        std::thread::scope(|scope| {
            // Whether the taker waits already or comes later.
            scope.spawn(|| assert!(queue.put(1, 1) && queue.hurry(2, 1)));
            while items != [1, 2] {
                let mut more = Vec::new();
                assert!(queue.take(LONG, &mut more));
                items.append(&mut more);
            }
        });
        assert!(queue.put(3, 1), "and others gather again");
        assert!(!queue.state().hurried);
    }

    #[test]
    fn items_of_many_threads_all_arrive() {
        let queue = Queue::new(1 << 16, usize::MAX);
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
                        move || (0..each).all(|i| queue.put(k * each + i, 1))
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
