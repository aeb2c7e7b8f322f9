//! The parts of the gateway's benches: an upstream that answers at once, a bare pass-through proxy, the
//! same with a decision in it, clients that mean well, and clients that do not. `benches/gateway` starts
//! them.
//!
//!     load stub ADDRESS BYTES        an upstream whose answers are so much longer; prints its address
//!     load proxy UPSTREAM            a hyper server handing everything to a hyper client
//!     load floor UPSTREAM FOLDER     the same proxy, once the router of the folder has decided by the text
//!     load ask ADDRESS key=value…    asks, checks each answer, prints what it took as JSON
//!     load hostile ADDRESS N RATE    N hostile connections, so many per second

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cr2fast_core::{DeviceRouter, Router, StaticEncoder};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the upstream answers.
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":0,"model":"stub","choices":[{"index":0,"message":{"role":"assistant","content":"the answer of the stub"},"finish_reason":"stop"}],"usage":{"prompt_tokens":60,"completion_tokens":5,"total_tokens":65}}"#;
/// Events of a streamed answer.
const EVENTS: usize = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.expect("a runtime").block_on(async {
        match words[..] {
            ["stub", at, longer] => stub(at, longer.parse()?).await,
            ["proxy", to] => proxy(to).await,
            ["floor", to, folder] => floor(to, Path::new(folder)).await,
            ["ask", to, ref settings @ ..] => ask(to, settings).await,
            ["hostile", to, n, rate] => hostile(to, n.parse()?, rate.parse()?).await,
            // `cargo bench` and `cargo test --benches` start it with nothing to do.
            [] => Ok(()),
            _ => Err("expected stub, proxy, floor, ask or hostile".into()),
        }
    });
    if let Err(e) = done {
        eprintln!("load: {e}");
        std::process::exit(1);
    }
}

