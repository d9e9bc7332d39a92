//! The bodies of replies: whole, dripping, cut, or without end.
//!
//! Must never say that a sign-in was answered before its last byte was handed over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::{
    core::InFlight,
    wire::{Cut, Ending},
};

/// Between the first half of a body and the cut: long enough for the half to have left, short enough for a test.
const CUT_PAUSE: Duration = Duration::from_millis(20);

/// One piece of a body without end.
const ENDLESS_PIECE: &[u8] = &[b'a'; 8 * 1024];

/// How a body is sent.
pub(crate) enum Delivery {
    /// At once.
    Whole,
    /// In pieces of so many bytes with a pause between them.
    Drip(usize, Duration),
    /// Half of it; then the connection ends, with a reset where `reset` says so.
    Half { reset: bool },
    /// And then forever `a`.
    Endless,
}

/// A reply's body.
pub(crate) struct ReplyBody {
    left: Bytes,
    delivery: Delivery,
    /// Where the pause before the next piece ends.
    pause: Option<Pin<Box<Sleep>>>,
    /// The sign-in that this answers; none for the other endpoints.
    flight: Option<InFlight>,
    ending: Arc<Ending>,
    started: bool,
}

impl ReplyBody {
    /// The body of a reply that nothing is counted for.
    pub(crate) fn plain(body: Bytes) -> Self {
        Self { left: body, delivery: Delivery::Whole, pause: None, flight: None, ending: Arc::default(), started: false }
    }

    /// The body of a sign-in's reply. `silent`: HTTP allows no body here (HEAD, 204, 304), so it will not be asked for.
    pub(crate) fn of(flight: InFlight, body: Bytes, delivery: Delivery, ending: Arc<Ending>, silent: bool) -> Self {
        let mut body = Self { left: body, delivery, pause: None, flight: Some(flight), ending, started: false };
        if silent {
            (body.left, body.delivery) = (Bytes::new(), Delivery::Whole);
        }
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(flight) = self.flight.take() {
            flight.finish();
        }
    }

    fn piece(&mut self, bytes: usize) -> Option<Result<Frame<Bytes>, Cut>> {
        if self.left.is_empty() {
            return None;
        }
        let piece = self.left.split_to(bytes.min(self.left.len()));
        if self.left.is_empty() {
            self.finish();
        }
        Some(Ok(Frame::data(piece)))
    }

    fn cut(&mut self, reset: bool) -> Result<Frame<Bytes>, Cut> {
        if reset {
            self.ending.reset();
        }
        self.finish();
        Err(Cut)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let first = !std::mem::replace(&mut self.started, true);
        match self.delivery {
            Delivery::Whole => Poll::Ready(self.piece(usize::MAX)),
            Delivery::Drip(bytes, every) => {
                self.pause = Some(Box::pin(tokio::time::sleep(every)));
                Poll::Ready(self.piece(bytes.max(1)))
            }
            Delivery::Half { .. } if first => {
                self.pause = Some(Box::pin(tokio::time::sleep(CUT_PAUSE)));
                let half = self.left.len() / 2;
                Poll::Ready(Some(Ok(Frame::data(self.left.split_to(half)))))
            }
            Delivery::Half { reset } => Poll::Ready(Some(self.cut(reset))),
            Delivery::Endless if first => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.left))))),
            Delivery::Endless => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(ENDLESS_PIECE))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.delivery {
            Delivery::Whole | Delivery::Drip(..) => self.left.is_empty(),
            Delivery::Half { .. } | Delivery::Endless => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.delivery {
            Delivery::Whole | Delivery::Drip(..) | Delivery::Half { .. } => SizeHint::with_exact(self.left.len() as u64),
            Delivery::Endless => SizeHint::default(),
        }
    }
}
