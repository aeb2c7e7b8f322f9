//! What comes in, up to the moment it is understood.
//!
//! In: a request, hostile until shown otherwise. Out: whether a device gateway asks, and a [`Job`]; or a
//! refusal.

use std::hash::BuildHasher;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap};
use hyper::{Request, StatusCode};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

use super::App;
use crate::ask::{Ask, Kind, Target};
use crate::brain::{Brain, Point};
use crate::job::Job;
use crate::refusal::Refusal;
use crate::wire::{self, Deferral, Wish};

impl App {
    /// Whether a device gateway asks; a refusal where nobody who may.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<bool, Refusal> {
        let bearer = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = bearer.and_then(|v| v.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        // Hashes are compared: how long that takes says nothing about the token.
        let hash: Option<[u8; 32]> = token.map(|(_, t)| Sha256::digest(t.trim()).into());
        let opens = |door: Option<[u8; 32]>| door.is_some() && door == hash;
        if opens(self.access.device) {
            return Ok(true);
        }
        if self.access.client.is_none() || opens(self.access.client) {
            return Ok(false);
        }
        let words = "authorization: expected \"Bearer TOKEN\" with this gateway's token, got none or another";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, "token", words))
    }

    /// Read and understand a request.
    pub(super) async fn job(
        &self,
        request: Request<Incoming>,
        kind: Kind,
        from_device: bool,
    ) -> Result<Job, Refusal> {
        let (head, body) = request.into_parts();
        let wish = wire::wish(&head.headers, from_device)?;
        let deferral = if from_device { Deferral::read(&head.headers)? } else { None };
        if let Some(coding) = head.headers.get(CONTENT_ENCODING).filter(|v| *v != "identity") {
            let coding: String = coding.to_str().unwrap_or("other").chars().take(40).collect();
            let words = format!("content-encoding: expected a body as it is, got {coding:?}");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding", words));
        }
        let body = self.read(body).await?;
        let read = Instant::now();
        let brain = self.brain();
        let ask = Ask::read(body, kind)?;
        let point = point(&brain, &ask.target, wish)?;
        let id = deferral.as_ref().map_or_else(|| self.id(), |d| d.id.clone());
        Ok(Job { id, brain, ask, kind, point, deferral, read })
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let too_large = || {
            let most = self.limits.body_bytes;
            let words =
                format!("body: expected at most {most} bytes (limits.body_bytes), got more");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", words)
        };
        if body.size_hint().lower() > self.limits.body_bytes as u64 {
            return Err(too_large());
        }
        let limited = Limited::new(body, self.limits.body_bytes);
        let Ok(collected) = timeout(self.limits.body, limited.collect()).await else {
            let words = format!("body: expected all of it within {:?}", self.limits.body);
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_slow", words));
        };
        match collected {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
            Err(_) => Err(Refusal::bad(
                "body_cut",
                "body: expected as many bytes as announced, got fewer",
            )),
        }
    }

    /// 128 bits that no other request has; no secret.
    fn id(&self) -> String {
        let n = self.ids.1.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{:016x}", self.ids.0.hash_one((n, 0)), self.ids.0.hash_one((n, 1)))
    }
}

/// The point of a routed request: what its model's name says, else its headers, else the configuration.
fn point(brain: &Brain, target: &Target, wish: Wish) -> Result<Option<Point>, Refusal> {
    let Target::Routed { lam, alpha } = *target else { return Ok(None) };
    let one = |key: &str, name: Option<f64>, header: Option<f64>| match (name, header) {
        (Some(a), Some(b)) if a != b => Err(Refusal::bad(
            "operating_point",
            format!("{key}: expected one value, got {a} in the model's name and {b} in the header"),
        )),
        (name, header) => Ok(name.or(header)),
    };
    brain.point(one("lam", lam, wish.lam)?, one("alpha", alpha, wish.alpha)?).map(Some)
}
