//! A stream that goes from one runtime's thread to another's, with whatever is built on it.
//!
//! In: a stream of tokio's. Out: the same, which rests on the way: a runtime tells only of sockets that
//! it has, and what shook hands of TLS over one cannot be taken apart and put together elsewhere.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The stream.
#[derive(Debug)]
pub struct Moving(State);

#[derive(Debug)]
enum State {
    Here(TcpStream),
    Resting(std::net::TcpStream),
    Gone,
}

impl Moving {
    /// At its first place.
    pub fn new(stream: TcpStream) -> Self {
        Self(State::Here(stream))
    }

    /// Leave the runtime.
    pub fn rest(&mut self) -> Result<()> {
        if let State::Here(stream) = std::mem::replace(&mut self.0, State::Gone) {
            self.0 = State::Resting(stream.into_std()?);
        }
        Ok(())
    }

    /// Come to the runtime of now.
    pub fn wake(&mut self) -> Result<()> {
        if let State::Resting(stream) = std::mem::replace(&mut self.0, State::Gone) {
            self.0 = State::Here(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    fn here(self: Pin<&mut Self>) -> Result<Pin<&mut TcpStream>> {
        match &mut self.get_mut().0 {
            State::Here(stream) => Ok(Pin::new(stream)),
            _ => Err(Error::new(ErrorKind::NotConnected, "a stream on its way")),
        }
    }
}

impl AsyncRead for Moving {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        self.here()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Moving {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.here()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.here()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.here()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.here()?.poll_shutdown(cx)
    }
}