/// Serve for ever, each connection by `answer`; prints the address.
async fn listen<A, F>(at: &str, answer: A) -> Result<(), Failure>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<http_body_util::Either<Full<Bytes>, Incoming>>, Failure>>
        + Send
        + 'static,
{
    let listener = TcpListener::bind(at).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(answer);
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn stub(at: &str, longer: usize) -> Result<(), Failure> {
    let word = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"stub","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}"#;
    let stream = Bytes::from(format!("{word}\n\n").repeat(EVENTS) + "data: [DONE]\n\n");
    let padding = format!(",\"padding\":\"{}\"}}", "x".repeat(longer));
    let whole = Bytes::from(if longer == 0 {
        ANSWER.to_string()
    } else {
        format!("{}{padding}", ANSWER.strip_suffix('}').unwrap_or(ANSWER))
    });
    listen(at, move |request| {
        let (stream, whole) = (stream.clone(), whole.clone());
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            let streamed = body.windows(13).any(|w| w == b"\"stream\":true");
            let (media, answer) =
                if streamed { ("text/event-stream", stream) } else { ("application/json", whole) };
            let mut response = Response::new(http_body_util::Either::Left(Full::new(answer)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
            Ok(response)
        }
    })
    .await
}

/// A client that keeps its connections.
fn client_of<B>() -> Client<HttpConnector, B>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn proxy(to: &str) -> Result<(), Failure> {
    let client = client_of::<Incoming>();
    let to = to.to_string();
    listen("127.0.0.1:0", move |mut request| {
        let (client, to) = (client.clone(), to.clone());
        async move {
            let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
            *request.uri_mut() = format!("http://{to}{path}").parse::<Uri>()?;
            Ok(client.request(request).await?.map(http_body_util::Either::Right))
        }
    })
    .await
}

/// What of a chat is decided by.
#[derive(Deserialize)]
struct Chat {
    messages: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    content: String,
}

/// The least that a gateway does which decides by the text of a request before it sends it on: the body is
/// read, parsed, tokenized, embedded, and its margin compared. No log, no metrics, no header of its own,
/// no limits, no check of anything: what a gateway adds to this is its own.
async fn floor(to: &str, folder: &Path) -> Result<(), Failure> {
    let encoder = StaticEncoder::load(&folder.join("static.safetensors"))?;
    let router = Router::load(&folder.join("router.safetensors"))?;
    let point = router.calibration().ok_or("a router without calibration")?;
    let (lam, alpha) = (point.lams[0], point.alphas[0]);
    let deciding = Arc::new((encoder, DeviceRouter::new(&router, lam, alpha)?));
    let client = client_of::<Full<Bytes>>();
    let to = to.to_string();
    listen("127.0.0.1:0", move |request| {
        let (client, to, deciding) = (client.clone(), to.clone(), Arc::clone(&deciding));
        async move {
            let (mut head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let chat: Chat = serde_json::from_slice(&body)?;
            let text = &chat.messages.last().ok_or("no turn")?.content;
            let (encoder, device) = &*deciding;
            let (row, _) = encoder.encode_counted(text)?;
            let decision = device.route_in((None, None), &row, false)?;
            // Wherever it goes: here both places are one.
            std::hint::black_box(decision.local);
            let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
            head.uri = format!("http://{to}{path}").parse::<Uri>()?;
            let request = Request::from_parts(head, Full::new(body));
            Ok(client.request(request).await?.map(http_body_util::Either::Right))
        }
    })
    .await
}

/// What a client is to do.
#[derive(Clone)]
struct Plan {
    address: String,
    body: Bytes,
    connections: usize,
    /// Requests of all connections together.
    requests: u64,
    /// No request begins later.
    seconds: f64,
    /// What each answer has to hold.
    expect: String,
    token: Option<HeaderValue>,
    /// Requests per second of all connections together; 0 is as many as there can be.
    rate: f64,
    /// Whether to print each request: id, when it ended (s since the epoch).
    ids: bool,
}

/// What came of it.
#[derive(Default)]
struct Tally {
    seconds: Vec<f64>,
    statuses: BTreeMap<String, u64>,
    why: BTreeMap<String, u64>,
    wrong: u64,
    ids: Vec<(String, f64)>,
}

impl Plan {
    fn read(to: &str, settings: &[&str]) -> Result<Self, Failure> {
        let mut plan = Self {
            address: to.into(),
            body: Bytes::new(),
            connections: 1,
            requests: u64::MAX / 2,
            seconds: f64::INFINITY,
            expect: String::new(),
            token: None,
            rate: 0.0,
            ids: false,
        };
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or("expected key=value")?;
            match key {
                "body" => plan.body = std::fs::read(value)?.into(),
                "connections" => plan.connections = value.parse()?,
                "requests" => plan.requests = value.parse()?,
                "seconds" => plan.seconds = value.parse()?,
                "expect" => plan.expect = value.into(),
                "token" => plan.token = Some(format!("Bearer {value}").parse()?),
                "rate" => plan.rate = value.parse()?,
                "ids" => plan.ids = value == "yes",
                _ => return Err(format!("unknown setting {key}").into()),
            }
        }
        Ok(plan)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request =
            Request::post("/v1/chat/completions").body(Full::new(self.body.clone()))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.address.parse()?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert("authorization", token.clone());
        }
        Ok(request)
    }
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn ask(to: &str, settings: &[&str]) -> Result<(), Failure> {
    let plan = Plan::read(to, settings)?;
    let taken = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut terminate = signal(SignalKind::terminate())?;
    let all_taken = Arc::clone(&taken);
    tokio::spawn(async move {
        // Those under way end well; no other begins.
        terminate.recv().await;
        all_taken.store(u64::MAX / 2, Ordering::Relaxed);
    });
    let clients: Vec<_> = (0..plan.connections)
        .map(|_| tokio::spawn(client(plan.clone(), Arc::clone(&taken), start)))
        .collect();
    let mut all = Tally::default();
    for one in clients {
        let one = one.await?;
        all.seconds.extend(one.seconds);
        all.wrong += one.wrong;
        all.ids.extend(one.ids);
        for (into, from) in [(&mut all.statuses, one.statuses), (&mut all.why, one.why)] {
            for (key, n) in from {
                *into.entry(key).or_default() += n;
            }
        }
    }
    let total = start.elapsed().as_secs_f64();
    all.seconds.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let last = all.seconds.len().saturating_sub(1) as f64;
        all.seconds.get((q * last).round() as usize).copied()
    };
    let told = serde_json::json!({
        "n": all.seconds.len(), "total_s": total, "statuses": all.statuses, "why": all.why,
        "wrong": all.wrong, "p50_s": at(0.5), "p90_s": at(0.9), "p99_s": at(0.99),
        "max_s": at(1.0), "ids": all.ids,
    });
    println!("{told}");
    Ok(())
}

async fn client(plan: Plan, taken: Arc<AtomicU64>, start: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut sender = None;
    loop {
        let n = taken.fetch_add(1, Ordering::Relaxed);
        let due = if plan.rate > 0.0 { n as f64 / plan.rate } else { 0.0 };
        if n >= plan.requests || due.max(start.elapsed().as_secs_f64()) >= plan.seconds {
            return tally;
        }
        tokio::time::sleep_until((start + Duration::from_secs_f64(due)).into()).await;
        let sent = Instant::now();
        let status = exchange(&plan, &mut sender, &mut tally).await.unwrap_or_else(|_| {
            sender = None;
            "none".into()
        });
        tally.seconds.push(sent.elapsed().as_secs_f64());
        *tally.statuses.entry(status).or_default() += 1;
    }
}

async fn exchange(
    plan: &Plan,
    sender: &mut Option<SendRequest<Full<Bytes>>>,
    tally: &mut Tally,
) -> Result<String, Failure> {
    // A connection that the server has ended in the meantime is no request's fault.
    if sender.as_mut().is_none_or(|s| s.is_closed()) {
        *sender = Some(connect(&plan.address).await?);
    }
    let connection = sender.as_mut().ok_or("no connection")?;
    connection.ready().await?;
    let response = connection.send_request(plan.request()?).await?;
    let text = |key: &str| {
        let value = response.headers().get(key).and_then(|v| v.to_str().ok());
        value.unwrap_or("none").to_string()
    };
    let (status, why, id) =
        (response.status().as_u16(), text("x-cr2fast-why"), text("x-cr2fast-request-id"));
    let body = response.into_body().collect().await?.to_bytes();
    if status == 200 && !holds(&body, plan.expect.as_bytes()) {
        tally.wrong += 1;
    }
    *tally.why.entry(why).or_default() += 1;
    if plan.ids {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        tally.ids.push((id, now.as_secs_f64()));
    }
    Ok(status.to_string())
}

fn holds(body: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || body.windows(expected.len()).any(|w| w == expected)
}

/// Hostile connections of four kinds in turn: a head that never ends, a body too large, a body cut off,
/// framing that is none.
async fn hostile(to: &str, n: u64, rate: f64) -> Result<(), Failure> {
    const HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n";
    let start = Instant::now();
    let mut all = Vec::new();
    for i in 0..n {
        let due = start + Duration::from_secs_f64(i as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        let to = to.to_string();
        let bytes = match i % 4 {
            0 => format!("{HEAD}x-slow: "),
            1 => format!("{HEAD}content-length: 99999999999\r\n\r\n{}", "x".repeat(1 << 14)),
            2 => format!("{HEAD}content-length: 5000\r\n\r\n{{\"model\""),
            _ => format!("{HEAD}transfer-encoding: chunked\r\n\r\nzz\r\n\u{1}\u{2}"),
        };
        all.push(tokio::spawn(async move {
            let Ok(mut stream) = TcpStream::connect(to).await else { return false };
            let _ = stream.write_all(bytes.as_bytes()).await;
            if i % 4 == 2 {
                let _ = stream.shutdown().await;
            }
            // Hold on until the server has had enough.
            let mut answer = [0; 4096];
            while matches!(stream.read(&mut answer).await, Ok(1..)) {}
            true
        }));
    }
    let mut ended = 0_u64;
    for one in all {
        ended += u64::from(one.await?);
    }
    println!(
        "{}",
        serde_json::json!({"n": n, "ended": ended, "total_s": start.elapsed().as_secs_f64()})
    );
    Ok::<(), Failure>(())
}
