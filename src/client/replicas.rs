//! The replicas behind one name: a connection to each, calls in turn.
//!
//! Must never hand out a replica that was not reached, or that is not listed any more; nor wait for one while another is there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::dial::Dialer;

/// How often the name is looked up: a new replica gets calls, and one that ends none, about as soon as DNS tells.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);
/// The same while a replica that is listed can't be reached, or none is listed.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// After a replica was lost the name is looked up, and the replica tried again, this soon: its process may just be new.
const LOST_PAUSE: Duration = Duration::from_millis(200);
/// Losses waiting to be heard; one is enough to cause a look-up.
const LOST_QUEUE: usize = 64;

/// A connection that calls go over, and a number that no other has.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) channel: Channel,
    serial: u64,
}

#[derive(Clone, Debug, Default)]
struct Reached {
    replicas: Arc<[Replica]>,
    /// Why there is none, once that is known.
    trouble: Option<Arc<str>>,
}

/// The replicas that can be reached. Dropping it ends the task that keeps them.
#[derive(Debug)]
pub(super) struct Replicas {
    reached: watch::Receiver<Reached>,
    lost: mpsc::Sender<u64>,
    turn: AtomicUsize,
    _keeper: JoinSet<()>,
}

impl Replicas {
    /// Looks `host` up from now on; `at` makes the endpoint of one address.
    pub(super) fn new<F>(host: String, port: u16, dialer: Dialer, at: F) -> Self
    where
        F: Fn(SocketAddr) -> Option<Endpoint> + Send + 'static,
    {
        let (publish, reached) = watch::channel(Reached::default());
        let (lost, losses) = mpsc::channel(LOST_QUEUE);
        let (looking, connecting) = (JoinSet::new(), JoinSet::new());
        let keeper = Keeper { host, port, dialer, at, known: BTreeMap::new(), looking, connecting, next_serial: 0, publish };
        let mut task = JoinSet::new();
        task.spawn(keeper.keep(losses));
        Self { reached, lost, turn: AtomicUsize::new(0), _keeper: task }
    }

    /// The replica whose turn it is; waits only while it is not known yet whether there is any.
    pub(super) async fn next(&self) -> Result<Replica, Status> {
        let mut reached = self.reached.clone();
        let known = reached.wait_for(|reached| !reached.replicas.is_empty() || reached.trouble.is_some()).await;
        let Reached { replicas, trouble } = known.map_err(|_ended| Status::unavailable("the client ends"))?.clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match replicas.get(turn.checked_rem(replicas.len()).unwrap_or_default()) {
            Some(replica) => Ok(replica.clone()),
            None => Err(Status::unavailable(trouble.as_deref().unwrap_or_default())),
        }
    }

    /// Whether it is not known yet if there is any.
    pub(super) fn are_unknown(&self) -> bool {
        let reached = self.reached.borrow();
        reached.replicas.is_empty() && reached.trouble.is_none()
    }

    /// Waits until so many are reached.
    #[cfg(test)]
    pub(super) async fn all(&self, count: usize) {
        let mut reached = self.reached.clone();
        reached.wait_for(|reached| reached.replicas.len() == count).await.expect("the keeper lives");
    }

    /// Takes a replica out of turn whose connection failed, until it is reached again.
    pub(super) async fn lost(&self, replica: &Replica) {
        let mut reached = self.reached.clone();
        if self.lost.send(replica.serial).await.is_ok() {
            // What comes next must not meet the same one. An error means that the client ends.
            let gone = reached.wait_for(|reached| reached.replicas.iter().all(|other| other.serial != replica.serial));
            drop(gone.await);
        }
    }
}

/// What is known of an address that DNS lists.
#[derive(Default)]
enum Place {
    #[default]
    Away,
    Trying,
    Reached(Replica),
}

/// The task behind: the only one who writes. It never waits for DNS or for a connection alone.
struct Keeper<F> {
    host: String,
    port: u16,
    dialer: Dialer,
    at: F,
    known: BTreeMap<SocketAddr, Place>,
    looking: JoinSet<Result<Vec<SocketAddr>, String>>,
    connecting: JoinSet<(SocketAddr, Result<Channel, String>)>,
    next_serial: u64,
    publish: watch::Sender<Reached>,
}

