//! What keeps the replicas: it looks names up, connects, asks how those are that get calls, and hears what calls found.
//!
//! Must never wait for DNS or for a connection alone, nor try again without a pause; pauses are by chance, since all callers lose a
//! replica at once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tonic::transport::Endpoint;

use super::{Connected, Name, News, Replica};
use crate::{
    backoff::Backoff,
    client::{
        connect::Connector,
        liveness::{LiveChannel, Word},
    },
    jitter::Jitter,
};

/// How often the name is looked up at least, and those asked how they are that get calls: a new replica gets calls, and one that ends
/// none, about as soon as DNS tells, and before it closes: it stays for 5 s.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);
/// Up to such a part sooner, by chance.
const LOOKUP_SPREAD: f64 = 0.3;
/// The same while a replica that is listed can't be reached, or none is listed: soon after one was lost, whose process may just be new.
const AWAY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));

/// How long to wait before the next look-up: with all reached that are listed, or after so many in a row when that was not so.
fn rest(all: bool, failures: u32, jitter: f64) -> Duration {
    if all { LOOKUP_EVERY.mul_f64(1.0 - LOOKUP_SPREAD * jitter.clamp(0.0, 1.0)) } else { AWAY.pause(failures, jitter) }
}

/// What is known of an address that DNS lists.
#[derive(Default)]
enum AddressState {
    #[default]
    Away,
    Connecting,
    Connected(Replica),
}

/// A connection and what the peer said first, or why there is none.
type Opened = Result<(LiveChannel, Word), String>;

/// The task behind: the only one who writes.
pub(super) struct Keeper<F> {
    names: Vec<Name>,
    /// What each name stood for when that was known last; none before.
    listed: Vec<Option<Vec<SocketAddr>>>,
    connector: Connector,
    at: F,
    known: BTreeMap<SocketAddr, AddressState>,
    looking: JoinSet<(usize, Result<Vec<SocketAddr>, String>)>,
    connecting: JoinSet<(SocketAddr, Opened)>,
    /// What those say that are asked.
    asking: JoinSet<(u64, Option<Word>)>,
    next_serial: u64,
    /// Look-ups in a row after which not all were reached.
    failures: u32,
    jitter: Jitter,
    publish: watch::Sender<Connected>,
}

impl<F: Fn(SocketAddr, usize) -> Option<Endpoint>> Keeper<F> {
    pub(super) fn new(names: Vec<Name>, connector: Connector, at: F, publish: watch::Sender<Connected>, jitter: Jitter) -> Self {
        let (looking, connecting, asking) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        let listed = vec![None; names.len()];
        let known = BTreeMap::new();
        Self { names, listed, connector, at, known, looking, connecting, asking, next_serial: 0, failures: 0, jitter, publish }
    }

    pub(super) async fn keep(mut self, mut news: mpsc::Receiver<News>) {
        let mut rest = Box::pin(sleep(Duration::ZERO));
        loop {
            tokio::select! {
                Some(news) = news.recv() => match news {
                    News::Lost(serial) => if self.forget(serial) {
                        rest.set(sleep(self.rest(false)));
                    },
                    News::Quiet(serial) => self.examine(serial),
                    News::Ends(serial) => self.note(serial, Word::Ends),
                },
                Some(Ok((serial, word))) = self.asking.join_next() => match word {
                    Some(word) => self.note(serial, word),
                    None => if self.forget(serial) {
                        rest.set(sleep(self.rest(false)));
                    },
                },
                Some(Ok((address, result))) = self.connecting.join_next() => self.connected(address, result),
                Some(Ok((name, found))) = self.looking.join_next() => {
                    self.note_listed(name, found);
                    let all = self.known.values().all(|place| matches!(place, AddressState::Connected(_)));
                    rest.set(sleep(self.rest(all && !self.known.is_empty())));
                }
                () = rest.as_mut() => {
                    self.look_up();
                    self.ask_how_they_are();
                    // Until it is known what the look-up brought, which it is in time.
                    rest.set(sleep(LOOKUP_EVERY * 2));
                }
            }
        }
    }

    fn rest(&mut self, all: bool) -> Duration {
        let rest = rest(all, self.failures, self.jitter.draw());
        self.failures = if all { 0 } else { self.failures.saturating_add(1) };
        rest
    }

    /// Asks those that got calls, and those that were to end: nobody is asked for no use.
    fn ask_how_they_are(&mut self) {
        for place in self.known.values() {
            let AddressState::Connected(replica) = place else { continue };
            let is_used = replica.used.swap(false, Ordering::Relaxed);
            if !replica.quiet && (is_used || replica.ends) {
                let (channel, serial) = (replica.channel.clone(), replica.serial);
                self.asking.spawn(async move { (serial, channel.word_in_time().await) });
            }
        }
    }

    fn look_up(&mut self) {
        if !self.looking.is_empty() {
            return;
        }
        for (number, Name { host, port }) in self.names.iter().cloned().enumerate() {
            let connector = self.connector.clone();
            self.looking.spawn(async move {
                let with_port = |mut address: SocketAddr| {
                    address.set_port(port);
                    address
                };
                let found = match connector.look_up(host.clone()).await {
                    Ok(addresses) => Ok(addresses.into_iter().map(with_port).collect()),
                    Err(error) => Err(format!("{host} can't be looked up: {error}")),
                };
                (number, found)
            });
        }
    }

