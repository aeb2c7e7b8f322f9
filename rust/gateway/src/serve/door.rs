//! The door: a thread of its own that lets connections in once they have asked something.
//!
//! In: a bound socket. Out: a [`Guest`] per connection whose first request is here, with what was read of it.
//! Connections that open and say nothing, heads that never end or are none, bodies that are too large,
//! cut off or framed wrongly are refused here, by the code that would refuse them inside: whoever sends
//! them in numbers keeps this thread busy, and not those that serve. Hands are shaken here too, where TLS
//! is spoken, which costs more than to answer. What comes later on a connection is read where it is served.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::guard::{First, Guard, Most, Reading, Slot};
use super::moving::Moving;
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

/// What a connection is read by: a socket, or TLS over one.
#[derive(Debug)]
pub enum Way {
    /// Plain HTTP.
    Plain(WriteLimit<Moving>),
    /// HTTPS.
    Secure(Box<TlsStream<WriteLimit<Moving>>>),
}

impl From<WriteLimit<Moving>> for Way {
    fn from(stream: WriteLimit<Moving>) -> Self {
        Self::Plain(stream)
    }
}

impl From<Box<TlsStream<WriteLimit<Moving>>>> for Way {
    fn from(stream: Box<TlsStream<WriteLimit<Moving>>>) -> Self {
        Self::Secure(stream)
    }
}

impl Way {
    /// The socket beneath, between two runtimes.
    pub fn between(&mut self) -> &mut Moving {
        match self {
            Self::Plain(stream) => stream.between(),
            Self::Secure(stream) => stream.get_mut().0.between(),
        }
    }
}

/// A connection that is let in.
#[derive(Debug)]
pub struct Guest {
    /// Its stream, which no runtime has.
    pub way: Way,
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

    /// Shake hands, where TLS is spoken; what takes long shaking hands is left, as a head is.
    async fn meet(self, stream: TcpStream, place: Place) {
        let _ = stream.set_nodelay(true);
        let limits = self.app.limits;
        let stream = WriteLimit::new(Moving::new(stream), limits.write);
        let Some(config) = self.app.tls() else { return self.hear(stream, place).await };
        let mut stopped = self.stopped.clone();
        let shaken = tokio::select! {
            shaken = timeout(limits.header, TlsAcceptor::from(config).accept(stream)) => shaken,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        if let Ok(Ok(stream)) = shaken {
            self.hear(Box::new(stream), place).await;
        }
    }

    /// Hear what a connection begins with.
    async fn hear<S>(self, stream: S, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Way: From<S>,
    {
        let limits = self.app.limits;
        let (header_bytes, body_bytes) = (limits.header_bytes, limits.body_bytes);
        let reading = Reading::new(Most { header_bytes, body_bytes }, Slot::default());
        let mut guard = Guard::new(stream, reading);
        let mut stopped = self.stopped.clone();
        let first = tokio::select! {
            first = guard.first(limits.header, limits.body) => first,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        let (stream, reading) = guard.into_parts();
        match first {
            First::Request => {
                let mut way = Way::from(stream);
                // One that cannot be let in is closed.
                if way.between().rest().is_ok() {
                    let _ = self.to.send(Guest { way, reading, place });
                }
            }
            First::Refused => {
                connection(stream, reading, &self.app, self.service, self.stopped).await;
            }
            First::Nothing => {}
        }
    }
}
