//! The front: paths, and what stands before them.
//!
//! In: the app. Out: an axum router. A request passes the door ([`App::admit`]), is given its id, which
//! its answer repeats, and is handled. Two limits are no tower layer: the requests at once, since a
//! layer would free its place at the answer's head and a stream lasts long after; and the time for a
//! body, since tower-http's begins anew with each piece.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state, map_response_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use tower::ServiceBuilder;
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use uuid::Uuid;

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

/// What takes a token, where there is one.
fn guarded() -> Routes {
    let answer = |kind| {
        post(move |State(app): State<Arc<App>>, request: Request| async move {
            app.answer(request, kind).await
        })
    };
    let decide = |State(app): State<Arc<App>>, request: Request| async move {
        app.decide_only(request).await
    };
    let grade =
        |State(app): State<Arc<App>>, request: Request| async move { app.outcome(request).await };
    vec![
        ("/v1/chat/completions", answer(Kind::Chat)),
        ("/v1/completions", answer(Kind::Completion)),
        ("/v1/responses", answer(Kind::Responses)),
        ("/v1/route", post(decide)),
        ("/v1/outcomes", post(grade)),
        ("/v1/models", get(|State(app): State<Arc<App>>| async move { app.models() })),
        ("/v1/promise", get(|State(app): State<Arc<App>>| async move { app.told().await })),
        ("/metrics", get(|State(app): State<Arc<App>>| async move { app.scrape() })),
    ]
}

/// The router of a gateway.
pub fn router(app: &Arc<App>) -> Router {
    let of = |routes: Routes| {
        routes.into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method))
    };
    let before = ServiceBuilder::new()
        .layer(from_fn_with_state(Arc::clone(app), door))
        .layer(SetRequestIdLayer::new(REQUEST_ID, Ids))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID));
    of(guarded())
        .route_layer(before)
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
        .layer(map_response_with_state(Arc::clone(app), count))
        .with_state(Arc::clone(app))
}

async fn door(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let admitted = app.admit(request.headers())?;
    request.extensions_mut().insert(admitted);
    Ok(next.run(request).await)
}

async fn count(State(app): State<Arc<App>>, response: Response) -> Response {
    if let Some(refusal) = response.extensions().get::<Refusal>() {
        app.metrics.refusal(refusal.code);
    }
    response
}

/// 122 random bits for a request that brings no id of a device gateway.
#[derive(Clone, Copy)]
struct Ids;

impl MakeRequestId for Ids {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        let id = Uuid::new_v4().simple().to_string();
        HeaderValue::from_str(&id).ok().map(RequestId::new)
    }
}