    /// What DNS lists counts; where it doesn't answer, what it said last.
    fn note_listed(&mut self, name: usize, found: Result<Vec<SocketAddr>, String>) {
        let Some(listed) = self.listed.get_mut(name) else { return };
        let trouble = match found {
            Ok(addresses) => {
                let host = self.names.get(name).map(|name| &*name.host).unwrap_or_default();
                let none = addresses.is_empty().then(|| format!("{host} has no address"));
                *listed = Some(addresses);
                none
            }
            Err(trouble) => {
                listed.get_or_insert_default();
                Some(trouble)
            }
        };
        let mut known = std::mem::take(&mut self.known);
        // One address may be listed twice.
        for address in self.listed.iter().flatten().flatten() {
            self.known.entry(*address).or_insert_with(|| known.remove(address).unwrap_or_default());
        }
        self.connect();
        self.show(trouble);
    }

    /// Begins to connect wherever that isn't so or under way.
    fn connect(&mut self) {
        let behind =
            |address: &SocketAddr| self.listed.iter().position(|listed| listed.as_ref().is_some_and(|all| all.contains(address)));
        for (address, place) in self.known.iter_mut().filter(|(_, place)| matches!(place, AddressState::Away)) {
            if let Some(endpoint) = behind(address).and_then(|name| (self.at)(*address, name)) {
                let (address, connector) = (*address, self.connector.clone());
                self.connecting.spawn(async move { (address, connector.reach(&endpoint, || ()).await) });
                *place = AddressState::Connecting;
            }
        }
    }

    fn connected(&mut self, address: SocketAddr, result: Opened) {
        let mut trouble = None;
        // Otherwise it is listed no more.
        if let Some(place) = self.known.get_mut(&address) {
            *place = match result {
                Ok((channel, word)) => {
                    self.next_serial += 1;
                    let (ends, used) = (word == Word::Ends, Arc::new(AtomicBool::new(false)));
                    AddressState::Connected(Replica { channel, serial: self.next_serial, quiet: false, ends, used })
                }
                Err(why) => {
                    let hosts: Vec<_> = self.names.iter().map(|name| &*name.host).collect();
                    trouble = Some(format!("no replica behind {} can be reached: {why}", hosts.join(" or ")));
                    AddressState::Away
                }
            };
        }
        self.show(trouble);
    }

    /// Whether it was there.
    fn forget(&mut self, lost: u64) -> bool {
        let is_lost = |place: &&mut AddressState| matches!(place, AddressState::Connected(replica) if replica.serial == lost);
        let Some(place) = self.known.values_mut().find(is_lost) else { return false };
        *place = AddressState::Away;
        self.show(None);
        true
    }

    /// Has a replica asked whether it lives. It is out of turn until it says so.
    fn examine(&mut self, serial: u64) {
        let Some(replica) = self.reached(serial).filter(|replica| !replica.quiet) else { return };
        replica.quiet = true;
        let channel = replica.channel.clone();
        self.asking.spawn(async move { (serial, channel.word_in_time().await) });
        self.show(None);
    }

    /// Notes what one said that therefore lives.
    fn note(&mut self, serial: u64, word: Word) {
        let said = (false, word == Word::Ends);
        let news = |replica: &&mut Replica| (replica.quiet, replica.ends) != said;
        if let Some(replica) = self.reached(serial).filter(news) {
            (replica.quiet, replica.ends) = said;
            self.show(None);
        }
    }

    fn reached(&mut self, serial: u64) -> Option<&mut Replica> {
        self.known.values_mut().find_map(|place| match place {
            AddressState::Connected(replica) if replica.serial == serial => Some(replica),
            AddressState::Connected(_) | AddressState::Away | AddressState::Connecting => None,
        })
    }

    fn show(&self, trouble: Option<String>) {
        let reached = |place: &AddressState| match place {
            AddressState::Connected(replica) => Some(replica.clone()),
            AddressState::Away | AddressState::Connecting => None,
        };
        let replicas: Arc<[_]> = self.known.values().filter_map(reached).collect();
        // With attempts under way, or names of which nothing is known yet, it is too early to say that there is none.
        let connecting = self.known.values().any(|place| matches!(place, AddressState::Connecting));
        let trying = connecting || self.listed.iter().any(Option::is_none);
        let trouble = trouble.filter(|_| replicas.is_empty() && !trying).map(Arc::from);
        self.publish.send_replace(Connected { replicas, trouble });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_lost_a_replica_at_once_come_back_apart() {
        let millis = |all, failures, jitter| rest(all, failures, jitter).as_millis();
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| millis(true, 9, jitter)), [5_000, 4_250, 3_500]);
        assert_eq!([0.0, 0.5, 1.0].map(|jitter| millis(false, 0, jitter)), [10, 100, 200]);
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(|failures| millis(false, failures, 1.0)), [200, 400, 800, 1_600, 2_000, 2_000]);
    }
}
