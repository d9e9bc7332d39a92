//! Who has a place on a listener, and who gives one up when there are none left.
//!
//! Must never let strangers keep out those who have something to ask, hold more places than it was given, nor take any from who
//! has asked and waits for the answer (but where all answers are made at once, as probes' are).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Places that are kept free for whoever comes next, so that nobody waits for another's goodbye: an eighth, and this at most.
const SPARE_MAX: usize = 32;
/// Strangers (clients that have not yet said what they speak) of one address have an eighth of the places, and never fewer than
/// this: behind one address may be a whole node of pods, which come at once after it was away.
const STRANGERS_OF_ONE_MIN: usize = 16;
/// Whoever was told to leave is gone by then; it takes as long as `listener::PARTING`.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
pub struct House {
    most: usize,
    busy_may_go: bool,
    rooms: Mutex<Rooms>,
    /// Told whenever somebody is gone.
    left: Notify,
    /// How many have come so far: the clock by which idleness is measured, since it costs a call nothing to read.
    arrivals: AtomicU64,
}

#[derive(Debug, Default)]
struct Rooms {
    guests: HashMap<u64, Arc<Guest>>,
    /// Those who have not said what they speak, by their arrival.
    strangers: BTreeMap<u64, Arc<Guest>>,
    addresses: HashMap<IpAddr, Address>,
    /// Of the guests, those who were told to go.
    leaving: usize,
}

/// Those behind one address.
#[derive(Debug, Default)]
struct Address {
    guests: usize,
    strangers: BTreeSet<u64>,
}

/// What came of somebody at the door.
#[derive(Debug)]
pub struct Entered {
    /// None where all places are taken by those who stay.
    pub place: Option<Place>,
    /// How many were told to go for it.
    pub parted: u64,
}

impl House {
    /// A house of `most` places, at least one. With `busy_may_go` even those go whose answer is under way, if nobody else can.
    #[must_use]
    pub fn new(most: usize, busy_may_go: bool) -> Arc<Self> {
        let (rooms, left, arrivals) = (Mutex::default(), Notify::new(), AtomicU64::default());
        Arc::new(Self { most: most.max(1), busy_may_go, rooms, left, arrivals })
    }

    /// How many places there are.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Finds a place for a client from this address; others give theirs up for it where they must.
    pub async fn enter(self: &Arc<Self>, from: IpAddr) -> Entered {
        let spare = (self.most / 8).clamp(1, SPARE_MAX).min(self.most - 1);
        let strangers_of_one = (self.most / 8).max(STRANGERS_OF_ONE_MIN);
        let mut parted = 0;
        let mut first = true;
        loop {
            // Before the look, so that nobody's going is missed.
            let left = self.left.notified();
            {
                let mut rooms = self.rooms();
                if first {
                    parted += u64::from(rooms.part_stranger_of(from, strangers_of_one));
                    if rooms.guests.len() - rooms.leaving >= self.most - spare {
                        parted += u64::from(rooms.part(self.busy_may_go));
                    }
                    first = false;
                }
                if rooms.guests.len() < self.most {
                    return Entered { place: Some(self.give(&mut rooms, from)), parted };
                }
                if rooms.leaving == 0 {
                    return Entered { place: None, parted };
                }
            }
            if timeout(LEAVING_TIMEOUT, left).await.is_err() {
                return Entered { place: None, parted };
            }
        }
    }

    /// Tells one to go, where descriptors run out in spite of all; whether there was one.
    pub fn make_room(&self) -> bool {
        self.rooms().part(self.busy_may_go)
    }

