//! The accept loop: takes connections, and logs where some can't be taken.
//!
//! Must never spin when descriptors run out, say the same thing more than once a minute, or accept more at the end than the kernel held.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    connection_limit::{Connection, ConnectionLimit, Slot},
    log_limiter::LogLimiter,
    read_turns::ReadTurns,
    workers::{Place, Placer},
};
use crate::clock::Clock;

/// Pause after a failed accept: the usual cause, no descriptors left, passes only when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A connection that is evicted after its preface is told so within this: GOAWAY is one write.
const GOAWAY_TIME: Duration = Duration::from_millis(20);
/// So many connections the kernel may hold when the end begins: the backlog of tokio's listeners, and one.
const LAST_ACCEPTS: usize = 129;
/// At the end of the process a handshake, and what the kernel may hold of a client's first words, are read within this: they were sent
/// before the end, and closed unread they would be met by a reset.
pub const LAST_READ: Duration = Duration::from_millis(500);

/// The two steps of an end, told to every connection.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Accept no more than has connected, send GOAWAY, finish the calls in flight.
    pub goaway: CancellationToken,
    /// Drop what is left.
    pub abort: CancellationToken,
}

/// Reads a connection's first words at the end, by its turns, unless they were read before; whether they came in time.
pub async fn last_read(connection: &Connection, mut turn: impl FnMut(&mut Context<'_>) -> Poll<()>) -> bool {
    let read = poll_fn(|cx| match turn(cx) {
        Poll::Ready(()) => Poll::Ready(false),
        Poll::Pending if connection.is_proven() => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    });
    connection.is_proven() || timeout(LAST_READ, read).await.unwrap_or(false)
}

/// One port of the broker, and what its connections have in common.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name in the log.
    pub name: &'static str,
    /// How many connections it holds.
    pub limit: Arc<ConnectionLimit>,
    /// Which threads serve them; none: the one that accepts.
    pub placer: Option<Placer>,
    /// Where connections are spawned.
    pub tasks: TaskTracker,
    /// How they end.
    pub shutdown: Shutdown,
    /// For what is logged once a minute.
    pub clock: Arc<dyn Clock>,
}

/// A connection that found a slot.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub stream: TcpStream,
    /// Where they come from.
    pub from: SocketAddr,
    /// What its limits know of it.
    pub connection: Arc<Connection>,
    /// Where it waits when it sends much, if it shares its thread with callers' connections.
    pub turns: Option<Arc<ReadTurns>>,
}

impl Port {
    /// Accepts connections until the shutdown begins, those that were made by then too, and hands each that finds a slot to `serve`.
    pub async fn accept<F, S>(self, listener: TcpListener, serve: F)
    where
        F: Fn(Accepted) -> S + Clone + Send + 'static,
        S: Future<Output = ()> + Send,
    {
        let mut log = Log::new(&self);
        tokio::select! {
            () = self.accept_all(listener, &serve, &mut log) => {}
            () = self.shutdown.abort.cancelled() => {}
        }
        log.tell(LogLimiter::last);
    }

