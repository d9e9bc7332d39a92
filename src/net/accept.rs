//! The accept loop: who comes in, and what is said where somebody can't.
//!
//! Must never spin when descriptors run out, say the same thing more than once a minute, or accept after the end has begun.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::places::{Guest, House};
use crate::clock::Clock;

/// Most connections per listener: a thousand pods with a few channels each; an idle one costs about 20 KiB.
pub const CONNECTIONS_MAX: usize = 8_192;
/// Pause after a failed accept: the usual cause, no descriptors left, passes only when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Whoever has to give its place up, and has spoken before, is told so within this: GOAWAY is one write.
const PARTING: Duration = Duration::from_millis(20);
/// What happens again and again is told this often, with its number.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The two steps of an end, told to every connection.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Accept no more, send GOAWAY, finish the calls in flight.
    pub goaway: CancellationToken,
    /// Drop what is left.
    pub abort: CancellationToken,
}

/// What the loop stands on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Where connections live.
    pub tasks: TaskTracker,
    /// How they end.
    pub ending: Ending,
    /// For what is told once a minute.
    pub clock: Arc<dyn Clock>,
}

/// Accepts connections until told to end, and hands each that finds a place in `house` to `serve`.
pub async fn accept<F, S>(listener: TcpListener, port: &'static str, house: Arc<House>, ground: Ground, serve: F)
where
    F: Fn(TcpStream, SocketAddr, Arc<Guest>) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let Ground { tasks, ending, clock } = ground;
    let mut told =
        Told { port, most: house.most(), failed: Seldom::new(&clock), away: Seldom::new(&clock), parted: Seldom::new(&clock) };
    loop {
        let accepted = tokio::select! {
            biased;
            () = ending.goaway.cancelled() => return,
            accepted = listener.accept() => accepted,
            () = told.due() => {
                told.rest();
                continue;
            }
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            // That client is gone, or a firewall says no to it: the next one has nothing to do with that.
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                // Where the machine or another listener has taken what was kept.
                if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) && house.make_room() {
                    told.parted(1);
                }
                told.failed(&error);
                tokio::select! {
                    () = ending.goaway.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        // The place is taken after the accept, so that a full house turns clients away instead of letting them hang.
        let entered = tokio::select! {
            () = ending.goaway.cancelled() => return,
            entered = house.enter(from.ip().to_canonical()) => entered,
        };
        told.parted(entered.parted);
        let Some(place) = entered.place else {
            told.away();
            continue;
        };
        // Small replies must not wait for more to send (Nagle).
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "the connection was gone before it was served");
            continue;
        }
        let guest = place.guest();
        let (connection, abort) = (serve(stream, from, Arc::clone(&guest)), ending.abort.clone());
        tasks.spawn(async move {
            let left = async {
                guest.told_to_leave().await;
                if guest.has_greeted() {
                    sleep(PARTING).await;
                }
            };
            tokio::select! {
                () = connection => {}
                () = left => {}
                () = abort.cancelled() => {}
            }
            // Only now: the descriptor is free.
            drop(place);
        });
    }
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

/// What may happen very often, and is said seldom.
struct Told {
    port: &'static str,
    most: usize,
    failed: Seldom,
    away: Seldom,
    parted: Seldom,
}

impl Told {
    fn failed(&mut self, error: &io::Error) {
        if let Some(times) = self.failed.happened(1) {
            warn!(port = self.port, %error, times, "can't accept connections; trying on");
        }
    }

    fn away(&mut self) {
        if let Some(turned_away) = self.away.happened(1) {
            self.say_away(turned_away);
        }
    }

    fn say_away(&self, turned_away: u64) {
        warn!(port = self.port, most = self.most, turned_away, "too many connections: new ones are closed");
    }

    fn parted(&mut self, n: u64) {
        if let Some(parted) = self.parted.happened(n) {
            self.say_parted(parted);
        }
    }

    fn say_parted(&self, parted: u64) {
        let most = self.most;
        warn!(port = self.port, most, parted, "too many connections: silent and idle ones are closed for new ones");
    }

    /// Ends when something is left to be said, and it is time.
    async fn due(&self) {
        let at = [&self.failed, &self.away, &self.parted].into_iter().filter_map(Seldom::due).min();
        match at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn rest(&mut self) {
        if let Some(times) = self.failed.rest() {
            warn!(port = self.port, times, "could not accept connections");
        }
        if let Some(turned_away) = self.away.rest() {
            self.say_away(turned_away);
        }
        if let Some(parted) = self.parted.rest() {
            self.say_parted(parted);
        }
    }
}

/// Counts what happens, and lets it be told once in a while.
struct Seldom {
    clock: Arc<dyn Clock>,
    /// Before this nothing is told.
    next: Option<Instant>,
    untold: u64,
}

impl Seldom {
    fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), next: None, untold: 0 }
    }

    /// It happened `n` times more: how many times since it was told last, if it is to be told now.
    fn happened(&mut self, n: u64) -> Option<u64> {
        self.untold = self.untold.saturating_add(n);
        self.rest()
    }

    /// The same without anything new.
    fn rest(&mut self) -> Option<u64> {
        let now = self.clock.now().mono;
        if self.untold == 0 || self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + TOLD_EVERY);
        Some(std::mem::take(&mut self.untold))
    }

    fn due(&self) -> Option<Instant> {
        self.next.filter(|_| self.untold > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_told_at_once_and_then_once_a_minute_with_its_number() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut seldom = Seldom::new(&clock);
        assert_eq!((seldom.happened(0), seldom.due()), (None, None));
        assert_eq!(seldom.happened(1), Some(1));
        for _ in 0..1_000 {
            assert_eq!(seldom.happened(1), None);
        }
        sleep_until(seldom.due().expect("something is left")).await;
        assert_eq!(seldom.rest(), Some(1_000));
        assert_eq!((seldom.rest(), seldom.due()), (None, None));
        sleep(TOLD_EVERY).await;
        assert_eq!(seldom.happened(2), Some(2));
    }
}
