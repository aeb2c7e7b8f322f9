//! One upstream: a server that answers completions, asked until it has shown content or failed.
//!
//! In: a path, a body, the headers of our own. Out: an [`Answer`] whose first content is at hand, so that
//! nothing was sent to the client that cannot be taken back before; or a [`Failure`], after which
//! another upstream may be asked.

mod breaker;
mod events;
mod failure;
mod health;
mod queueing;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
};
use hyper::http::response::Parts;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use crate::refusal::REFUSAL;
use crate::tls::{Trust, is_refusal};

pub use breaker::{Breaker, BreakerSettings, Ticket};
#[cfg(any(test, feature = "internals"))]
pub use events::look_at_whole;
pub use events::{Event, Events, Usage};
pub use failure::{Failure, token_words};
pub use health::{HealthSettings, watch};
pub use queueing::Queue;

use health::Health;

/// Bytes of events without content that are held back at most.
const MAX_HELD: usize = 1 << 16;

/// Idle connections are ours to close: uvicorn ends them after 5 s, and a request that meets that end
/// is lost.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// A client that keeps connections.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// One that waits so long for a connection.
pub fn http_client(connect: Duration, trust: &Trust) -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(connect));
    connector.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(trust.config())
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .build(connector)
}

/// How long an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadlines {
    /// To accept a connection.
    pub connect: Duration,
    /// To the first content of a streamed answer.
    pub first_content: Duration,
    /// To the end of an answer in one piece.
    pub answer: Duration,
    /// Between parts of a stream, after the first content.
    pub idle: Duration,
}

/// What an upstream is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// `/v1/chat/completions`, say.
    pub path: &'static str,
    /// The body, its model in place.
    pub body: Bytes,
    /// Our own headers.
    pub headers: HeaderMap,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Whether the request names one of several models there, whose silence is not the others'.
    pub named: bool,
}

/// An upstream's answer, with content.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers as they came.
    pub head: Parts,
    /// The rest.
    pub content: Content,
    /// From sending the request to the answer's head, s.
    pub head_s: f64,
    /// From sending the request to the first content, s.
    pub first_content_s: f64,
    /// Whether the connection had carried a request before, and from head to end, s.
    pub local: Option<std::net::SocketAddr>,
}

/// What an answer consists of.
#[derive(Debug)]
pub enum Content {
    /// All of it.
    Whole(Bytes, Option<Usage>),
    /// What came until the first content, and what is to come.
    Stream(Vec<Bytes>, Events, Incoming),
}

/// Where an upstream is, and what it is called.
#[derive(Clone, Debug)]
pub struct Address {
    /// The name in log, metrics and errors.
    pub name: String,
    /// `http://host:port` or `https://host`, without the path.
    pub base: String,
    /// What proves us to it.
    pub token: Option<HeaderValue>,
}

impl Address {
    /// Whether others on the way can read what is sent: neither TLS nor loopback.
    pub fn is_open(&self) -> bool {
        let Ok(uri) = self.base.parse::<Uri>() else { return false };
        uri.scheme_str() == Some("http") && !self.is_here()
    }

    /// Whether it is on this host by its very name.
    pub fn is_here(&self) -> bool {
        let Ok(uri) = self.base.parse::<Uri>() else { return false };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        host.parse().map_or(host == "localhost", |ip: IpAddr| ip.is_loopback())
    }
}

