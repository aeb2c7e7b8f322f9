//! How long a server keeps requests waiting before it works on them.
//!
//! In: when requests were sent and when their first content came, and how long the cost table says that
//! an idle server takes for it. Out: the queueing delay as of now, s.
//!
//! What a request took beyond the table's word is r. The least r of the last minutes is what the table
//! misses when nobody waits; r beyond that is a wait, and the estimate is an exponentially weighted mean
//! of waits. A queue that nobody is seen to join drains a second per second, so the mean sinks with the
//! time since the last answer. A request that is still without content has waited at least until now.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// Weight of a new sample.
const WEIGHT: f64 = 0.3;
/// The least r is that of between one and two of these.
const WINDOW: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct State {
    /// The mean of waits, s, and when it was last told.
    mean: Option<(f64, Instant)>,
    /// Least r of this window, with the window's start, and of the one before.
    least: Option<(f64, Instant)>,
    before: Option<f64>,
    /// Requests without content: when each was sent, and what the table says, s.
    pending: Vec<(u64, Instant, f64)>,
    next: u64,
}

/// The queue of one server.
#[derive(Debug, Default)]
pub struct Queue(Mutex<State>);

/// A request that waits for its first content; dropped without it, it counts for nothing.
#[derive(Debug)]
pub struct Waiting {
    queue: Arc<Queue>,
    id: u64,
    expected_s: f64,
}

impl State {
    /// What the table misses when nobody waits, s.
    fn missed(&self) -> Option<f64> {
        let least = [self.least.map(|(r, _)| r), self.before];
        least.into_iter().flatten().reduce(f64::min)
    }

    fn sample(&mut self, r: f64, now: Instant) {
        match &mut self.least {
            Some((least, start)) if now.duration_since(*start) < WINDOW => *least = least.min(r),
            least => {
                self.before = least.map(|(r, _)| r);
                *least = Some((r, now));
            }
        }
        let wait = r - self.missed().unwrap_or(r);
        let old = self.mean.map_or(wait, |(mean, _)| mean);
        self.mean = Some((old + WEIGHT * (wait - old), now));
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A request is sent whose first content an idle server shows after `expected_s`, by the cost table;
    /// 0 where the table cannot tell.
    pub fn enter(self: &Arc<Self>, expected_s: f64) -> Waiting {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.pending.push((id, Instant::now(), expected_s));
        Waiting { queue: Arc::clone(self), id, expected_s }
    }

    /// The delay of a request that would be sent now, s; none before the first answer.
    pub fn delay_s(&self) -> Option<f64> {
        let state = self.state();
        let missed = state.missed()?;
        let now = Instant::now();
        let since = |then: Instant| now.duration_since(then).as_secs_f64();
        let drained = state.mean.map_or(0.0, |(mean, told)| mean - since(told));
        let overdue = state.pending.iter().map(|(_, sent, s)| since(*sent) - s - missed);
        Some(overdue.fold(drained.max(0.0), f64::max))
    }
}

impl Waiting {
    /// Its content came; `seconds` after it was sent.
    pub fn answered(self, seconds: f64) {
        self.queue.state().sample(seconds - self.expected_s, Instant::now());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.queue.state().pending.retain(|(id, ..)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Requests one after another, each with this r on a table of 0.1 s.
    async fn answers(queue: &Arc<Queue>, rs: &[f64]) {
        for r in rs {
            let waiting = queue.enter(0.1);
            advance(Duration::from_millis(10)).await;
            waiting.answered(0.1 + r);
        }
    }

    fn close(got: Option<f64>, expected: f64) {
        let got = got.expect("a delay");
        assert!((got - expected).abs() < 0.06 * expected.max(0.5), "{got} for {expected}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_table_misses_is_no_wait_and_what_comes_on_top_is() {
        let queue = Arc::new(Queue::default());
        assert_eq!(queue.delay_s(), None);
        answers(&queue, &[0.05; 20]).await;
        assert!(queue.delay_s().unwrap() < 1e-9, "a table that is 50 ms off makes no queue");
        answers(&queue, &[2.05; 20]).await;
        close(queue.delay_s(), 2.0);
        answers(&queue, &[0.05; 20]).await;
        assert!(queue.delay_s().unwrap() < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_nobody_joins_drains() {
        let queue = Arc::new(Queue::default());
        answers(&queue, &[0.0]).await;
        answers(&queue, &[3.0; 20]).await;
        advance(S).await;
        close(queue.delay_s(), 2.0);
        advance(5 * S).await;
        assert_eq!(queue.delay_s(), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_content_are_waits_already_until_they_are_dropped() {
        let queue = Arc::new(Queue::default());
        answers(&queue, &[0.0]).await;
        let waiting: Vec<Waiting> = (0..3).map(|_| queue.enter(0.1)).collect();
        advance(4 * S).await;
        close(queue.delay_s(), 3.9);
        drop(waiting);
        assert_eq!(queue.delay_s(), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_gets_slower_for_good_is_not_busy_for_ever() {
        let queue = Arc::new(Queue::default());
        answers(&queue, &[0.0; 5]).await;
        for _ in 0..3 {
            answers(&queue, &[1.0; 20]).await;
            close(queue.delay_s(), 1.0);
            if queue.state().before == Some(1.0) {
                break;
            }
            advance(WINDOW).await;
            answers(&queue, &[1.0]).await;
            if queue.state().missed() == Some(1.0) {
                break;
            }
        }
        advance(WINDOW).await;
        answers(&queue, &[1.0; 20]).await;
        assert!(queue.delay_s().unwrap() < 0.01, "after two windows it is the server's pace");
    }
}
