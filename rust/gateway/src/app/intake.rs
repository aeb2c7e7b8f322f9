//! What comes in, up to the moment it is understood.
//!
//! In: a request, hostile until shown otherwise. Out: whether a device gateway asks, and a [`Job`]; or a
//! refusal.

use std::io;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap};
use axum::http::{Extensions, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

use super::App;
use crate::ask::{Ask, Kind, Target};
use crate::brain::{Brain, Point};
use crate::context::Context;
use crate::heavy::{LONG, away};
use crate::job::Job;
use crate::refusal::Refusal;
use crate::wire::{self, Deferral, Why, Wish};

/// What the headers of a request that may come in say.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    wish: Wish,
    /// What a device gateway says, where one asks.
    deferral: Option<Deferral>,
}

/// When the head of a connection's first request was whole: the time for its body begins then.
#[derive(Clone, Copy, Debug)]
pub struct Headed(pub Instant);

/// SHA-256 of the bearer token: hashes are compared, so that how long that takes says nothing about it.
pub(super) fn bearer_hash(headers: &HeaderMap) -> Option<[u8; 32]> {
    let bearer = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = bearer.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Sha256::digest(token.trim()).into())
}

impl App {
    /// Read the headers; a refusal for whoever has no right to ask, or poses as a device gateway.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Admitted, Refusal> {
        let from_device = self.device_asks(headers)?;
        // Another version may have headers that this one does not know: the version is looked at first.
        let deferral = if from_device { Deferral::read(headers)? } else { None };
        let wish = wire::wish(headers, from_device)?;
        Ok(Admitted { wish, deferral })
    }

    /// Whether a device gateway asks; a refusal where nobody who may.
    fn device_asks(&self, headers: &HeaderMap) -> Result<bool, Refusal> {
        let hash = bearer_hash(headers);
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

    /// Read and understand a request that the door let in.
    pub(super) async fn job(&self, request: Request, kind: Kind) -> Result<Job, Refusal> {
        let (mut head, body) = request.into_parts();
        let admitted = head.extensions.remove::<Admitted>();
        let Admitted { wish, mut deferral } = admitted.expect("the door stands before every job");
        if let Some(coding) = head.headers.get(CONTENT_ENCODING).filter(|v| *v != "identity") {
            let coding: String = coding.to_str().unwrap_or("other").chars().take(40).collect();
            let words = format!("content-encoding: expected a body as it is, got {coding:?}");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding", words));
        }
        let pieces = self.read(body, &head.extensions).await?;
        let read = Instant::now();
        let brain = self.brain();
        let misfit = deferral.as_mut().map_or(Ok(None), |d| fit(&brain, d))?;
        let ask = if pieces.len() <= LONG {
            Ask::read(pieces.joined(), kind)?
        } else {
            let read = away(move || Ask::read(pieces.joined(), kind)).await;
            read.unwrap_or_else(|| Err(Refusal::internal("the reader of bodies stopped")))?
        };
        let point = point(&brain, &ask.target, &wish).map_err(|r| misfit.unwrap_or(r))?;
        let id = head.headers.get(wire::REQUEST_ID).and_then(|id| id.to_str().ok());
        let id = id.unwrap_or_default().to_string();
        if point.is_none() && !wish.budget().is_none() {
            let words = "budget: expected limits with model \"cr2fast\", which chooses within them, got a request that names its model; leave the limits out";
            return Err(Refusal::bad("budget", words));
        }
        // A device gateway's client may name a group that only the device's thresholds know.
        if wish.group.is_some() && deferral.is_none() && !brain.has_groups() {
            let words = "x-cr2fast-group: expected none, since the router was calibrated without groups, got one; leave the header out, or calibrate with groups";
            return Err(Refusal::bad("group", words));
        }
        let context = Context::read(&head.headers);
        Ok(Job { id, brain, ask, kind, point, wish, deferral, context, read })
    }

    /// All of a body, in the pieces in which it came, within its time from the head on.
    pub(super) async fn read(&self, body: Body, of: &Extensions) -> Result<Pieces, Refusal> {
        let most = self.limits.body_bytes;
        if body.size_hint().lower() > most as u64 {
            return Err(Refusal::body_too_large(most));
        }
        let headed = of.get().map_or_else(Instant::now, |Headed(at)| *at);
        let pieces = timeout_at(headed + self.limits.body, Pieces::of(body, most)).await;
        pieces.unwrap_or_else(|_| {
            let words = format!("body: expected all of it within {:?}", self.limits.body);
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_slow", words))
        })
    }
}

