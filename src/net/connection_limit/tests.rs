//! Who is closed for whom, in which order.

use std::pin::pin;

use futures_util::FutureExt as _;

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    net::memory_budget::ENDLESS_STREAMS_MAX,
};

fn limit(connections: usize, evict_busy: bool) -> Arc<ConnectionLimit> {
    ConnectionLimit::new(PortLimits { connections, evict_busy, waiting: 8, strangers_waiting: [4; 2] })
}

fn now() -> Instant {
    SystemClock.now().mono
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

async fn admitted(limit: &Arc<ConnectionLimit>, n: u8) -> Slot {
    limit.admit(address(n), now()).await.slot.expect("there is a slot")
}

fn is_evicted(slot: &Slot) -> bool {
    slot.connection.close.is_cancelled()
}

#[tokio::test(start_paused = true)]
async fn silent_ones_go_first_then_who_never_asked_of_the_address_with_the_most() {
    // Forty, of which five are kept free.
    let limit = limit(40, false);
    let mut slots = Vec::new();
    for n in 0..35 {
        assert!(limit.has_room(), "for nobody has to go");
        slots.push(admitted(&limit, 1 + n % 3).await);
        if n != 3 {
            slots.last().expect("is there").connection.set_proven();
        }
    }
    let evicted =
        |slots: &[Slot]| slots.iter().enumerate().filter(|(_, slot)| is_evicted(slot)).map(|(n, _)| n).collect::<Vec<_>>();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!limit.has_room(), "the next one costs another its place");
    slots.push(admitted(&limit, 9).await);
    assert_eq!(evicted(&slots), [3], "it said nothing");
    // Of the second address there are twelve, of the others eleven.
    drop(slots[1].connection.begin_call());
    let asked = slots[4].connection.await_answer();
    slots.push(admitted(&limit, 9).await);
    assert_eq!(evicted(&slots), [3, 7], "the first that asked for nothing");
    drop(asked);
}

#[tokio::test(start_paused = true)]
async fn the_address_with_the_most_gives_way_and_not_who_has_just_come() {
    let limit = limit(100, false);
    let mut crowd = Vec::new();
    // Of a hundred twelve are kept free.
    for n in 0..87 {
        let slot = admitted(&limit, 1 + n % 3).await;
        slot.connection.set_proven();
        drop(slot.connection.begin_call());
        crowd.push(slot);
    }
    crowd.iter().for_each(|slot| assert!(!is_evicted(slot)));
    // It is in the middle of its handshake while others come and come.
    let probe = admitted(&limit, 9).await;
    for n in 0..50 {
        let slot = admitted(&limit, 1 + n % 3).await;
        slot.connection.set_proven();
        crowd.retain(|slot| !is_evicted(slot));
        crowd.push(slot);
    }
    assert!(!is_evicted(&probe));
    tokio::time::advance(Duration::from_secs(1)).await;
    let next = admitted(&limit, 1).await;
    assert!(is_evicted(&probe) && !is_evicted(&next), "it had its time");
}

#[tokio::test]
async fn a_full_limit_waits_for_what_it_evicted_and_holds_no_more() {
    let limit = limit(1, false);
    let first = admitted(&limit, 1).await;
    let second = tokio::join!(limit.admit(address(2), now()), async {
        first.connection.evicted().await;
        assert_eq!(limit.state().connections.len(), 1);
        drop(first);
    });
    assert!(second.0.slot.is_some_and(|slot| !is_evicted(&slot)) && second.0.evicted == 1);
    assert!(limit.state().connections.is_empty() && limit.state().addresses.is_empty() && limit.state().closing == 0);
}

#[tokio::test]
async fn one_address_has_a_part_of_the_slots_for_unproven_ones() {
    let limit = limit(1_000, false);
    let other = admitted(&limit, 2).await;
    let mut neighbours = Vec::new();
    for _ in 0..126 {
        neighbours.push(admitted(&limit, 1).await);
    }
    assert!(is_evicted(&neighbours[0]) && !is_evicted(&neighbours[1]) && !is_evicted(&other));
    neighbours[1].connection.set_proven();
    neighbours.push(admitted(&limit, 1).await);
    assert_eq!(neighbours.iter().filter(|slot| is_evicted(slot)).count(), 1, "who has sent its preface is not unproven");
}