    fn give(self: &Arc<Self>, rooms: &mut Rooms, from: IpAddr) -> Place {
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let guest = Arc::new(Guest {
            number,
            from,
            greeted: AtomicBool::default(),
            served: AtomicBool::default(),
            under_way: AtomicUsize::default(),
            unanswered: AtomicUsize::default(),
            asked: AtomicUsize::default(),
            last: AtomicU64::new(number),
            leave: CancellationToken::new(),
            house: Arc::clone(self),
        });
        rooms.guests.insert(number, Arc::clone(&guest));
        rooms.strangers.insert(number, Arc::clone(&guest));
        let address = rooms.addresses.entry(from).or_default();
        address.guests += 1;
        address.strangers.insert(number);
        Place(guest)
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    /// One address's strangers are at their limit: the one that has said nothing for the longest goes.
    fn part_stranger_of(&mut self, from: IpAddr, most: usize) -> bool {
        let Some(address) = self.addresses.get(&from).filter(|address| address.strangers.len() >= most) else { return false };
        let oldest = address.strangers.first().and_then(|number| self.strangers.get(number)).cloned();
        oldest.is_some_and(|guest| self.tell_to_leave(&guest))
    }

    /// Who can best go does: the stranger that has said nothing for the longest; else, of those who wait for no answer, who
    /// never began a call; else one of the address with the most guests, idle for the longest. It is looked for among all, which
    /// takes half a millisecond in the fullest house; whoever makes that happen has shaken hands for it.
    fn part(&mut self, busy_may_go: bool) -> bool {
        let guest = self.strangers.first_key_value().map(|(_, guest)| Arc::clone(guest)).or_else(|| {
            let staying = || self.guests.values().filter(|guest| !guest.leave.is_cancelled());
            let crowd = |guest: &Guest| self.addresses.get(&guest.from).map_or(0, |address| address.guests);
            let last = |guest: &Guest| {
                (guest.served.load(Ordering::Relaxed), usize::MAX - crowd(guest), guest.last.load(Ordering::Relaxed))
            };
            let waits = |guest: &Guest| guest.asked.load(Ordering::Relaxed) > 0;
            let idle = staying().filter(|guest| !waits(guest)).min_by_key(|guest| last(guest));
            let busy = || staying().filter(|_| busy_may_go).min_by_key(|guest| last(guest));
            idle.or_else(busy).cloned()
        });
        guest.is_some_and(|guest| self.tell_to_leave(&guest))
    }

    fn tell_to_leave(&mut self, guest: &Guest) -> bool {
        self.is_no_stranger(guest);
        guest.leave.cancel();
        self.leaving += 1;
        true
    }

    fn is_no_stranger(&mut self, guest: &Guest) {
        self.strangers.remove(&guest.number);
        if let Some(address) = self.addresses.get_mut(&guest.from) {
            address.strangers.remove(&guest.number);
        }
    }
}

/// A place that somebody has; free again when dropped.
#[derive(Debug)]
pub struct Place(Arc<Guest>);

impl Place {
    /// Who has it.
    #[must_use]
    pub fn guest(&self) -> Arc<Guest> {
        Arc::clone(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let guest = &*self.0;
        let mut rooms = guest.house.rooms();
        rooms.is_no_stranger(guest);
        rooms.guests.remove(&guest.number);
        if guest.leave.is_cancelled() {
            rooms.leaving -= 1;
        }
        if let Some(address) = rooms.addresses.get_mut(&guest.from) {
            address.guests -= 1;
            if address.guests == 0 {
                rooms.addresses.remove(&guest.from);
            }
        }
        drop(rooms);
        guest.house.left.notify_waiters();
    }
}

/// One client, as far as its place goes.
#[derive(Debug)]
pub struct Guest {
    number: u64,
    from: IpAddr,
    greeted: AtomicBool,
    served: AtomicBool,
    /// Its calls that count at the end …
    under_way: AtomicUsize,
    /// … and those of them whose answer is not made yet.
    unanswered: AtomicUsize,
    /// Those of them that have said all they had to: for these it keeps its place.
    asked: AtomicUsize,
    /// How many had come when it last made a call.
    last: AtomicU64,
    leave: CancellationToken,
    house: Arc<House>,
}

impl Guest {
    /// It has said what it speaks, as whoever means it does at once.
    pub fn greet(&self) {
        if !self.greeted.swap(true, Ordering::Relaxed) {
            self.house.rooms().is_no_stranger(self);
        }
    }

    /// Whether it has.
    #[must_use]
    pub fn has_greeted(&self) -> bool {
        self.greeted.load(Ordering::Relaxed)
    }

