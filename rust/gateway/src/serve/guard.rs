//! A connection whose heads are read before hyper reads them.
//!
//! In: a client's bytes. Out: the same bytes, a head only when all of it has come and is good. In place of
//! a bad head, and of all that follows it, stands a request of our own, so that hyper answers it in its
//! turn, after what came before, and ends the connection. hyper alone answers a bad head with no
//! body, bounds its buffer and not the head, and takes a bare LF or two equal lengths. A head that
//! announces a body larger than any may be is a bad one: nothing of the body is read.

use std::future::poll_fn;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

use super::chunks::{Chunks, Step};
use super::head::{self, Framing};
use crate::refusal::Refusal;

/// The path of the request that stands for a bad one.
pub const REFUSED: &str = "/cr2fast-refused";
const STANDS_FOR_IT: &[u8] = b"POST /cr2fast-refused HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// Bytes after a bad head that are read for nothing, so that the answer is not lost to a reset.
const MAX_DRAINED: usize = 1 << 20;
/// Bytes of a first request that are waited for before anybody answers it.
const MAX_WAITED: usize = 1 << 16;

/// Why a connection's last request was refused.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<Mutex<Option<Refusal>>>);

impl Slot {
    /// The refusal, once.
    pub fn take(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[derive(Debug)]
enum State {
    /// A head is due, of which so many bytes were looked at.
    Head(usize),
    Length(u64),
    Chunked(Chunks),
    /// Nothing more is passed: after a bad head, or after chunks that are none.
    Refused,
    Broken,
}

/// How much a head and a body may be.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Bytes of a head.
    pub header_bytes: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
}

/// What has been read of a connection.
#[derive(Debug)]
pub struct Reading {
    most: Most,
    slot: Slot,
    state: State,
    /// When the first whole head was here.
    headed: Option<Instant>,
    /// Whether a request has come whole, or one that comes no further before it is heard.
    heard: bool,
    /// What is no whole head yet.
    held: Vec<u8>,
    /// What may pass, from here on.
    out: Vec<u8>,
    passed: usize,
    drained: usize,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// With a request that is all here, or too long to wait for.
    Request,
    /// With something to refuse, or a request that breaks off.
    Refused,
    /// With nothing.
    Nothing,
}

/// The connection.
#[derive(Debug)]
pub struct Guard<S> {
    stream: S,
    reading: Reading,
}

impl Reading {
    /// Nothing yet; what is refused is left in the slot.
    pub fn new(most: Most, slot: Slot) -> Self {
        Self {
            most,
            slot,
            state: State::Head(0),
            headed: None,
            heard: false,
            held: Vec::new(),
            out: Vec::new(),
            passed: 0,
            drained: 0,
        }
    }

    /// Why the connection's last request was refused.
    pub fn slot(&self) -> Slot {
        self.slot.clone()
    }

    /// When the first whole head was here, if there was one: its body's time begins then.
    pub fn headed(&self) -> Option<Instant> {
        self.headed
    }

    /// How many of these bytes may pass; the rest is no whole head yet, or never passes.
    fn look(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let left = rest.len() as u64;
            match &mut self.state {
                State::Head(seen) => match head_of(rest, seen, self.most) {
                    Ok(None) => break,
                    Ok(Some(next)) => {
                        at += next.end;
                        let is_head = next.heard || !matches!(next.state, State::Head(_));
                        if is_head && self.headed.is_none() {
                            self.headed = Some(Instant::now());
                        }
                        self.state = next.state;
                        self.heard |= next.heard;
                    }
                    Err(refusal) => {
                        *self.slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                        self.state = State::Refused;
                    }
                },
                State::Length(length) => {
                    let n = left.min(*length);
                    *length -= n;
                    at += n as usize;
                    if *length == 0 {
                        self.state = State::Head(0);
                        self.heard = true;
                    }
                }
                State::Chunked(chunks) => match chunks.step(rest) {
                    Step::More => at = bytes.len(),
                    Step::End(n) => {
                        at += n;
                        self.state = State::Head(0);
                        self.heard = true;
                    }
                    Step::Broken(n) => {
                        at += n;
                        self.state = State::Broken;
                    }
                },
                State::Refused | State::Broken => break,
            }
        }
        at
    }

    /// Keep new bytes, of which `whole` may pass, after those that are held.
    fn keep(&mut self, new: &[u8], whole: Option<usize>) {
        self.held.extend_from_slice(new);
        let whole = whole.unwrap_or_else(|| {
            let held = std::mem::take(&mut self.held);
            let whole = self.look(&held);
            self.held = held;
            whole
        });
        self.out.extend(self.held.drain(..whole));
        match self.state {
            State::Refused => {
                self.out.extend_from_slice(STANDS_FOR_IT);
                self.held = Vec::new();
            }
            State::Broken => self.held = Vec::new(),
            _ => {}
        }
    }
}