#[tokio::test]
async fn where_answers_take_no_time_the_busy_go_too() {
    let limit = limit(2, true);
    let stuck = admitted(&limit, 1).await;
    stuck.connection.set_proven();
    let open_calls = stuck.connection.await_answer();
    let next = admitted(&limit, 1).await;
    assert!(is_evicted(&stuck) && !is_evicted(&next));
    drop(open_calls);
}

#[tokio::test]
async fn one_address_has_half_of_the_slots_and_beyond_it_makes_room_for_itself() {
    let limit = limit(100, false);
    let mut one = Vec::new();
    for _ in 0..50 {
        let slot = admitted(&limit, 1).await;
        slot.connection.set_proven();
        one.push(slot);
    }
    drop(one[0].connection.begin_call());
    let awaited = one[1].connection.await_answer();
    let other = admitted(&limit, 2).await;
    one.push(admitted(&limit, 1).await);
    let evicted = |one: &[Slot]| one.iter().enumerate().filter(|(_, slot)| is_evicted(slot)).map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(evicted(&one), [2], "the oldest that made no call");
    assert!(!is_evicted(&other));
    one.iter().skip(1).for_each(|slot| drop(slot.connection.begin_call()));
    one.last().expect("is there").connection.set_proven();
    one.push(admitted(&limit, 1).await);
    assert_eq!(evicted(&one), [0, 2], "the one that was idle for the longest");
    let calls: Vec<_> = one.iter().map(|slot| slot.connection.await_answer()).collect();
    one.last().expect("is there").connection.set_proven();
    let beyond = limit.admit(address(1), now()).await;
    assert!(beyond.slot.is_none() && beyond.evicted == 0, "all of its own wait for an answer");
    assert!(limit.admit(address(3), now()).await.slot.is_some(), "and others have theirs");
    drop((calls, awaited, one, other));
    assert!(limit.state().addresses.is_empty() && limit.state().closing == 0);
}

#[tokio::test]
async fn strangers_calls_that_wait_are_few_and_shared_out_by_address() {
    let limit = limit(100, false);
    let (one, other, known) = (admitted(&limit, 1).await, admitted(&limit, 2).await, admitted(&limit, 1).await);
    known.connection.set_identified();
    let wait = |slot: &Slot, n: usize| (0..n).map_while(|_| slot.connection.wait(WaitKind::Call)).collect::<Vec<_>>();
    let (ones, others) = (wait(&one, 5), wait(&other, 5));
    assert_eq!((ones.len(), others.len()), (2, 2), "half of them each");
    let theirs = wait(&known, 9);
    assert_eq!(theirs.len(), 8, "whose client is known has a limit of its own");
    drop(theirs);
    // Once it is known who they are, they wait with those.
    one.connection.set_identified();
    one.connection.set_identified();
    assert_eq!((wait(&other, 5).len(), wait(&known, 9).len()), (0, 6), "one address has half, whatever is free");
    drop((ones, one));
    // Calls outlive their connection.
    drop(other);
    assert_eq!(limit.state().strangers_waiting, [2, 0]);
    drop(others);
    let state = limit.state();
    assert_eq!((state.waiting, state.strangers_waiting, state.addresses.len()), (0, [0, 0], 1));
}

#[tokio::test]
async fn one_connection_has_few_calls_that_wait_before_it_is_known_who_calls() {
    let limits = PortLimits {
        connections: 9,
        evict_busy: false,
        waiting: 1,
        strangers_waiting: [10 * STRANGERS_WAITING_OF_CONNECTION; 2],
    };
    let limit = ConnectionLimit::new(limits);
    let slot = admitted(&limit, 1).await;
    let calls: Vec<_> = (0..2 * STRANGERS_WAITING_OF_CONNECTION).map_while(|_| slot.connection.wait(WaitKind::Call)).collect();
    assert_eq!(calls.len(), STRANGERS_WAITING_OF_CONNECTION);
}