    /// A call of its begins.
    #[must_use]
    pub fn begins(self: &Arc<Self>) -> UnderWay {
        self.served.store(true, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        UnderWay { guest: Arc::clone(self), answered: false }
    }

    /// It has asked all it had to, and waits for an answer now.
    #[must_use]
    pub fn asks(self: &Arc<Self>) -> Asked {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Asked(Arc::clone(self))
    }

    /// Whether no call of its is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Whether all its calls have their answers, read or not.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) == 0
    }

    /// Ends when it is to go.
    pub fn told_to_leave(&self) -> WaitForCancellationFuture<'_> {
        self.leave.cancelled()
    }
}

/// One call, from its headers until the last of its answer was taken.
#[derive(Debug)]
pub struct UnderWay {
    guest: Arc<Guest>,
    answered: bool,
}

impl UnderWay {
    /// Its answer is made, and only has to be read.
    pub fn answered(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.guest.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answered();
        self.guest.last.store(self.guest.house.arrivals.load(Ordering::Relaxed), Ordering::Relaxed);
        self.guest.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call that waits for its answer.
#[derive(Debug)]
pub struct Asked(Arc<Guest>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    async fn comes(house: &Arc<House>, n: u8) -> Place {
        house.enter(address(n)).await.place.expect("there is a place")
    }

    fn goes(place: &Place) -> bool {
        place.0.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_go_first_then_who_never_asked_then_who_was_idle_longest() {
        // Four, of which one is kept free.
        let house = House::new(4, false);
        let (idle, recent, busy) = (comes(&house, 1).await, comes(&house, 2).await, comes(&house, 3).await);
        for place in [&idle, &recent, &busy] {
            place.0.greet();
        }
        drop(idle.0.begins());
        let stranger = comes(&house, 4).await; // For this one the first that never asked went.
        assert!(goes(&recent) && !goes(&idle) && !goes(&busy));
        drop(recent);
        let under_way = (busy.0.begins(), busy.0.asks());
        let greeted = comes(&house, 5).await;
        assert!(goes(&stranger), "it said nothing");
        drop(stranger);
        greeted.0.greet();
        drop(greeted.0.begins());
        let next = comes(&house, 6).await;
        assert!(goes(&idle) && !goes(&greeted), "it was idle for longer");
        drop(idle);
        next.0.greet();
        let calls = [next.0.asks(), greeted.0.asks()];
        let last = comes(&house, 7).await;
        let fifth = house.enter(address(8)).await;
        assert!(fifth.place.is_none() || goes(&last), "of calls under way none is ended");
        assert!(!goes(&busy) && !goes(&next) && !goes(&greeted));
        drop((under_way, calls));
    }

    #[tokio::test]
    async fn a_full_house_waits_for_who_was_told_to_go_and_holds_no_more_than_its_places() {
        let house = House::new(1, false);
        let first = comes(&house, 1).await;
        let second = tokio::join!(house.enter(address(2)), async {
            first.0.told_to_leave().await;
            assert_eq!(house.rooms().guests.len(), 1);
            drop(first);
        });
        assert!(second.0.place.is_some_and(|place| !goes(&place)) && second.0.parted == 1);
        assert!(house.rooms().guests.is_empty() && house.rooms().addresses.is_empty() && house.rooms().leaving == 0);
    }

    #[tokio::test]
    async fn one_address_has_a_part_of_the_places_for_strangers() {
        let house = House::new(1_000, false);
        let other = comes(&house, 2).await;
        let mut crowd = Vec::new();
        for _ in 0..126 {
            crowd.push(comes(&house, 1).await);
        }
        assert!(goes(&crowd[0]) && !goes(&crowd[1]) && !goes(&other));
        crowd[1].0.greet();
        crowd.push(comes(&house, 1).await);
        assert_eq!(crowd.iter().filter(|place| goes(place)).count(), 1, "who speaks is no stranger");
    }

    #[tokio::test]
    async fn where_answers_take_no_time_the_busy_go_too() {
        let house = House::new(2, true);
        let stuck = comes(&house, 1).await;
        stuck.0.greet();
        let under_way = stuck.0.asks();
        let next = comes(&house, 1).await;
        assert!(goes(&stuck) && !goes(&next));
        drop(under_way);
    }
}