/// A head, and what follows it.
struct Next {
    end: usize,
    state: State,
    /// Whether it is to be heard at once.
    heard: bool,
}

/// The end of a head and what follows it; none where more has to come.
fn head_of(
    bytes: &[u8],
    seen: &mut usize,
    most: Most,
) -> std::result::Result<Option<Next>, Refusal> {
    // An empty line before a request is passed over, as hyper does (RFC 9112, section 2.2).
    if bytes.starts_with(b"\r\n") {
        return Ok(Some(Next { end: 2, state: State::Head(0), heard: false }));
    }
    // No more than may stand there is looked at; a head that is too long is not read to its end.
    let looked = &bytes[..bytes.len().min(most.header_bytes)];
    let first = *seen == 0;
    let Some(end) = head::end(looked, (*seen).min(looked.len()))? else {
        if bytes.len() > most.header_bytes {
            return Err(head::too_long(most.header_bytes));
        }
        if first && bytes != b"\r" {
            head::may_become_one(bytes)?;
        }
        *seen = bytes.len();
        return Ok(None);
    };
    let (framing, waits) = head::read(&bytes[..end])?;
    Ok(Some(match framing {
        Framing::Length(0) => Next { end, state: State::Head(0), heard: true },
        Framing::Length(n) if n > most.body_bytes as u64 => {
            return Err(Refusal::body_too_large(most.body_bytes));
        }
        Framing::Length(n) => Next { end, state: State::Length(n), heard: waits },
        Framing::Chunked => Next { end, state: State::Chunked(Chunks::new()), heard: waits },
    }))
}

impl<S> Guard<S> {
    /// A connection of which so much was read.
    pub fn new(stream: S, reading: Reading) -> Self {
        Self { stream, reading }
    }

    /// The stream, and what was read of it.
    pub fn into_parts(self) -> (S, Reading) {
        (self.stream, self.reading)
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Read until it is known how the connection begins: `header` for a head to come, and from then on
    /// `body` for what follows it. A body that is late is somebody else's to refuse.
    pub async fn first(&mut self, header: Duration, body: Duration) -> First {
        match timeout(header, self.until(|reading| reading.headed.is_some())).await {
            Err(_) => return First::Nothing,
            Ok(First::Request) => {}
            Ok(other) => return other,
        }
        let whole = |reading: &Reading| reading.heard || reading.out.len() >= MAX_WAITED;
        timeout(body, self.until(whole)).await.unwrap_or(First::Request)
    }

    /// Read until enough is here, or no more will come.
    async fn until(&mut self, enough: impl Fn(&Reading) -> bool) -> First {
        let mut bytes = [0; 4096];
        loop {
            if enough(&self.reading) {
                return First::Request;
            }
            if matches!(self.reading.state, State::Refused | State::Broken) {
                return First::Refused;
            }
            let mut buf = ReadBuf::new(&mut bytes);
            let read = poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut buf)).await;
            if read.is_err() || buf.filled().is_empty() {
                // Of a head that never came whole, nobody need know.
                let head = self.reading.headed.is_some();
                return if head { First::Refused } else { First::Nothing };
            }
            self.reading.keep(buf.filled(), None);
        }
    }

    /// Read what follows a bad head, for nothing.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut bytes = [0; 4096];
        while self.reading.drained < MAX_DRAINED {
            let mut buf = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            match buf.filled().len() {
                0 => break,
                n => self.reading.drained += n,
            }
        }
        // The connection ends with the answer that is under way.
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = self.get_mut();
        loop {
            let reading = &mut this.reading;
            if reading.passed < reading.out.len() {
                let n = (reading.out.len() - reading.passed).min(buf.remaining());
                buf.put_slice(&reading.out[reading.passed..reading.passed + n]);
                reading.passed += n;
                if reading.passed == reading.out.len() {
                    (reading.out, reading.passed) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            match reading.state {
                State::Refused => return this.drain(cx),
                State::Broken => return Poll::Ready(Ok(())),
                _ => {}
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let new = &buf.filled()[before..];
            if new.is_empty() {
                // The end. Of a head that never came whole, hyper need not know.
                return Poll::Ready(Ok(()));
            }
            if reading.held.is_empty() {
                let whole = reading.look(new);
                if whole == new.len() {
                    return Poll::Ready(Ok(())); // the usual case
                }
                reading.keep(new, Some(whole));
            } else {
                reading.keep(new, None);
            }
            buf.set_filled(before);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
