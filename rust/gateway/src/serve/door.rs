//! The door: a thread of its own that lets connections in once they have asked something.
//!
//! In: a bound socket. Out: a [`Guest`] per connection whose first request is here, with what was read of it.
//! Connections that open and say nothing, heads that never end or are none, bodies that are too large,
//! cut off or framed wrongly are refused here, by the code that would refuse them inside: whoever sends
//! them in numbers keeps this thread busy, and not those that serve. What comes later on a connection is
//! read where it is served, and so is all of a connection that speaks TLS.

use std::io;
use std::net::TcpStream as Idle;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::guard::{First, Guard, Most, Reading, Slot};
use super::slow::WriteLimit;
use super::{Service, connection};
use crate::app::{App, router};

/// A connection's place in the house, counted while it is held.
#[derive(Debug)]
pub struct Place {
    app: Arc<App>,
    _slot: OwnedSemaphorePermit,
}

impl Place {
    fn new(app: &Arc<App>, slot: OwnedSemaphorePermit) -> Self {
        app.metrics.connections.inc();
        Self { app: Arc::clone(app), _slot: slot }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.metrics.connections.dec();
    }
}

/// A connection that is let in.
#[derive(Debug)]
pub struct Guest {
    /// Its stream, which no runtime has.
    pub stream: Idle,
    /// What was read of it.
    pub reading: Reading,
    /// Kept while it is served.
    pub place: Place,
}

/// The thread at the door.
#[derive(Debug)]
pub struct Door {
    guests: UnboundedReceiver<Guest>,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Door {
    /// Take a socket over, until `stopped` says so.
    pub fn open(
        listener: TcpListener,
        app: &Arc<App>,
        slots: &Arc<Semaphore>,
        stopped: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let listener = listener.into_std()?;
        let (to, guests) = unbounded_channel();
        let (end, ended) = oneshot::channel::<()>();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let keeper = Keeper {
            app: Arc::clone(app),
            slots: Arc::clone(slots),
            service: TowerToHyperService::new(router(app)),
            stopped: stopped.clone(),
            to,
        };
        let keep = move || {
            runtime.block_on(async {
                keeper.keep(listener).await;
                // Those that are refused here have their time to end, as those inside.
                let _ = ended.await;
            });
            // What was handed to other threads need not end.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("door".into()).spawn(keep)?;
        Ok(Self { guests, end, thread })
    }

    /// The next connection that is let in; none once the door is shut.
    pub async fn guest(&mut self) -> Option<Guest> {
        self.guests.recv().await
    }

    /// Send those away that are about to come in.
    pub fn shut(&mut self) {
        self.guests.close();
        while self.guests.try_recv().is_ok() {}
    }

    /// End whatever still stands there.
    pub fn end(self) {
        drop(self.end);
        let _ = self.thread.join();
    }
}

/// What the thread works with.
#[derive(Clone)]
struct Keeper {
    app: Arc<App>,
    slots: Arc<Semaphore>,
    service: Service,
    stopped: watch::Receiver<bool>,
    to: UnboundedSender<Guest>,
}

impl Keeper {
    async fn keep(&self, listener: std::net::TcpListener) {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let mut stopped = self.stopped.clone();
        loop {
            // A full house waits in the system's queue: those inside are not disturbed.
            let next = async {
                let slot = Arc::clone(&self.slots).acquire_owned().await.expect("never closed");
                (listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                // The sender's end is a stop as well.
                _ = stopped.wait_for(|stop| *stop) => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let place = Place::new(&self.app, slot);
                    tokio::spawn(self.clone().meet(stream, place));
                }
                // Out of file descriptors, most likely: give connections time to end.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Hear what a connection begins with.
    async fn meet(self, stream: TcpStream, place: Place) {
        let _ = stream.set_nodelay(true);
        let limits = self.app.limits;
        let (header_bytes, body_bytes) = (limits.header_bytes, limits.body_bytes);
        let reading = Reading::new(Most { header_bytes, body_bytes }, Slot::default());
        if self.app.tls().is_some() {
            return self.let_in(stream, reading, place);
        }
        let mut guard = Guard::new(stream, reading);
        let mut stopped = self.stopped.clone();
        let first = tokio::select! {
            first = timeout(limits.header, guard.first()) => first,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        let (stream, reading) = guard.into_parts();
        match first {
            Ok(First::Request) => self.let_in(stream, reading, place),
            Ok(First::Refused) => {
                let stream = WriteLimit::new(stream, limits.write);
                connection(stream, reading, &self.app, self.service, self.stopped).await;
            }
            // A body has a time of its own.
            Err(_) if reading.has_head() => self.let_in(stream, reading, place),
            Ok(First::Nothing) | Err(_) => {}
        }
    }

    fn let_in(&self, stream: TcpStream, reading: Reading, place: Place) {
        // One that cannot be let in is closed.
        if let Ok(stream) = stream.into_std() {
            let _ = self.to.send(Guest { stream, reading, place });
        }
    }
}
