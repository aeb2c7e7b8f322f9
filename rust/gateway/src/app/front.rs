//! The front: paths, and what stands before them.
//!
//! In: the app. Out: an axum router. A request passes the door ([`App::admit`]), is given its id, which
//! its answer repeats, and is handled. That is done by a function and not by tower layers: each layer
//! boxes a future and copies the request, and a refusal costs its sender nothing. Two limits are no
//! layers either: the requests at once, since a layer would free its place at the answer's head and a
//! stream lasts long after; and the time for a body, since tower-http's begins anew with each piece.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, get, on, post};

use super::ids;
use super::{App, reload};
use crate::ask::Kind;
use crate::refusal::Refusal;
use crate::wire::REQUEST_ID;

type Routes = Vec<(&'static str, MethodRouter<Arc<App>>)>;

/// What anybody may ask: whether the gateway lives.
fn open() -> Routes {
    let ready = |State(app): State<Arc<App>>| async move { app.ready().await };
    vec![
        ("/healthz", get(|| async { "ok\n" })),
        ("/readyz", get(ready)),
        // Has a door of its own.
        ("/v1/reload", post(reload::call)),
    ]
}

/// A route behind the door.
fn behind<A, F, R>(method: MethodFilter, answer: A) -> MethodRouter<Arc<App>>
where
    A: Fn(Arc<App>, Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = R> + Send,
    R: IntoResponse,
{
    on(method, move |State(app): State<Arc<App>>, mut request: Request| async move {
        let admitted = match app.admit(request.headers()) {
            Ok(admitted) => admitted,
            Err(refusal) => return refusal.into_response(),
        };
        request.extensions_mut().insert(admitted);
        // A device gateway brings the id of its own request.
        let headers = request.headers_mut();
        let id = headers.entry(REQUEST_ID).or_insert_with(ids::next).clone();
        let mut response = answer(app, request).await.into_response();
        response.headers_mut().entry(REQUEST_ID).or_insert(id);
        response
    })
}

/// What takes a token, where there is one.
fn guarded() -> Routes {
    use MethodFilter as Method;
    let answer = |kind| {
        behind(Method::POST, move |app: Arc<App>, request| async move {
            app.answer(request, kind).await
        })
    };
    let decide = |app: Arc<App>, request| async move { app.decide_only(request).await };
    let grade = |app: Arc<App>, request| async move { app.outcome(request).await };
    vec![
        ("/v1/chat/completions", answer(Kind::Chat)),
        ("/v1/completions", answer(Kind::Completion)),
        ("/v1/responses", answer(Kind::Responses)),
        ("/v1/route", behind(Method::POST, decide)),
        ("/v1/outcomes", behind(Method::POST, grade)),
        ("/v1/models", behind(Method::GET, |app: Arc<App>, _| async move { app.models() })),
        ("/v1/promise", behind(Method::GET, |app: Arc<App>, _| async move { app.told().await })),
        ("/metrics", behind(Method::GET, |app: Arc<App>, _| async move { app.scrape() })),
    ]
}

/// The router of a gateway.
pub fn router(app: &Arc<App>) -> Router {
    let of = |routes: Routes| {
        routes.into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method))
    };
    of(guarded())
        .merge(of(open()))
        .fallback(|| async {
            let paths: Vec<&str> = guarded().iter().chain(&open()).map(|(path, _)| *path).collect();
            let words = format!("expected one of {}, got another path", paths.join(", "));
            Refusal::new(StatusCode::NOT_FOUND, "unknown_path", words)
        })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let path = uri.path();
            let words =
                format!("{path}: expected the method that the header allow names, got another");
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", words)
        })
        .with_state(Arc::clone(app))
}
