//! The replicas behind one name: a connection to each, calls in turn.
//!
//! Must never hand out a replica that was not reached, or that is not listed any more; nor wait for one, or for one that has fallen
//! silent, while another is there; nor leave one that lives because it is slow.

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
    time::{sleep, timeout},
};
use tonic::{Status, transport::Endpoint};

use super::{connect::Connector, liveness::LiveChannel};

/// How often the name is looked up: a new replica gets calls, and one that ends none, about as soon as DNS tells.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);
/// The same while a replica that is listed can't be reached, or none is listed.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// After a replica was lost the name is looked up, and the replica tried again, this soon: its process may just be new.
const LOST_PAUSE: Duration = Duration::from_millis(200);
/// Losses and silences waiting to be heard; one is enough to cause a look-up.
const NEWS_QUEUE: usize = 64;
/// A replica that has left a call without an answer for this long is asked whether it lives, again and again as the call goes on:
/// answers from its memory take milliseconds; a sign-in that takes longer costs a question each time.
const QUIET: Duration = Duration::from_millis(500);
/// The question is answered at once by a replica that lives. If it isn't for this long, the call goes elsewhere: both together are less
/// than the first second of a call, and what is left of the time that we advise covers a sign-in.
const PATIENCE: Duration = Duration::from_millis(400);
/// In a short call, each of the two takes such a part of what is left, so that half of it is there for another replica …
const PARTS: u32 = 4;
/// … but the answer is waited for so long, which is many round trips: one replica too many that is asked may be one sign-in too many.
const PATIENCE_MIN: Duration = Duration::from_millis(50);

/// A connection that calls go over, and a number that no other has.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) channel: LiveChannel,
    serial: u64,
    /// It is asked whether it lives, and has not answered yet.
    quiet: bool,
}

/// What calls found of a replica, by its number.
enum News {
    Lost(u64),
    /// It left a call without an answer.
    Quiet(u64),
}

#[derive(Clone, Debug, Default)]
struct Connected {
    replicas: Arc<[Replica]>,
    /// Why there is none, once that is known.
    trouble: Option<Arc<str>>,
}

/// What stands for replicas: a name that is looked up, or an address.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The replicas that can be reached. Dropping it ends the task that keeps them.
#[derive(Debug)]
pub(super) struct Replicas {
    reached: watch::Receiver<Connected>,
    news: mpsc::Sender<News>,
    turn: AtomicUsize,
    _keeper: JoinSet<()>,
}

impl Replicas {
    /// Looks these up from now on; `at` makes the endpoint of one address, which was found behind the name of that number.
    pub(super) fn new<F>(names: Vec<Name>, connector: Connector, at: F) -> Self
    where
        F: Fn(SocketAddr, usize) -> Option<Endpoint> + Send + 'static,
    {
        let (publish, reached) = watch::channel(Connected::default());
        let (news, heard) = mpsc::channel(NEWS_QUEUE);
        let known = BTreeMap::new();
        let (looking, connecting, asking) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        let listed = vec![None; names.len()];
        let keeper = Keeper { names, listed, connector, at, known, looking, connecting, asking, next_serial: 0, publish };
        let mut task = JoinSet::new();
        task.spawn(keeper.keep(heard));
        Self { reached, news, turn: AtomicUsize::new(0), _keeper: task }
    }