/// One upstream.
#[derive(Debug)]
pub struct Upstream {
    address: Address,
    deadlines: Deadlines,
    max_answer: usize,
    uris: Mutex<Vec<(&'static str, Uri)>>,
    client: HttpClient,
    /// Whether it is left alone.
    pub breaker: Arc<Breaker>,
    health: Health,
    /// How long it keeps requests waiting.
    pub queue: Arc<Queue>,
    /// Whether it is an edge gateway, behind which are servers of its own.
    is_edge: bool,
    /// The status of a server that does not take our token; 0 is none.
    token_status: AtomicU16,
}

impl Upstream {
    /// From its settings; connects to nobody yet.
    pub fn new(
        address: Address,
        deadlines: Deadlines,
        max_answer: usize,
        breaker: BreakerSettings,
        trust: &Trust,
    ) -> Self {
        Self {
            address,
            deadlines,
            max_answer,
            uris: Mutex::default(),
            client: http_client(deadlines.connect, trust),
            breaker: Breaker::new(breaker),
            health: Health::default(),
            queue: Arc::default(),
            is_edge: false,
            token_status: AtomicU16::new(0),
        }
    }

    /// The same, where it is an edge gateway.
    #[must_use]
    pub fn of_edge(self) -> Self {
        Self { is_edge: true, ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.address.name
    }

    /// Whether its breaker lets requests through and it says that it is well.
    pub fn is_up(&self) -> bool {
        self.breaker.is_up() && self.health.is_well()
    }

    /// How long it may take.
    pub fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// Ask, and wait for content.
    pub async fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let ticket = self.breaker.ticket().map_err(Failure::Open)?;
        let long =
            if question.stream { self.deadlines.first_content } else { self.deadlines.answer };
        let asked = timeout_at(Instant::now() + long, self.exchange(question)).await;
        let result = asked.unwrap_or(Err(Failure::Deadline));
        self.note_token(&result);
        match &result {
            Ok(_) => ticket.success(),
            Err(failure) if failure.is_of_the_living() => ticket.success(),
            // Of the edge or of that one model, nobody knows: it counts for neither.
            Err(Failure::Deadline) if self.is_edge && question.named => drop(ticket),
            Err(_) => ticket.failure(),
        }
        result
    }

    /// A stream failed after its first content. An edge that tells of it, or whose model fell silent, has
    /// not failed itself.
    pub fn failed_midway(&self, broke_off: bool) {
        if broke_off || !self.is_edge {
            self.breaker.failed();
        }
    }

    /// Why the server does not take our token, while it does not.
    pub fn token_refused(&self) -> Option<String> {
        let status = StatusCode::from_u16(self.token_status.load(Ordering::Relaxed)).ok()?;
        Some(format!("{}: {}", self.name(), token_words(status)))
    }

    /// Whether our token is taken: said once, for whoever runs the gateway. Of an edge, the device's standing says
    /// more.
    fn note_token(&self, result: &Result<Answer, Failure>) {
        let status = match result {
            Ok(_) => 0,
            Err(Failure::Token(status)) if !self.is_edge => status.as_u16(),
            Err(_) => return,
        };
        let before = self.token_status.swap(status, Ordering::Relaxed);
        if before == 0
            && let Some(words) = self.token_refused()
        {
            crate::say(&words);
        }
    }

    /// Ask for comparison only, and read the answer to its end: the breaker keeps the question back where
    /// it is open, and takes no notice of how it goes. Gives the head, the seconds to the first content
    /// and the token counts.
    pub async fn ask_aside(
        &self,
        question: &Question,
    ) -> Result<(Parts, f64, Option<Usage>), Failure> {
        if !self.breaker.is_up() {
            return Err(Failure::Open(Duration::ZERO));
        }
        let asked = async {
            let answer = self.exchange(question).await?;
            let usage = match answer.content {
                Content::Whole(_, usage) => usage,
                Content::Stream(_, mut events, mut body) => {
                    while let Some(frame) = body.frame().await {
                        let frame = frame.map_err(|_| Failure::Broken)?;
                        if let Ok(data) = frame.into_data() {
                            events.push(data).map_err(|()| Failure::Garbage)?;
                        }
                    }
                    events.usage
                }
            };
            Ok((answer.head, answer.first_content_s, usage))
        };
        let late = timeout_at(Instant::now() + self.deadlines.answer, asked).await;
        late.unwrap_or(Err(Failure::Deadline))
    }

