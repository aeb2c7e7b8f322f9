//! The listener: connections within their limits, and an orderly stop.
//!
//! In: a bound socket, the app, a future that ends when it is time to stop. Out: when that has come and
//! the requests in flight have ended; those that have not when the time for that is over are ended.

mod chunks;
mod door;
mod guard;
mod head;
mod moving;
mod slow;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::app::{App, Headed, router};
use crate::refusal::Refusal;
use crate::say;
use door::{Door, Guest, Way};
use guard::{Guard, REFUSED, Reading};
use head::MAX_FIELDS;

/// For what a stop ends to be told so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What answers a request.
type Service = TowerToHyperService<Router>;

/// Serve until `stop` ends.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(app.limits.connections));
    let (stopping, stopped) = watch::channel(false);
    let _watching = app.watch();
    let service = TowerToHyperService::new(router(&app));
    let mut door = match Door::open(listener, &app, &slots, &stopped) {
        Ok(door) => door,
        Err(e) => return say(&format!("expected to start a thread for the door, got: {e}")),
    };
    let mut stop = pin!(stop);
    loop {
        let guest = tokio::select! {
            () = &mut stop => break,
            guest = door.guest() => guest,
        };
        let Some(guest) = guest else { break };
        tokio::spawn(served(guest, Arc::clone(&app), service.clone(), stopped.clone()));
    }
    let _ = stopping.send(true);
    door.shut();
    let all = u32::try_from(app.limits.connections).unwrap_or(u32::MAX);
    if timeout(app.limits.drain, slots.acquire_many(all)).await.is_err() {
        app.stop.now();
        let _ = timeout(LAST_WORDS, slots.acquire_many(all)).await;
    }
    door.end();
}

/// Serve one that was let in.
async fn served(guest: Guest, app: Arc<App>, service: Service, stopped: watch::Receiver<bool>) {
    let Guest { mut way, reading, place: _place } = guest;
    if way.between().wake().is_err() {
        return;
    }
    match way {
        Way::Plain(stream) => connection(stream, reading, &app, service, stopped).await,
        Way::Secure(stream) => connection(stream, reading, &app, service, stopped).await,
    }
}

/// Serve a connection of which so much was read.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    reading: Reading,
    app: &App,
    service: Service,
    mut stopped: watch::Receiver<bool>,
) {
    let limits = app.limits;
    let slot = reading.slot();
    let headed = Cell::new(reading.headed());
    let stream = Guard::new(stream, reading);
    let answered = service_fn(move |mut request: Request<Incoming>| {
        // The door may have waited for the first one's body.
        if let Some(headed) = headed.take() {
            request.extensions_mut().insert(Headed(headed));
        }
        let mine = request.uri().path() == REFUSED;
        let refusal = if mine { slot.take() } else { None };
        let answer = refusal.is_none().then(|| service.call(request));
        async move {
            let response = match (answer, refusal) {
                (Some(answer), _) => answer.await?,
                (None, refusal) => refusal.map_or_else(Response::default, Refusal::into_response),
            };
            if let Some(refusal) = response.extensions().get::<Refusal>() {
                app.metrics.refusal(refusal.code);
            }
            Ok::<_, Infallible>(response)
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
