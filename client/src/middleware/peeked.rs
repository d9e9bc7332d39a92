//! A body of which the beginning was looked at.
//!
//! Must never lose, reorder or hold back what it has read.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

use super::PEEKED_MAX;

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

    /// Reads up to [`PEEKED_MAX`] bytes; what they are is returned too.
    pub(super) async fn peek(mut rest: B) -> (Self, Vec<u8>) {
        let (mut read, mut seen) = (VecDeque::new(), Vec::new());
        while seen.len() < PEEKED_MAX {
            let Some(frame) = poll_fn(|context| Pin::new(&mut rest).poll_frame(context)).await else { break };
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