    async fn exchange(&self, question: &Question) -> Result<Answer, Failure> {
        let start = Instant::now();
        let seconds = || start.elapsed().as_secs_f64();
        let response = self.client.request(self.request(question)).await.map_err(|e| match e {
            e if is_refusal(&e) => Failure::Untrusted,
            e if e.is_connect() => Failure::Unreachable,
            _ => Failure::Broken,
        })?;
        let head_s = seconds();
        let (head, body) = response.into_parts();
        let status = head.status;
        // An edge that refuses its device says why.
        let edge_says =
            status == StatusCode::MISDIRECTED_REQUEST && head.headers.contains_key(REFUSAL);
        let elsewhere = taken_elsewhere(status) && !edge_says;
        if !(status.is_success() || status.is_client_error()) || elsewhere {
            let plain = Failure::of_status(status, &head.headers);
            return Err(if self.is_edge { plain.of_edge(&head, body).await } else { plain });
        }
        let local = head.extensions.get::<HttpInfo>().map(HttpInfo::local_addr);
        let media = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let streamed = question.stream && media.starts_with("text/event-stream");
        let content = if streamed && status.is_success() {
            first_content(body, Events::new(is_encoded(&head.headers))).await?
        } else {
            self.whole(&head, body).await?
        };
        Ok(Answer { head, content, head_s, first_content_s: seconds(), local })
    }

    /// Where a path is: parsed once, since requests come in numbers and paths do not.
    fn uri(&self, path: &'static str) -> Uri {
        let mut known = self.uris.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, uri)) = known.iter().find(|(one, _)| *one == path) {
            return uri.clone();
        }
        let uri = format!("{}{path}", self.address.base);
        let uri: Uri = uri.parse().expect("the base was checked with the configuration");
        known.push((path, uri.clone()));
        uri
    }

    fn request(&self, question: &Question) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(question.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri(question.path);
        let headers = request.headers_mut();
        headers.clone_from(&question.headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What is compressed cannot be watched for errors.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(token) = &self.address.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        request
    }

    async fn whole(&self, head: &Parts, body: Incoming) -> Result<Content, Failure> {
        let collected = Limited::new(body, self.max_answer).collect().await.map_err(|e| {
            if e.is::<LengthLimitError>() { Failure::TooLarge } else { Failure::Broken }
        })?;
        let bytes = collected.to_bytes();
        if !head.status.is_success() || is_encoded(&head.headers) {
            return Ok(Content::Whole(bytes, None));
        }
        match events::look_at_whole(&bytes) {
            (Event::Error, _) => Err(Failure::ErrorInside),
            (Event::Garbage, _) => Err(Failure::Garbage),
            (_, usage) => Ok(Content::Whole(bytes, usage)),
        }
    }
}

/// A status that is no word on the request: the server is full, or does not take us for who we are.
fn taken_elsewhere(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 408 | 421 | 425 | 429)
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|v| v != "identity")
}

/// Read a stream until its first content.
async fn first_content(mut body: Incoming, mut events: Events) -> Result<Content, Failure> {
    let (mut held, mut bytes_held) = (Vec::new(), 0);
    loop {
        let frame = match body.frame().await {
            None => return Err(Failure::Broken),
            Some(frame) => frame.map_err(|_| Failure::Broken)?,
        };
        let Ok(data) = frame.into_data() else { continue };
        let Some(part) = events.push(data).map_err(|()| Failure::Garbage)? else { continue };
        bytes_held += part.bytes.len();
        held.push(part.bytes);
        match part.event {
            // Chunks that end before they began hold no answer.
            Event::Done if events.sequence.is_none() => return Err(Failure::Garbage),
            Event::Content | Event::Done => return Ok(Content::Stream(held, events, body)),
            Event::Error => return Err(Failure::ErrorInside),
            Event::Garbage => return Err(Failure::Garbage),
            Event::Empty if bytes_held > MAX_HELD => return Err(Failure::Garbage),
            Event::Empty => {}
        }
    }
}