/// Bytes of a piece that is worth keeping by itself.
const PIECE: usize = 1 << 12;

/// A body as it came; small pieces after the first are put together, since each costs more than it holds.
#[derive(Default)]
pub(super) struct Pieces {
    whole: Vec<Bytes>,
    small: Vec<u8>,
    len: usize,
}

impl Pieces {
    async fn of(mut body: Body, most: usize) -> Result<Self, Refusal> {
        let mut pieces = Self::default();
        let chunked = body.size_hint().exact().is_none();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| cut(&e, chunked))?;
            let Ok(piece) = frame.into_data() else { continue };
            pieces.len += piece.len();
            if pieces.len > most {
                return Err(Refusal::body_too_large(most));
            }
            if piece.len() < PIECE && !pieces.whole.is_empty() {
                pieces.small.extend_from_slice(&piece);
                continue;
            }
            pieces.gather();
            pieces.whole.push(piece);
        }
        pieces.gather();
        Ok(pieces)
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.whole.push(std::mem::take(&mut self.small).into());
        }
    }

    fn len(&self) -> usize {
        self.len
    }

    /// In one: not copied where it came in one.
    pub(super) fn joined(mut self) -> Bytes {
        match self.whole.len() {
            0 => Bytes::new(),
            1 => self.whole.remove(0),
            _ => Bytes::from(self.whole.concat()),
        }
    }
}

/// A body that did not come whole: one in chunks may have been none.
fn cut(e: &axum::Error, chunked: bool) -> Refusal {
    let mut beneath = std::error::Error::source(e);
    while let Some(inner) = beneath {
        let io = inner.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(io, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)) {
            let words = "body: expected chunks, each SIZE in hexadecimal digits, CR LF, so many bytes, CR LF (RFC 9112, section 7.1), got something else";
            return Refusal::bad("framing", words);
        }
        beneath = inner.source();
    }
    let words = if chunked {
        "body: expected a last chunk, of size 0, got the end of the connection"
    } else {
        "body: expected as many bytes as content-length announced, got fewer"
    };
    Refusal::bad("body_cut", words)
}

/// Whether a device that asks decides by this router and encoder. What stage one deferred is refused
/// where it does not, since the promise is one router's; the device answers. What only an edge can
/// answer, it answers by its own router and encoder, so that a rolling update stops nothing; the
/// refusal that is given back is that of a point which this router lacks.
fn fit(brain: &Brain, deferral: &mut Deferral) -> Result<Option<Refusal>, Refusal> {
    let refusal = |code, what: &str, ours: &str, theirs: &str| {
        let theirs: String = theirs.chars().take(64).collect();
        let words = format!(
            "x-cr2fast-{what}: expected {ours}, this edge's {what}, got {theirs:?}; load the same on device and edge"
        );
        Refusal::new(StatusCode::MISDIRECTED_REQUEST, code, words)
    };
    let refusal = if deferral.encoder != brain.encoder_hash() {
        refusal("other_encoder", "encoder", brain.encoder_hash(), &deferral.encoder)
    } else if deferral.router != brain.hash() {
        refusal("other_router", "router", brain.hash(), &deferral.router)
    } else {
        return Ok(None);
    };
    if matches!(deferral.why, Why::Deferred | Why::Shadow) {
        return Err(refusal);
    }
    (deferral.embedding, deferral.input_tokens) = (None, None);
    Ok(Some(refusal))
}

/// The point of a routed request: what its model's name says, else its headers, else the configuration.
fn point(brain: &Brain, target: &Target, wish: &Wish) -> Result<Option<Point>, Refusal> {
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
