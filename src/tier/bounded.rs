//! A stream of which no more is read between two answers than an answer can be.
//!
//! Must never be in the way of an answer that is asked for here: the longest is some hundred kilobytes.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes without an answer: a few of the longest, since what is asked at once is answered one by one. Parsed, the shortest of answers take
/// twenty times as much.
const BYTES_MAX: usize = 4 << 20;

/// How much was read since the last answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered(Arc<AtomicUsize>);

impl Unanswered {
    /// There was an answer.
    pub(super) fn answered(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The stream.
pub(super) struct Bounded<S> {
    stream: S,
    unanswered: Unanswered,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> (Self, Unanswered) {
        let unanswered = Unanswered::default();
        (Self { stream, unanswered: unanswered.clone() }, unanswered)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let more = buffer.filled().len().saturating_sub(before);
        let all = self.unanswered.0.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        if all > BYTES_MAX { Poll::Ready(Err(io::ErrorKind::InvalidData.into())) } else { read }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_server_without_end_is_heard_for_so_long_only() {
        let (mut stream, unanswered) = Bounded::new(tokio::io::repeat(b'1'));
        let mut chunk = vec![0; BYTES_MAX / 2];
        for _ in 0..4 {
            stream.read_exact(&mut chunk).await.expect("it is answered meanwhile");
            unanswered.answered();
        }
        stream.read_exact(&mut chunk).await.expect("is not too much yet");
        stream.read_exact(&mut chunk).await.expect("is not too much yet");
        assert!(stream.read_exact(&mut chunk).await.is_err());
    }
}
