//! An upstream that plays a part, on a plain socket: so that it can lie.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub const ANSWER: &str = "{ \"choices\": [{\"message\": {\"content\": \"h\u{e9}\"}}],\n \"x\":1e3, \"usage\": {\"prompt_tokens\": 5, \"completion_tokens\": 7}}";
pub const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
pub const WORD: &str =
    "data: {\"choices\": [{\"delta\": {\"content\": \"w\u{f6}rd\"}}], \"own\": 1}\n\n";
pub const DONE: &str = "data: [DONE]\n\n";

/// What an upstream does with a request.
#[derive(Clone, Debug)]
pub enum Play {
    /// Status, body.
    Json(u16, String),
    /// A stream of these events, ended well.
    Events(Vec<String>),
    /// The same, cut in the middle.
    EventsThenCut(Vec<String>),
    /// The same, then nothing.
    EventsThenSilence(Vec<String>),
    /// Nothing at all.
    Silence,
    /// The connection ends.
    Cut,
    /// These bytes, then the end.
    Raw(Vec<u8>),
    /// Waits for the notice, then the answer.
    Wait(Arc<Notify>),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// The upstream.
#[derive(Clone)]
pub struct Stub {
    pub url: String,
    play: Arc<Mutex<Play>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that the other side ended while an answer was due.
    pub left: Arc<Notify>,
    pub open: Arc<AtomicUsize>,
    /// What GET is answered with: the server's word on its health.
    pub well: Arc<AtomicBool>,
}

impl Stub {
    pub async fn start(play: Play) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stub = Self {
            url,
            play: Arc::new(Mutex::new(play)),
            seen: Arc::default(),
            left: Arc::default(),
            open: Arc::default(),
            well: Arc::new(AtomicBool::new(true)),
        };
        let serving = stub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stub = serving.clone();
                tokio::spawn(async move {
                    stub.open.fetch_add(1, Ordering::SeqCst);
                    stub.connection(stream).await;
                    stub.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        stub
    }

    pub async fn answering() -> Self {
        Self::start(Play::Json(200, ANSWER.into())).await
    }

    pub fn play(&self, play: Play) {
        *self.play.lock().unwrap() = play;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn connection(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(seen) = request(&mut stream, &mut buffer).await {
            if seen.head.starts_with("GET ") {
                let status = if self.well.load(Ordering::SeqCst) { 200 } else { 503 };
                if stream.write_all(&reply(status, "{}")).await.is_err() {
                    return;
                }
                continue;
            }
            self.seen.lock().unwrap().push(seen);
            let play = self.play.lock().unwrap().clone();
            let reply = match play {
                Play::Json(status, body) => reply(status, &body),
                Play::Wait(notice) => {
                    tokio::select! {
                        () = notice.notified() => reply(200, ANSWER),
                        () = gone(&mut stream) => return self.left.notify_one(),
                    }
                }
                Play::Events(events) => chunks(&events, "0\r\n\r\n"),
                Play::EventsThenCut(events) => {
                    let _ = stream.write_all(&chunks(&events, "")).await;
                    return;
                }
                Play::EventsThenSilence(events) => {
                    let _ = stream.write_all(&chunks(&events, "")).await;
                    gone(&mut stream).await;
                    return self.left.notify_one();
                }
                Play::Silence => {
                    gone(&mut stream).await;
                    return self.left.notify_one();
                }
                Play::Cut => return,
                Play::Raw(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    return;
                }
            };
            if stream.write_all(&reply).await.is_err() {
                return;
            }
        }
    }
}

/// Until the other side ends the connection.
async fn gone(stream: &mut TcpStream) {
    let mut byte = [0];
    while matches!(stream.read(&mut byte).await, Ok(1)) {}
}

pub fn reply(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Stub\r\ncontent-type: application/json\r\nx-own: kept\r\n\
         x-cr2fast-place: forged\r\nx-cr2fast-model: forged\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn chunks(events: &[String], end: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let chunk = |event: &String| format!("{:x}\r\n{event}\r\n", event.len());
    let body: String = events.iter().map(chunk).collect();
    format!("{head}{body}{end}").into_bytes()
}

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
    let mut seen = Seen { head, body: Vec::new() };
    let long: usize = seen.header("content-length").map_or(0, |v| v.parse().unwrap());
    while buffer.len() < end + long {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    seen.body = buffer[end..end + long].to_vec();
    buffer.drain(..end + long);
    Some(seen)
}
