//! An answer on its way to the client.
//!
//! In: an answer whose first content is at hand. Out: a body: its bytes unchanged. A stream is handed
//! on in whole events; one that breaks or falls silent, or outlasts a stop's patience, ends in an error
//! event, for nothing can be switched any more. Dropping the body, as a cancelled client does, drops the upstream's connection.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::refusal::error_json;
use crate::stop::Stopped;
use crate::trace::Trace;
use crate::upstream::{Events, Upstream};

/// How a stream is interrupted whose connection ends.
const BROKE_OFF: &str = "broke off";

/// The body of an upstream's answer.
#[derive(Debug)]
pub enum Out {
    /// All of it, and its trace until it is taken.
    Whole(Option<Bytes>, Option<Box<Trace>>),
    /// A stream.
    Stream(Box<Stream>),
}

/// A stream after its first content.
#[derive(Debug)]
pub struct Stream {
    held: VecDeque<Bytes>,
    events: Events,
    /// None after its end.
    body: Option<Incoming>,
    idle: Duration,
    silent: Pin<Box<Sleep>>,
    stopped: Stopped,
    /// Whether the end is to be a broken connection: no event can tell of it.
    torn: bool,
    upstream: Arc<Upstream>,
    trace: Box<Trace>,
}

impl Out {
    /// An answer in one piece.
    pub fn whole(bytes: Bytes, mut trace: Box<Trace>) -> Self {
        if bytes.is_empty() {
            trace.ended("answered");
            return Self::Whole(None, None);
        }
        Self::Whole(Some(bytes), Some(trace))
    }

    /// An answer in parts.
    pub fn stream(
        held: Vec<Bytes>,
        events: Events,
        body: Incoming,
        upstream: &Arc<Upstream>,
        trace: Box<Trace>,
    ) -> Self {
        let idle = upstream.deadlines().idle;
        Self::Stream(Box::new(Stream {
            held: held.into(),
            events,
            body: Some(body),
            idle,
            silent: Box::pin(sleep(idle)),
            stopped: trace.stop.stopped(),
            torn: false,
            upstream: Arc::clone(upstream),
            trace,
        }))
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.held.pop_front() {
                return Poll::Ready(Some(bytes));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let frame = match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    if Pin::new(&mut self.stopped).poll(cx).is_ready() {
                        self.out_of_time();
                        continue;
                    }
                    ready!(self.silent.as_mut().poll(cx));
                    self.interrupted("fell silent");
                    continue;
                }
            };
            match frame {
                Some(Ok(frame)) => {
                    self.silent.as_mut().reset(Instant::now() + self.idle);
                    let Ok(data) = frame.into_data() else { continue };
                    match self.events.push(data) {
                        Ok(part) => self.held.extend(part.map(|part| part.bytes)),
                        Err(()) => self.interrupted("sent an event without end"),
                    }
                }
                Some(Err(_)) => self.interrupted(BROKE_OFF),
                None => self.ended(),
            }
        }
    }

    /// The connection's end is the answer's only where the answer announced its own.
    fn ended(&mut self) {
        let rest = self.events.end();
        if !self.events.done() && !self.events.failed {
            return self.interrupted(BROKE_OFF);
        }
        self.held.extend(Some(rest).filter(|rest| !rest.is_empty()));
        self.finished();
    }

    fn finished(&mut self) {
        self.body = None;
        self.trace.usage(self.events.usage);
        if self.events.failed {
            self.upstream.failed_midway(false);
            return self.trace.ended("broken");
        }
        self.trace.ended("answered");
    }

    /// End in an error event. The tail of an event that never ended is left out.
    fn interrupted(&mut self, how: &str) {
        // What comes after the announced end is missed by nobody.
        if self.events.done() {
            return self.finished();
        }
        self.upstream.failed_midway(how == BROKE_OFF);
        let words = format!("the model's server {how} in the middle of its answer; ask again");
        self.cut("stream_interrupted", &words);
    }

    /// The gateway ends, and has waited as long as it was to.
    fn out_of_time(&mut self) {
        if self.events.done() {
            return self.finished();
        }
        let words = "this gateway was stopped in the middle of the answer; ask again";
        self.cut("gateway_stopped", words);
    }

    fn cut(&mut self, code: &str, words: &str) {
        self.body = None;
        self.trace.usage(self.events.usage);
        self.trace.ended("broken");
        if self.events.opaque {
            self.torn = true;
            return;
        }
        let error = match self.events.sequence {
            None => {
                let error = error_json(words, "api_error", code);
                [b"data: ", &error[..], b"\n\n"].concat()
            }
            Some(last) => {
                let error = serde_json::json!({
                    "type": "error", "code": code, "message": words,
                    "param": null, "sequence_number": last.saturating_add(1),
                });
                format!("event: error\ndata: {error}\n\n").into_bytes()
            }
        };
        self.held.push_back(error.into());
    }
}

impl Body for Out {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let bytes = match self.get_mut() {
            Self::Whole(bytes, trace) => {
                if let Some(trace) = trace {
                    trace.ended("answered");
                }
                bytes.take()
            }
            Self::Stream(stream) => match ready!(stream.poll(cx)) {
                None if std::mem::take(&mut stream.torn) => {
                    return Poll::Ready(Some(Err(ErrorKind::BrokenPipe.into())));
                }
                bytes => bytes,
            },
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, _) => bytes.is_none(),
            Self::Stream(stream) => stream.body.is_none() && stream.held.is_empty() && !stream.torn,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
