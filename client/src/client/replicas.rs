//! The replicas behind one name: a connection to each, calls in turn.
//!
//! Must never hand out a replica that was not reached, or that is not listed any more; nor wait for one, or for one that has fallen
//! silent, or ask one that ends, while another is there; nor leave one that lives because it is slow.

mod upkeep;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, transport::Endpoint};

use self::upkeep::Keeper;
use super::{connect::Connector, liveness::LiveChannel};
use crate::jitter::Jitter;

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
    /// It says that it ends.
    ends: bool,
    /// It was handed out since it was last asked how it is.
    used: Arc<AtomicBool>,
}

impl Replica {
    #[cfg(test)]
    pub(super) fn is(&self, other: &Self) -> bool {
        self.serial == other.serial
    }

    /// How little it is one to ask: rather one that ends, since it answers to its end, than the one that has just turned a call away; and
    /// one of which it is open whether it lives only where there is no other.
    fn reluctance(&self, avoid: Option<u64>) -> u8 {
        2 * u8::from(self.ends) + 3 * u8::from(avoid == Some(self.serial)) + 6 * u8::from(self.quiet)
    }
}

/// What calls found of a replica, by its number.
enum News {
    Lost(u64),
    /// It left a call without an answer.
    Quiet(u64),
    /// It told a call that it ends.
    Ends(u64),
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
        let keeper = Keeper::new(names, connector, at, publish, Jitter::by_chance());
        let mut task = JoinSet::new();
        task.spawn(keeper.keep(heard));
        Self { reached, news, turn: AtomicUsize::new(0), _keeper: task }
    }

    /// The replica whose turn it is, and another than the one to `avoid` if there is any that does as well; waits only while it is not
    /// known yet whether there is one.
    pub(super) async fn next(&self, avoid: Option<&Replica>) -> Result<Replica, Status> {
        let mut reached = self.reached.clone();
        let known = reached.wait_for(|reached| !reached.replicas.is_empty() || reached.trouble.is_some()).await;
        let Connected { replicas, trouble } = known.map_err(|_ended| Status::unavailable("the client ends"))?.clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let avoid = avoid.map(|replica| replica.serial);
        let least = replicas.iter().map(|replica| replica.reluctance(avoid)).min();
        let eligible = || replicas.iter().filter(|replica| Some(replica.reluctance(avoid)) == least);
        match eligible().nth(turn.checked_rem(eligible().count()).unwrap_or_default()) {
            Some(replica) => {
                replica.used.store(true, Ordering::Relaxed);
                Ok(replica.clone())
            }
            None => Err(Status::unavailable(trouble.as_deref().unwrap_or_default())),
        }
    }

    /// Notes that a replica told a call that it ends: it gets no more while there is another.
    pub(super) fn ends(&self, replica: &Replica) {
        // Where too much is to be heard already, another call will tell.
        drop(self.news.try_send(News::Ends(replica.serial)));
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

    /// How many get calls, if need be.
    #[cfg(test)]
    pub(super) fn in_turn(&self) -> usize {
        self.reached.borrow().replicas.len()
    }

    /// How many get calls gladly.
    #[cfg(test)]
    pub(super) fn willing(&self) -> usize {
        self.reached.borrow().replicas.iter().filter(|replica| replica.reluctance(None) == 0).count()
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
            let mut word = std::pin::pin!(replica.channel.word());
            match timeout(patience, &mut word).await {
                Ok(Some(_)) => continue,
                // It is over, and must not be asked again.
                Ok(None) => return self.other(replica).await,
                Err(_late) => {}
            }
            tokio::select! {
                biased;
                () = self.other(replica) => return,
                word = &mut word => if word.is_none() { return self.other(replica).await },
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
