//! The end of the time that requests in flight have at a stop.
//!
//! In: one call of [`Stop::now`]. Out: whoever waits for it knows: a stream ends in an error event, a
//! request without content is told to ask elsewhere, and the log says so of both.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;

/// Whether the time is over; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<watch::Sender<bool>>);

/// Ends when the time is over; not to be asked again after that.
pub struct Stopped(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Stop {
    /// The time is over.
    pub fn now(&self) {
        self.0.send_replace(true);
    }

    /// Whether the time is over.
    pub fn has_come(&self) -> bool {
        *self.0.borrow()
    }

    /// Wait for it.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut over = self.0.subscribe();
        async move {
            // The sender's end is a stop as well.
            let _ = over.wait_for(|over| *over).await;
        }
    }

    /// The same, to be polled by hand.
    pub fn stopped(&self) -> Stopped {
        Stopped(Box::pin(self.wait()))
    }
}

impl fmt::Debug for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped")
    }
}

impl Future for Stopped {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
