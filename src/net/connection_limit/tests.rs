//! Who is closed for whom, in which order.

use super::*;

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

async fn admitted(limit: &Arc<ConnectionLimit>, n: u8) -> Slot {
    limit.admit(address(n)).await.slot.expect("there is a slot")
}

fn is_evicted(slot: &Slot) -> bool {
    slot.0.close.is_cancelled()
}

#[tokio::test(start_paused = true)]
async fn unproven_ones_go_first_then_who_never_asked_then_who_was_idle_longest() {
    // Four, of which one is kept free.
    let limit = ConnectionLimit::new(4, false);
    let (idle, recent, busy) = (admitted(&limit, 1).await, admitted(&limit, 2).await, admitted(&limit, 3).await);
    for slot in [&idle, &recent, &busy] {
        slot.0.set_proven();
    }
    drop(idle.0.begin_call());
    let unproven = admitted(&limit, 4).await; // For this one the first that never made a call was evicted.
    assert!(is_evicted(&recent) && !is_evicted(&idle) && !is_evicted(&busy));
    drop(recent);
    let open_calls = (busy.0.begin_call(), busy.0.await_answer());
    let proven = admitted(&limit, 5).await;
    assert!(is_evicted(&unproven), "it said nothing");
    drop(unproven);
    proven.0.set_proven();
    drop(proven.0.begin_call());
    let next = admitted(&limit, 6).await;
    assert!(is_evicted(&idle) && !is_evicted(&proven), "it was idle for longer");
    drop(idle);
    next.0.set_proven();
    let calls = [next.0.await_answer(), proven.0.await_answer()];
    let last = admitted(&limit, 7).await;
    let fifth = limit.admit(address(8)).await;
    assert!(fifth.slot.is_none() || is_evicted(&last), "of calls under way none is ended");
    assert!(!is_evicted(&busy) && !is_evicted(&next) && !is_evicted(&proven));
    drop((open_calls, calls));
}

#[tokio::test]
async fn a_full_limit_waits_for_what_it_evicted_and_holds_no_more() {
    let limit = ConnectionLimit::new(1, false);
    let first = admitted(&limit, 1).await;
    let second = tokio::join!(limit.admit(address(2)), async {
        first.0.evicted().await;
        assert_eq!(limit.state().connections.len(), 1);
        drop(first);
    });
    assert!(second.0.slot.is_some_and(|slot| !is_evicted(&slot)) && second.0.evicted == 1);
    assert!(limit.state().connections.is_empty() && limit.state().addresses.is_empty() && limit.state().closing == 0);
}

#[tokio::test]
async fn one_address_has_a_part_of_the_slots_for_unproven_ones() {
    let limit = ConnectionLimit::new(1_000, false);
    let other = admitted(&limit, 2).await;
    let mut neighbours = Vec::new();
    for _ in 0..126 {
        neighbours.push(admitted(&limit, 1).await);
    }
    assert!(is_evicted(&neighbours[0]) && !is_evicted(&neighbours[1]) && !is_evicted(&other));
    neighbours[1].0.set_proven();
    neighbours.push(admitted(&limit, 1).await);
    assert_eq!(neighbours.iter().filter(|slot| is_evicted(slot)).count(), 1, "who has sent its preface is not unproven");
}

#[tokio::test]
async fn where_answers_take_no_time_the_busy_go_too() {
    let limit = ConnectionLimit::new(2, true);
    let stuck = admitted(&limit, 1).await;
    stuck.0.set_proven();
    let open_calls = stuck.0.await_answer();
    let next = admitted(&limit, 1).await;
    assert!(is_evicted(&stuck) && !is_evicted(&next));
    drop(open_calls);
}
