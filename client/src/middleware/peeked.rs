//! A body of which the beginning was looked at.
//!
//! Must never lose or reorder what it has read, nor hold an answer back for long.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::PEEKED_MAX;

/// The beginning is here by then, or does without: a refusal's few words come with its head, and its caller waits.
const PEEK_TIME: Duration = Duration::from_secs(1);
/// So many pieces are looked at, at most: empty ones bring the end no nearer.
const FRAMES_MAX: usize = 64;

/// A body that is read as the one in it, whether or not its beginning was looked at.
pub struct Peeked<B: Body> {
    read: VecDeque<Result<Frame<B::Data>, B::Error>>,
    rest: B,
}

impl<B: Body> fmt::Debug for Peeked<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peeked").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

impl<B: Body + Unpin> Peeked<B>
where
    B::Data: AsRef<[u8]>,
{
    #[cfg(feature = "tower")]
    pub(super) fn unread(rest: B) -> Self {
        Self { read: VecDeque::new(), rest }
    }

    /// Reads up to [`PEEKED_MAX`] bytes, as far as they come soon; what they are is returned too.
    #[allow(clippy::disallowed_methods, reason = "the time for the beginning is counted from here")]
    pub(super) async fn peek(mut rest: B) -> (Self, Vec<u8>) {
        let (mut read, mut seen) = (VecDeque::new(), Vec::new());
        let end = Instant::now() + PEEK_TIME;
        while seen.len() < PEEKED_MAX && read.len() < FRAMES_MAX {
            let next = poll_fn(|context| Pin::new(&mut rest).poll_frame(context));
            let Ok(Some(frame)) = timeout_at(end, next).await else { break };
            let failed = frame.is_err();
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                seen.extend_from_slice(data.as_ref());
            }
            read.push_back(frame);
            if failed {
                break;
            }
        }
        (Self { read, rest }, seen)
    }
}

impl<B: Body + Unpin> Body for Peeked<B>
where
    B::Data: Unpin,
    B::Error: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.read.is_empty() { self.rest.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many frames of one byte or none, and then nothing, without an end.
    struct Trickle(usize, &'static [u8]);

    impl Body for Trickle {
        type Data = &'static [u8];
        type Error = std::convert::Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
            match self.0.checked_sub(1) {
                Some(left) => {
                    self.0 = left;
                    Poll::Ready(Some(Ok(Frame::data(self.1))))
                }
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_beginning_that_does_not_come_is_not_waited_for() {
        let (mut peeked, seen) = Peeked::peek(Trickle(3, b"x")).await;
        assert_eq!((seen.as_slice(), peeked.read.len()), (&b"xxx"[..], 3));
        let first = poll_fn(|context| Pin::new(&mut peeked).poll_frame(context)).await;
        assert!(first.is_some_and(|frame| frame.is_ok()), "what was read is handed on");
        let (peeked, seen) = Peeked::peek(Trickle(usize::MAX, b"")).await;
        assert_eq!((seen.len(), peeked.read.len()), (0, FRAMES_MAX));
    }
}
