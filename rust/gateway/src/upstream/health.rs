//! Whether a server says that it is well, asked without waiting for a request.
//!
//! In: an upstream, a path, how often. Out: [`Health`]: well until so many questions in a row got no
//! status 2xx in time, and again with the first that does. Questions neither open nor close the breaker,
//! which judges by answers to requests: a server may be well and fail them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Upstream;

/// Bytes of a healthy server's answer at most.
const MAX_ANSWER: usize = 1 << 20;

/// How servers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Between two questions to one server.
    pub every: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Failures in a row after which a server is passed over.
    pub failures: u32,
}

/// Failures in a row.
#[derive(Debug, Default)]
pub struct Health {
    failed: AtomicU32,
    /// As many as this make a server unwell; 0 is none.
    most: AtomicU32,
}

impl Health {
    /// Whether requests should go there.
    pub fn is_well(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        most == 0 || self.failed.load(Ordering::Relaxed) < most
    }
}

/// Ask at once, then at every interval, for ever.
pub async fn watch(upstream: Arc<Upstream>, path: String, settings: HealthSettings) {
    upstream.health.most.store(settings.failures, Ordering::Relaxed);
    let mut every = interval(settings.every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let was = upstream.health.is_well();
        let good = timeout(settings.timeout, ask(&upstream, &path)).await.unwrap_or(false);
        if good {
            upstream.health.failed.store(0, Ordering::Relaxed);
        } else {
            // Saturates far beyond any setting: u32::MAX checks are 680 years of one every 5 s.
            upstream.health.failed.fetch_add(1, Ordering::Relaxed);
        }
        let is = upstream.health.is_well();
        if was != is {
            let (name, word) = (upstream.name(), if is { "is well again" } else { "is not well" });
            // What follows may be a key.
            let path = path.split('?').next().unwrap_or_default();
            crate::say(&format!("{name} {word}, as GET {path} says"));
        }
    }
}

async fn ask(upstream: &Upstream, path: &str) -> bool {
    let Ok(uri) = format!("{}{path}", upstream.address.base).parse() else { return false };
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    if let Some(token) = &upstream.address.token {
        request.headers_mut().insert(AUTHORIZATION, token.clone());
    }
    let Ok(response) = upstream.client.request(request).await else { return false };
    let good = response.status().is_success();
    // Read to its end, so that the connection serves again.
    good && Limited::new(response.into_body(), MAX_ANSWER).collect().await.is_ok()
}
