//! A connection whose heads are read before hyper reads them.
//!
//! In: a client's bytes. Out: the same bytes, a head only when all of it has come and is good. In place of
//! a bad head, and of all that follows it, stands a request of our own, so that hyper answers it in its
//! turn, after what came before, and ends the connection. hyper alone answers a bad head with no
//! body, bounds its buffer and not the head, and takes a bare LF or two equal lengths.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::{Chunks, Step};
use super::head::{self, Framing};
use crate::refusal::Refusal;

/// The path of the request that stands for a bad one.
pub const REFUSED: &str = "/cr2fast-refused";
const STANDS_FOR_IT: &[u8] = b"POST /cr2fast-refused HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// Bytes after a bad head that are read for nothing, so that the answer is not lost to a reset.
const MAX_DRAINED: usize = 1 << 20;

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

/// The connection.
#[derive(Debug)]
pub struct Guard<S> {
    stream: S,
    header_bytes: usize,
    slot: Slot,
    state: State,
    /// What is no whole head yet.
    held: Vec<u8>,
    /// What may pass, from here on.
    out: Vec<u8>,
    passed: usize,
    drained: usize,
}

impl<S> Guard<S> {
    /// One whose heads have so many bytes at most.
    pub fn new(stream: S, header_bytes: usize, slot: Slot) -> Self {
        Self {
            stream,
            header_bytes,
            slot,
            state: State::Head(0),
            held: Vec::new(),
            out: Vec::new(),
            passed: 0,
            drained: 0,
        }
    }

    /// How many of these bytes may pass; the rest is no whole head yet, or never passes.
    fn look(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let left = rest.len() as u64;
            match &mut self.state {
                State::Head(seen) => match head_of(rest, seen, self.header_bytes) {
                    Ok(None) => break,
                    Ok(Some((n, state))) => {
                        at += n;
                        self.state = state;
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
                    }
                }
                State::Chunked(chunks) => match chunks.step(rest) {
                    Step::More => at = bytes.len(),
                    Step::End(n) => {
                        at += n;
                        self.state = State::Head(0);
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
}

/// The end of a head and what follows it; none where more has to come.
fn head_of(
    bytes: &[u8],
    seen: &mut usize,
    most: usize,
) -> std::result::Result<Option<(usize, State)>, Refusal> {
    // An empty line before a request is passed over, as hyper does (RFC 9112, section 2.2).
    if bytes.starts_with(b"\r\n") {
        return Ok(Some((2, State::Head(0))));
    }
    // No more than may stand there is looked at; a head that is too long is not read to its end.
    let looked = &bytes[..bytes.len().min(most)];
    let first = *seen == 0;
    let Some(end) = head::end(looked, (*seen).min(looked.len()))? else {
        if bytes.len() > most {
            return Err(head::too_long(most));
        }
        if first && bytes != b"\r" {
            head::may_become_one(bytes)?;
        }
        *seen = bytes.len();
        return Ok(None);
    };
    Ok(Some((
        end,
        match head::read(&bytes[..end])? {
            Framing::Length(0) => State::Head(0),
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Chunked(Chunks::new()),
        },
    )))
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Read what follows a bad head, for nothing.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut bytes = [0; 4096];
        while self.drained < MAX_DRAINED {
            let mut buf = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            match buf.filled().len() {
                0 => break,
                n => self.drained += n,
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
            if this.passed < this.out.len() {
                let n = (this.out.len() - this.passed).min(buf.remaining());
                buf.put_slice(&this.out[this.passed..this.passed + n]);
                this.passed += n;
                if this.passed == this.out.len() {
                    (this.out, this.passed) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            match this.state {
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
            let whole = if this.held.is_empty() {
                let whole = this.look(new);
                if whole == new.len() {
                    return Poll::Ready(Ok(())); // the usual case
                }
                this.held.extend_from_slice(new);
                whole
            } else {
                let mut held = std::mem::take(&mut this.held);
                held.extend_from_slice(new);
                let whole = this.look(&held);
                this.held = held;
                whole
            };
            buf.set_filled(before);
            this.out.extend(this.held.drain(..whole));
            match this.state {
                State::Refused => {
                    this.out.extend_from_slice(STANDS_FOR_IT);
                    this.held = Vec::new();
                }
                State::Broken => this.held = Vec::new(),
                _ => {}
            }
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
