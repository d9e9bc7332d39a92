//! The body of an answer: that of a call, which counts as under way until it was read, or a stream that lasts as long as its client
//! likes.
//!
//! Must never let such a stream outlast its connection's time.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::status;
use crate::{
    broker::BrokerError,
    net::{CountedBody, connection_limit::EndlessStream},
    request_id::RequestId,
};

/// The body of an answer.
pub enum AnswerBody {
    /// A call's.
    Call(CountedBody<Body>),
    /// A watch's, or reflection's: no end waits for it, and it ends once its connection is to be closed; `None` once it has.
    Stream { body: Body, closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>, _counted: Option<EndlessStream> },
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Call(_) => "Call",
            Self::Stream { .. } => "Stream",
        })
    }
}

impl AnswerBody {
    /// A stream that ends once `closing` is cancelled.
    pub(super) fn stream(body: Body, closing: CancellationToken, counted: Option<EndlessStream>) -> Self {
        Self::Stream { body, closing: Some(Box::pin(closing.cancelled_owned())), _counted: counted }
    }
}

/// How a stream ends whose connection is to be closed.
pub(super) fn shutting_down() -> Status {
    status::from_error(&BrokerError::ShuttingDown, &RequestId::given(None))
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (body, closing) = match &mut *self {
            Self::Call(body) => return Pin::new(body).poll_frame(cx),
            Self::Stream { body, closing, .. } => (body, closing),
        };
        let Some(cancelled) = closing else { return Poll::Ready(None) };
        if cancelled.as_mut().poll(cx).is_pending() {
            return Pin::new(body).poll_frame(cx);
        }
        *closing = None;
        let (mut head, _) = shutting_down().into_http::<Body>().into_parts();
        head.headers.remove(CONTENT_TYPE);
        Poll::Ready(Some(Ok(Frame::trailers(head.headers))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Call(body) => body.is_end_stream(),
            Self::Stream { body, closing, .. } => closing.is_none() || body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Call(body) => body.size_hint(),
            Self::Stream { body, .. } => body.size_hint(),
        }
    }
}