    async fn accept_all<F, S>(&self, listener: TcpListener, serve: &F, log: &mut Log)
    where
        F: Fn(Accepted) -> S + Clone + Send + 'static,
        S: Future<Output = ()> + Send,
    {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.goaway.cancelled() => break,
                accepted = listener.accept() => accepted,
                () = log.due() => {
                    log.tell(LogLimiter::rest);
                    continue;
                }
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                // That client is gone, or a firewall says no to it: the next one has nothing to do with that.
                Err(error) if is_the_clients(&error) => continue,
                Err(error) => {
                    // Where the machine or another listener has taken what was kept.
                    if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE))
                        && self.limit.make_room(self.clock.now().mono)
                    {
                        log.evicted(1);
                    }
                    log.failed(&error);
                    tokio::select! {
                        () = self.shutdown.goaway.cancelled() => break,
                        () = sleep(ACCEPT_PAUSE) => continue,
                    }
                }
            };
            // Not tokio's any more, since its place may be another runtime.
            self.take(stream.into_std(), from, serve, log).await;
        }
        self.take_last(listener, serve, log).await;
    }

    /// Takes what the kernel holds: those clients have connected, may have sent a call, and would be met by a reset with the listener's end.
    async fn take_last<F, S>(&self, listener: TcpListener, serve: &F, log: &mut Log)
    where
        F: Fn(Accepted) -> S + Clone + Send + 'static,
        S: Future<Output = ()> + Send,
    {
        let Ok(listener) = listener.into_std() else { return };
        for _ in 0..LAST_ACCEPTS {
            // None is evicted any more for want of places, or another's answer would be met by a reset for it.
            if !self.limit.has_room() {
                return;
            }
            match listener.accept() {
                Ok((stream, from)) => self.take(stream.set_nonblocking(true).map(|()| stream), from, serve, log).await,
                Err(error) if is_the_clients(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return log.failed(&error),
            }
        }
    }

    /// Takes a connection that was accepted, if it finds a slot.
    async fn take<F, S>(&self, stream: io::Result<std::net::TcpStream>, from: SocketAddr, serve: &F, log: &mut Log)
    where
        F: Fn(Accepted) -> S + Clone + Send + 'static,
        S: Future<Output = ()> + Send,
    {
        // The slot is taken after the accept, so that at the limit clients are turned away instead of left hanging.
        let admission = self.limit.admit(from.ip().to_canonical(), self.clock.now().mono).await;
        log.evicted(admission.evicted);
        let Some(slot) = admission.slot else { return log.turned_away() };
        // Small replies must not wait for more to send (Nagle).
        match stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => self.spawn(stream, from, slot, serve.clone()),
            Err(error) => debug!(%error, "the connection was gone before it was served"),
        }
    }

    /// Has a connection served where it is placed.
    fn spawn<F, S>(&self, stream: std::net::TcpStream, from: SocketAddr, slot: Slot, serve: F)
    where
        F: Fn(Accepted) -> S + Send + 'static,
        S: Future<Output = ()> + Send,
    {
        let abort = self.shutdown.abort.clone();
        let serving = |place: Option<Place>| async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let turns = place.as_ref().map(|place| Arc::clone(&place.turns));
                    let accepted = Accepted { stream, from, connection: slot.connection(), turns };
                    until_closed(serve(accepted), slot, abort).await;
                }
                Err(error) => warn!(%error, "a connection can't be served"),
            }
        };
        match self.placer.as_ref().and_then(Placer::place) {
            None => self.tasks.spawn(serving(None)),
            Some(place) => {
                let runtime = place.runtime.clone();
                self.tasks.spawn_on(serving(Some(place)), &runtime)
            }
        };
    }
}

/// Serves a connection until it ends, is evicted, or the process drops what is left.
async fn until_closed(serving: impl Future<Output = ()>, slot: Slot, abort: CancellationToken) {
    let connection = slot.connection();
    let evicted = async {
        connection.evicted().await;
        if connection.is_proven() {
            sleep(GOAWAY_TIME).await;
        }
    };
    tokio::select! {
        () = serving => {}
        () = evicted => {}
        () = abort.cancelled() => {}
    }
    // Only now: the descriptor is free.
    drop(slot);
}

/// Whether an accept failed for a reason of the one connection that it would have been, as accept(2) has them.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
        )
    )
}

/// What may happen very often, and is logged once a minute.
struct Log {
    port: &'static str,
    most: usize,
    failed: LogLimiter,
    turned_away: LogLimiter,
    evicted: LogLimiter,
}

impl Log {
    fn new(port: &Port) -> Self {
        let limiter = || LogLimiter::new(&port.clock);
        Self { port: port.name, most: port.limit.most(), failed: limiter(), turned_away: limiter(), evicted: limiter() }
    }

    fn failed(&mut self, error: &io::Error) {
        if let Some(times) = self.failed.happened(1) {
            warn!(port = self.port, %error, times, "can't accept connections; trying on");
        }
    }

    fn turned_away(&mut self) {
        if let Some(turned_away) = self.turned_away.happened(1) {
            self.log_turned_away(turned_away);
        }
    }

    fn log_turned_away(&self, turned_away: u64) {
        warn!(port = self.port, most = self.most, turned_away, "too many connections: new ones are closed");
    }

    fn evicted(&mut self, n: u64) {
        if let Some(evicted) = self.evicted.happened(n) {
            self.log_evicted(evicted);
        }
    }

    fn log_evicted(&self, evicted: u64) {
        let most = self.most;
        warn!(port = self.port, most, parted = evicted, "too many connections: silent and idle ones are closed for new ones");
    }

    /// Ends when something is left to be said, and it is time.
    async fn due(&self) {
        let at = [&self.failed, &self.turned_away, &self.evicted].into_iter().filter_map(LogLimiter::due).min();
        match at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Tells what these say is to be told now.
    fn tell(&mut self, untold: impl Fn(&mut LogLimiter) -> Option<u64>) {
        if let Some(times) = untold(&mut self.failed) {
            warn!(port = self.port, times, "could not accept connections");
        }
        if let Some(turned_away) = untold(&mut self.turned_away) {
            self.log_turned_away(turned_away);
        }
        if let Some(evicted) = untold(&mut self.evicted) {
            self.log_evicted(evicted);
        }
    }
}