    /// The replica whose turn it is; waits only while it is not known yet whether there is any.
    pub(super) async fn next(&self) -> Result<Replica, Status> {
        let mut reached = self.reached.clone();
        let known = reached.wait_for(|reached| !reached.replicas.is_empty() || reached.trouble.is_some()).await;
        let Connected { replicas, trouble } = known.map_err(|_ended| Status::unavailable("the client ends"))?.clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // Those of which it is open whether they live get calls only where there is no other.
        let speaking = replicas.iter().filter(|replica| !replica.quiet).count();
        let eligible = || replicas.iter().filter(|replica| speaking == 0 || !replica.quiet);
        let count = if speaking == 0 { replicas.len() } else { speaking };
        match eligible().nth(turn.checked_rem(count).unwrap_or_default()) {
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

    /// How many get calls.
    #[cfg(test)]
    pub(super) fn in_turn(&self) -> usize {
        self.reached.borrow().replicas.len()
    }

    /// What `asking` this replica brings, with so much time left; `None` if it has fallen silent, and another is there to be asked.
    pub(super) async fn unless_silent<T>(&self, replica: &Replica, left: Duration, asking: impl Future<Output = T>) -> Option<T> {
        let mut call = Unanswered { news: &self.news, serial: Some(replica.serial) };
        let answer = tokio::select! {
            biased;
            answer = asking => Some(answer),
            () = self.outwaited(replica, left) => None,
        };
        call.serial = None;
        answer
    }

    /// Ends when a replica that was waited for has said nothing at all for too long, and another is there.
    async fn outwaited(&self, replica: &Replica, left: Duration) {
        let quiet = QUIET.min(left / PARTS);
        let patience = PATIENCE.min(left / PARTS).max(PATIENCE_MIN);
        loop {
            sleep(quiet).await;
            drop(self.news.try_send(News::Quiet(replica.serial)));
            // Not only the keeper asks: a replica that ends is listed no more, and lives while it answers its last calls.
            let mut answers = std::pin::pin!(replica.channel.answers());
            if timeout(patience, &mut answers).await == Ok(true) {
                continue;
            }
            tokio::select! {
                biased;
                () = self.other(replica) => return,
                lives = &mut answers => if !lives { return self.other(replica).await },
            }
        }
    }

    /// Waits until another replica is there that speaks.
    async fn other(&self, replica: &Replica) {
        let other = |other: &Replica| other.serial != replica.serial && !other.quiet;
        // An error means that the client ends.
        drop(self.reached.clone().wait_for(|reached| reached.replicas.iter().any(other)).await);
    }

    /// Takes a replica out of turn whose connection failed, until it is reached again.
    pub(super) async fn lost(&self, replica: &Replica) {
        let mut reached = self.reached.clone();
        if self.news.send(News::Lost(replica.serial)).await.is_ok() {
            // What comes next must not meet the same one. An error means that the client ends.
            let gone = reached.wait_for(|reached| reached.replicas.iter().all(|other| other.serial != replica.serial));
            drop(gone.await);
        }
    }
}

/// A call under way. Dropped before it is over, which is the caller's doing, it has the replica asked whether it lives: calls may
/// all be too short to find out.
struct Unanswered<'a> {
    news: &'a mpsc::Sender<News>,
    serial: Option<u64>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(serial) = self.serial {
            // Where too much is to be heard already, another call will tell.
            drop(self.news.try_send(News::Quiet(serial)));
        }
    }
}

/// What is known of an address that DNS lists.
#[derive(Default)]
enum AddressState {
    #[default]
    Away,
    Connecting,
    Connected(Replica),
}

/// The task behind: the only one who writes. It never waits for DNS or for a connection alone.
struct Keeper<F> {
    names: Vec<Name>,
    /// What each name stood for when that was known last; none before.
    listed: Vec<Option<Vec<SocketAddr>>>,
    connector: Connector,
    at: F,
    known: BTreeMap<SocketAddr, AddressState>,
    looking: JoinSet<(usize, Result<Vec<SocketAddr>, String>)>,
    connecting: JoinSet<(SocketAddr, Result<LiveChannel, String>)>,
    /// Whether those that are quiet answer.
    asking: JoinSet<(u64, bool)>,
    next_serial: u64,
    publish: watch::Sender<Connected>,
}

impl<F: Fn(SocketAddr, usize) -> Option<Endpoint>> Keeper<F> {
    async fn keep(mut self, mut news: mpsc::Receiver<News>) {
        let mut rest = Box::pin(sleep(Duration::ZERO));
        loop {
            tokio::select! {
                Some(news) = news.recv() => match news {
                    News::Lost(serial) => if self.forget(serial) {
                        rest.set(sleep(LOST_PAUSE));
                    },
                    News::Quiet(serial) => self.examine(serial),
                },
                Some(Ok((serial, lives))) = self.asking.join_next() => if !self.examined(serial, lives) {
                    rest.set(sleep(LOST_PAUSE));
                },
                Some(Ok((address, result))) = self.connecting.join_next() => self.connected(address, result),
                Some(Ok((name, found))) = self.looking.join_next() => {
                    self.note_listed(name, found);
                    let all = !self.known.is_empty() && self.known.values().all(|place| matches!(place, AddressState::Connected(_)));
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
                *listed = Some(addresses);
                None
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
                self.connecting.spawn(async move {
                    let opening =
                        async { LiveChannel::open(connector.connect(&endpoint).await?, connector.answer_timeout()).await };
                    (address, opening.await)
                });
                *place = AddressState::Connecting;
            }
        }
    }

    fn connected(&mut self, address: SocketAddr, result: Result<LiveChannel, String>) {
        let mut trouble = None;
        // Otherwise it is listed no more.
        if let Some(place) = self.known.get_mut(&address) {
            *place = match result {
                Ok(channel) => {
                    self.next_serial += 1;
                    AddressState::Connected(Replica { channel, serial: self.next_serial, quiet: false })
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
        self.asking.spawn(async move { (serial, channel.answers_in_time().await) });
        self.show(None);
    }

    /// Whether it goes on being one of those that can be reached.
    fn examined(&mut self, serial: u64, lives: bool) -> bool {
        if !lives {
            return !self.forget(serial);
        }
        if let Some(replica) = self.reached(serial) {
            replica.quiet = false;
            self.show(None);
        }
        true
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
