//! The listener: connections within their limits, and an orderly stop.
//!
//! In: a bound socket, the app, a future that ends when it is time to stop. Out: when that has come and
//! the requests in flight have ended; those that have not when the time for that is over are ended.

mod chunks;
mod guard;
mod head;
mod slow;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::app::{App, router};
use crate::refusal::Refusal;
use guard::{Guard, REFUSED, Slot};
use head::MAX_FIELDS;
use slow::WriteLimit;

/// For what a stop ends to be told so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serve until `stop` ends.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(app.limits.connections));
    let (stopping, stopped) = watch::channel(false);
    let _watching = app.watch();
    let mut stop = pin!(stop);
    let router = router(&app);
    loop {
        // A full house waits in the system's queue: those inside are not disturbed.
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, service) = (Arc::clone(&app), TowerToHyperService::new(router.clone()));
                tokio::spawn(accepted_by(stream, app, service, stopped.clone(), slot));
            }
            // Out of file descriptors, most likely: give connections time to end.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
    drop(listener);
    let _ = stopping.send(true);
    let all = u32::try_from(app.limits.connections).unwrap_or(u32::MAX);
    if timeout(app.limits.drain, slots.acquire_many(all)).await.is_err() {
        app.stop.now();
        let _ = timeout(LAST_WORDS, slots.acquire_many(all)).await;
    }
}

/// Shake hands, where TLS is spoken, then serve. What takes long shaking hands is left, as a head is.
async fn accepted_by(
    stream: TcpStream,
    app: Arc<App>,
    service: TowerToHyperService<Router>,
    stopped: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    app.metrics.connections.inc();
    let stream = WriteLimit::new(stream, app.limits.write);
    match app.tls() {
        None => connection(stream, &app, service, stopped).await,
        Some(config) => {
            let shaken = timeout(app.limits.header, TlsAcceptor::from(config).accept(stream)).await;
            if let Ok(Ok(stream)) = shaken {
                connection(stream, &app, service, stopped).await;
            }
        }
    }
    app.metrics.connections.dec();
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    app: &App,
    service: TowerToHyperService<Router>,
    mut stopped: watch::Receiver<bool>,
) {
    let limits = app.limits;
    let slot = Slot::default();
    let stream = Guard::new(stream, limits.header_bytes, slot.clone());
    let answered = service_fn(move |request: Request<Incoming>| {
        let mine = request.uri().path() == REFUSED;
        let refusal = if mine { slot.take() } else { None };
        let answer = refusal.is_none().then(|| service.call(request));
        async move {
            match (answer, refusal) {
                (Some(answer), _) => answer.await,
                (None, refusal) => Ok(refused(app, refusal)),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_headers(MAX_FIELDS)
        .max_buf_size(limits.header_bytes)
        .serve_connection(TokioIo::new(stream), answered);
    let mut connection = pin!(connection);
    let stop = async {
        // The sender's end is a stop as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// The answer to a head that is refused before there is a request.
fn refused(app: &App, refusal: Option<Refusal>) -> Response {
    refusal.map_or_else(Response::default, |refusal| {
        app.metrics.refusal(refusal.code);
        refusal.into_response()
    })
}