impl<F: Fn(SocketAddr) -> Option<Endpoint>> Keeper<F> {
    async fn keep(mut self, mut losses: mpsc::Receiver<u64>) {
        let mut rest = Box::pin(sleep(Duration::ZERO));
        loop {
            tokio::select! {
                Some(serial) = losses.recv() => if self.forget(serial) {
                    rest.set(sleep(LOST_PAUSE));
                },
                Some(Ok((address, result))) = self.connecting.join_next() => self.connected(address, result),
                Some(Ok(found)) = self.looking.join_next() => {
                    self.listed(found);
                    let all = !self.known.is_empty() && self.known.values().all(|place| matches!(place, Place::Reached(_)));
                    rest.set(sleep(if all { LOOKUP_EVERY } else { AWAY_PAUSE }));
                }
                () = rest.as_mut() => {
                    self.look_up();
                    // Until it is known what the look-up brought, which it is in time.
                    rest.set(sleep(LOOKUP_EVERY * 2));
                }
            }
        }
    }

    fn look_up(&mut self) {
        if self.looking.is_empty() {
            let (host, port, dialer) = (self.host.clone(), self.port, self.dialer.clone());
            self.looking.spawn(async move {
                let with_port = |mut address: SocketAddr| {
                    address.set_port(port);
                    address
                };
                match dialer.look_up(host.clone()).await {
                    Ok(addresses) => Ok(addresses.into_iter().map(with_port).collect()),
                    Err(error) => Err(format!("{host} can't be looked up: {error}")),
                }
            });
        }
    }

    /// What DNS lists counts; where it doesn't answer, what it said last.
    fn listed(&mut self, found: Result<Vec<SocketAddr>, String>) {
        let trouble = match found {
            Ok(addresses) => {
                let mut known = std::mem::take(&mut self.known);
                self.known = addresses.into_iter().map(|address| (address, known.remove(&address).unwrap_or_default())).collect();
                None
            }
            Err(trouble) => Some(trouble),
        };
        for (address, place) in self.known.iter_mut().filter(|(_, place)| matches!(place, Place::Away)) {
            if let Some(endpoint) = (self.at)(*address) {
                let (address, dialer) = (*address, self.dialer.clone());
                self.connecting.spawn(async move { (address, dialer.connect(&endpoint).await) });
                *place = Place::Trying;
            }
        }
        self.show(trouble);
    }

    fn connected(&mut self, address: SocketAddr, result: Result<Channel, String>) {
        let mut trouble = None;
        // Otherwise it is listed no more.
        if let Some(place) = self.known.get_mut(&address) {
            *place = match result {
                Ok(channel) => {
                    self.next_serial += 1;
                    Place::Reached(Replica { channel, serial: self.next_serial })
                }
                Err(why) => {
                    trouble = Some(format!("no replica behind {} can be reached: {why}", self.host));
                    Place::Away
                }
            };
        }
        self.show(trouble);
    }

    /// Whether it was there.
    fn forget(&mut self, lost: u64) -> bool {
        let is_lost = |place: &&mut Place| matches!(place, Place::Reached(replica) if replica.serial == lost);
        let Some(place) = self.known.values_mut().find(is_lost) else { return false };
        *place = Place::Away;
        self.show(None);
        true
    }

    fn show(&self, trouble: Option<String>) {
        let reached = |place: &Place| match place {
            Place::Reached(replica) => Some(replica.clone()),
            Place::Away | Place::Trying => None,
        };
        let replicas: Arc<[_]> = self.known.values().filter_map(reached).collect();
        // With attempts under way it is too early to say that there is none.
        let trying = self.known.values().any(|place| matches!(place, Place::Trying));
        let trouble = trouble.filter(|_| replicas.is_empty() && !trying).map(Arc::from);
        self.publish.send_replace(Reached { replicas, trouble });
    }
}
