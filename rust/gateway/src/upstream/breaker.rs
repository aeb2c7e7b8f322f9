//! A circuit breaker: an upstream that keeps failing is left alone, then tried with one request.
//!
//! In: how requests ended. Out: a [`Ticket`] for the next one, or how long to leave it. Closed: all go.
//! Open, after `failures` in a row: none go. Half-open, when the time is over: one goes; its success
//! closes the breaker, its failure opens it for twice as long, up to a bound.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long the first time.
    pub open: Duration,
    /// How long at most.
    pub max_open: Duration,
}

#[derive(Debug)]
struct State {
    failed: u32,
    /// Until when, and for how long that was.
    open: Option<(Instant, Duration)>,
    probing: bool,
}

/// The breaker of one upstream.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: Mutex<State>,
}

/// Leave for one request. Dropped without a result, it counts for nothing.
#[derive(Debug)]
pub struct Ticket {
    breaker: Arc<Breaker>,
    probe: bool,
    told: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings) -> Arc<Self> {
        let state = Mutex::new(State { failed: 0, open: None, probing: false });
        Arc::new(Self { settings, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Leave for one request, or how long none is given.
    pub fn ticket(self: &Arc<Self>) -> Result<Ticket, Duration> {
        let mut state = self.state();
        let now = Instant::now();
        let probe = match state.open {
            None => false,
            Some((until, _)) if now < until => return Err(until - now),
            Some((_, long)) if state.probing => return Err(long),
            Some(_) => true,
        };
        state.probing |= probe;
        Ok(Ticket { breaker: Arc::clone(self), probe, told: false })
    }

    /// Whether a request would get leave now.
    pub fn is_up(&self) -> bool {
        let state = self.state();
        state.open.is_none_or(|(until, _)| Instant::now() >= until && !state.probing)
    }

    /// A failure after a ticket's success: a stream that broke.
    pub fn failed(&self) {
        self.fail(false);
    }

    fn fail(&self, probe: bool) {
        let mut state = self.state();
        state.failed = state.failed.saturating_add(1);
        let long = match state.open {
            Some((_, long)) if probe => (2 * long).min(self.settings.max_open),
            None if state.failed >= self.settings.failures => self.settings.open,
            _ => return,
        };
        state.open = Some((Instant::now() + long, long));
        state.probing = false;
    }
}

impl Ticket {
    /// The upstream answered.
    pub fn success(mut self) {
        self.told = true;
        let mut state = self.breaker.state();
        // An answer to a request of before the breaker opened says nothing about now.
        if state.open.is_none() || self.probe {
            *state = State { failed: 0, open: None, probing: false };
        }
    }

    /// The upstream did not.
    pub fn failure(mut self) {
        self.told = true;
        self.breaker.fail(self.probe);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.probe && !self.told {
            self.breaker.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn breaker() -> Arc<Breaker> {
        Breaker::new(BreakerSettings { failures: 3, open: S, max_open: 3 * S })
    }

    fn fail(b: &Arc<Breaker>, n: usize) {
        for _ in 0..n {
            b.ticket().unwrap().failure();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let b = breaker();
        fail(&b, 2);
        b.ticket().unwrap().success();
        fail(&b, 2);
        assert!(b.is_up(), "a success starts the count again");
        fail(&b, 1);
        assert!(!b.is_up());
        assert_eq!(b.ticket().unwrap_err(), S);
        tokio::time::advance(S).await;
        assert!(b.is_up());
        let probe = b.ticket().unwrap();
        assert!(!b.is_up(), "one probe at a time");
        assert_eq!(b.ticket().unwrap_err(), S);
        probe.success();
        assert!(b.ticket().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_probes_double_the_wait_up_to_a_bound() {
        let b = breaker();
        fail(&b, 3);
        for long in [1, 2, 3, 3] {
            assert_eq!(b.ticket().unwrap_err(), long * S);
            tokio::time::advance(long * S).await;
            b.ticket().unwrap().failure();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_probe_lets_the_next_one_through() {
        let b = breaker();
        fail(&b, 3);
        tokio::time::advance(S).await;
        drop(b.ticket().unwrap());
        b.ticket().unwrap().success();
        assert!(b.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_requests_of_before_do_not_close_it() {
        let b = breaker();
        let late = b.ticket().unwrap();
        fail(&b, 3);
        late.success();
        assert!(!b.is_up());
    }
}