#[tokio::test]
async fn of_those_that_leave_something_unsent_the_one_that_has_for_the_longest_goes() {
    let limit = limit(1_000, false);
    let mut slots = Vec::new();
    for n in 0..=UNSENT_MAX {
        slots.push(admitted(&limit, u8::try_from(n / 4).expect("are few")).await);
    }
    let mut unsent: Vec<_> = slots.iter().take(UNSENT_MAX).map(|slot| slot.connection.unsent()).collect();
    drop(unsent.remove(0));
    unsent.push(slots[0].connection.unsent());
    assert!(slots.iter().all(|slot| !is_evicted(slot)));
    // What else one of them leaves counts for nothing, and goes by itself.
    drop(slots[2].connection.unsent());
    let twice = slots[3].connection.unsent();
    assert!(slots.iter().all(|slot| !is_evicted(slot)), "one connection counts once");
    let one_more = slots[UNSENT_MAX].connection.unsent();
    let evicted: Vec<_> = slots.iter().map(is_evicted).collect();
    assert_eq!(evicted.iter().position(|evicted| *evicted), Some(1), "the first has read in between");
    assert_eq!(evicted.iter().filter(|evicted| **evicted).count(), 1);
    drop((unsent, one_more, twice));
    assert!(limit.state().unsent.is_empty());
}

#[tokio::test]
async fn an_answer_is_stale_once_it_is_unread_for_a_period_and_until_it_is_read() {
    let limit = limit(1, false);
    let slot = admitted(&limit, 1).await;
    let connection = &slot.connection;
    let mut call = connection.begin_call();
    assert!(!connection.has_unread() && !connection.has_stale());
    call.answered();
    assert!(connection.has_unread() && !connection.has_stale(), "it was made in the period that ended");
    let mut other = connection.begin_call();
    other.answered();
    assert!(connection.has_stale() && connection.has_stale(), "it was made before the period that ended");
    drop(call);
    assert!(connection.has_unread() && !connection.has_stale(), "the other was made in this period");
    assert!(connection.has_stale());
    drop(other);
    assert!(!connection.has_unread() && !connection.has_stale() && connection.is_idle() && connection.is_answered());
}

#[tokio::test]
async fn work_counts_from_when_it_has_to_wait_and_is_given_up_where_too_much_does() {
    let limit = limit(1, false);
    let slot = admitted(&limit, 1).await;
    let connection = &slot.connection;
    connection.set_identified();
    let held: Vec<_> = (0..7).filter_map(|_| connection.wait(WaitKind::Call)).collect();
    assert_eq!(connection.counting(WaitKind::Call, pin!(async { 1 })).await, Some(1));
    let mut work = pin!(tokio::task::yield_now());
    let mut waits = pin!(connection.counting(WaitKind::Call, work.as_mut()));
    assert_eq!((waits.as_mut().now_or_never(), limit.state().waiting), (None, 8));
    assert_eq!(connection.counting(WaitKind::Call, pin!(std::future::pending::<()>())).await, None, "one too much");
    assert_eq!(connection.counting(WaitKind::Call, pin!(async { 2 })).await, Some(2), "what need not wait is never in question");
    assert_eq!(waits.await, Some(()));
    assert_eq!(limit.state().waiting, 7);
    drop(held);
}

#[tokio::test]
async fn a_connection_has_few_streams_without_an_end_however_often_it_asks() {
    let limit = ConnectionLimit::new(PortLimits::callers(1));
    let slot = admitted(&limit, 1).await;
    let begin = || (0..3 * ENDLESS_STREAMS_MAX).filter_map(|_| slot.connection.begin_endless()).collect::<Vec<_>>();
    for _ in 0..3 {
        assert_eq!(begin().len(), ENDLESS_STREAMS_MAX);
    }
    assert_eq!(limit.state().strangers_waiting, [0, 0]);
}

#[tokio::test]
async fn probes_that_wait_keep_out_no_call_that_is_to_say_who_asks() {
    let limit = limit(100, false);
    let (one, other, third) = (admitted(&limit, 1).await, admitted(&limit, 2).await, admitted(&limit, 3).await);
    let probes = |slot: &Slot| (0..9).map_while(|_| slot.connection.wait(WaitKind::Probe)).collect::<Vec<_>>();
    let held = (probes(&one), probes(&other));
    assert_eq!((held.0.len(), held.1.len()), (2, 2));
    assert!(third.connection.wait(WaitKind::Probe).is_none() && third.connection.wait(WaitKind::Call).is_some());
    drop(held);
}

#[tokio::test]
async fn a_call_that_outlives_its_connection_and_says_who_asks_leaves_nothing_behind() {
    let limit = limit(1, false);
    let slot = admitted(&limit, 1).await;
    let connection = slot.connection();
    drop(slot);
    connection.set_identified();
    assert!(limit.state().addresses.is_empty());
}
