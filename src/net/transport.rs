//! The bytes of one connection, both ways: what a client may cost that doesn't read, or that sends much and says nothing.
//!
//! Must never wait without end for a client to read, nor read on from one that doesn't: what it asks for would pile up here.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take},
    time::{Sleep, sleep},
};

use super::{
    connection_limit::{Connection, Unsent},
    frames::{Frames, PREFACE_LENGTH},
    read_turns::{ReadTurn, ReadTurns},
};

/// What is to be sent has left within this, or the connection ends: some KiB, which a client that lives reads at once.
const UNSENT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is sent this soon was never unsent: a socket is not known to be ready before it is first waited for, and a burst of answers fills
/// it for a moment.
const UNSENT_GRACE: Duration = Duration::from_millis(50);

/// So many bytes are read at a time, before other connections have their turn: the calls of one read take a millisecond at most,
/// and nobody whose calls are read at once, which is nearly everybody, waits for a turn.
const READ_AT_A_TIME: u64 = 4 * 1024;

/// A connection's bytes. Says that it can't write vectored, so that h2 copies small frames together into one write, which costs less
/// than the system calls it saves; and notes when HTTP/2's preface is here.
pub(super) struct Transport<S> {
    /// Its limit is what is left of this turn.
    inner: Take<S>,
    connection: Arc<Connection>,
    /// None for HTTP/1.1.
    frames: Option<Frames>,
    /// Bytes of the preface that have come.
    begun: usize,
    blocked: Option<Blocked>,
    turns: Option<Arc<ReadTurns>>,
    /// More is to be read, in its turn.
    turn: Option<ReadTurn>,
}

/// Something could not be sent yet.
struct Blocked {
    due: Pin<Box<Sleep>>,
    unsent: Option<Unsent>,
}

impl<S: AsyncRead> Transport<S> {
    /// HTTP/1.1 comes over it, or, with `frames`, HTTP/2. With `turns` it shares its thread with others that may send much.
    pub(super) fn new(inner: S, connection: Arc<Connection>, frames: Option<Frames>, turns: Option<Arc<ReadTurns>>) -> Self {
        Self { inner: inner.take(READ_AT_A_TIME), connection, frames, begun: 0, blocked: None, turns, turn: None }
    }

    /// Bytes could not be sent: bounds for how long.
    fn blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let blocked = self.blocked.get_or_insert_with(|| Blocked { due: Box::pin(sleep(UNSENT_GRACE)), unsent: None });
        ready!(blocked.due.as_mut().poll(cx));
        if blocked.unsent.is_none() {
            *blocked = Blocked { due: Box::pin(sleep(UNSENT_TIMEOUT)), unsent: Some(self.connection.unsent()) };
            ready!(blocked.due.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "its client does not read")))
    }

    /// Everything was sent.
    fn sent(&mut self, cx: &mut Context<'_>) {
        if self.blocked.take().is_some() {
            // What comes is read again.
            cx.waker().wake_by_ref();
        }
    }

    /// As much as is read at a time was read: waits for the connection's next turn.
    fn next_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(turns) = &self.turns else {
            self.inner.set_limit(READ_AT_A_TIME);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        ready!(turns.poll(&mut self.turn, cx));
        self.inner.set_limit(READ_AT_A_TIME);
        Poll::Ready(())
    }

    /// Bytes have come.
    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        if self.begun < PREFACE_LENGTH {
            self.begun += bytes.len();
            if self.begun >= PREFACE_LENGTH {
                self.connection.set_proven();
            }
        }
        frames.feed(bytes).map_err(|_flood| io::Error::other("its client sends frames that carry nothing, and little else"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Transport<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.blocked.is_some() {
            return Poll::Pending;
        }
        if self.inner.limit() == 0 {
            ready!(self.next_turn(cx));
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.inner).poll_read(cx, buf) else {
            self.inner.set_limit(READ_AT_A_TIME);
            return Poll::Pending;
        };
        read?;
        Poll::Ready(self.came(buf.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(self.inner.get_mut()).poll_write(cx, bytes) {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => self.blocked(cx).map_ok(|()| 0),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(self.inner.get_mut()).poll_flush(cx) {
            Poll::Ready(flushed) => {
                self.sent(cx);
                Poll::Ready(flushed)
            }
            Poll::Pending => self.blocked(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(self.inner.get_mut()).poll_shutdown(cx) {
            Poll::Ready(closed) => Poll::Ready(closed),
            Poll::Pending => self.blocked(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::{task::yield_now, time::timeout};

    use super::*;
    use crate::{
        clock::{Clock as _, SystemClock},
        net::{connection_limit::ConnectionLimit, memory_budget::PortLimits},
    };

    /// Who has sent several reads' worth waits for a turn after each; who has sent less waits for none.
    #[tokio::test]
    async fn after_a_read_the_next_comes_in_its_turn() {
        let limit = ConnectionLimit::new(PortLimits::callers(1));
        let slot = limit.admit([10, 0, 0, 1].into(), SystemClock.now().mono).await.slot.expect("there is one");
        let turns = Arc::new(ReadTurns::default());
        let once = usize::try_from(READ_AT_A_TIME).expect("is small");
        let sent = vec![7; 2 * once + 1];
        let mut transport = Transport::new(&sent[..], slot.connection(), None, Some(Arc::clone(&turns)));
        let reading = async {
            let mut read = Vec::new();
            transport.read_to_end(&mut read).await.expect("nothing fails");
            read.len()
        };
        let given = Cell::new(0);
        let turning = async {
            loop {
                given.set(given.get() + usize::from(turns.give_one()));
                yield_now().await;
            }
        };
        let both = async {
            tokio::select! {
                read = reading => read,
                never = turning => never,
            }
        };
        assert_eq!(timeout(Duration::from_secs(5), both).await, Ok(sent.len()));
        assert_eq!(given.get(), 2);
    }
}
