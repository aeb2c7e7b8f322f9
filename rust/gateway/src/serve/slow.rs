//! A stream whose reader may not stop reading for long.
//!
//! In: a stream and a time. Out: the same stream; a write that waits longer than that is an error, so
//! that a client that takes nothing holds no upstream.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The stream.
#[derive(Debug)]
pub struct WriteLimit<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Kept between waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteLimit<S> {
    /// A limit of this long.
    pub fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waiting: None, timer: None }
    }

    /// The stream within, between two runtimes: a timer belongs to one.
    pub fn between(&mut self) -> &mut S {
        (self.waiting, self.timer) = (None, None);
        &mut self.stream
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, poll: Poll<Result<T>>) -> Poll<Result<T>> {
        if poll.is_ready() {
            self.timer = self.waiting.take().or_else(|| self.timer.take());
            return poll;
        }
        let limit = self.limit;
        let timer = self.timer.take();
        let waiting = self.waiting.get_or_insert_with(|| match timer {
            Some(mut timer) => {
                timer.as_mut().reset(Instant::now() + limit);
                timer
            }
            None => Box::pin(sleep(limit)),
        });
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client takes no bytes")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteLimit<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteLimit<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.judge(cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.judge(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(cx);
        this.judge(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.judge(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_given_up_and_a_slow_one_is_not() {
        let (ours, mut theirs) = duplex(16);
        let mut limited = WriteLimit::new(ours, Duration::from_secs(1));
        let reader = tokio::spawn(async move {
            for _ in 0..8 {
                sleep(Duration::from_millis(900)).await;
                let mut bytes = [0; 16];
                theirs.read_exact(&mut bytes).await.unwrap();
            }
            theirs // open, and read no more
        });
        limited.write_all(&[1; 128]).await.unwrap();
        let kept = reader.await.unwrap();
        let error = limited.write_all(&[1; 128]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(kept);
    }
}
