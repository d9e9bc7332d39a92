//! What becomes of a tier: it stalls, is slow, lost, emptied, replaced by an older one, full, and lies.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{REPLICAS, RUN, machines::Fleet, store::Mode};

/// Makes mischief until the run is over.
pub(super) async fn make(fleet: Arc<Fleet>, mut random: fastrand::Rng) {
    let (truth, server) = (&fleet.truth, &fleet.server);
    let (began, seldom) = (Instant::now(), random.u64(2_000..40_000));
    let mut former = server.with(|store| store.clone());
    while began.elapsed() < RUN {
        sleep(Duration::from_millis(random.u64(..seldom))).await;
        let lasts =
            Duration::from_millis([random.u64(1..400), random.u64(400..3_000), random.u64(3_000..15_000)][random.usize(..3)]);
        let replica = fleet.replica(random.usize(..REPLICAS)).number;
        match random.u8(..12) {
            0 => {
                truth.fault_begins("stands still");
                server.stall(Instant::now() + lasts);
                sleep(lasts).await;
            }
            1 => {
                truth.fault_begins("is slow");
                server.takes(0..=random.u64(50..1_000));
                sleep(lasts).await;
                server.takes(0..=2);
            }
            2 => {
                truth.fault_begins("is away");
                server.away(true);
                server.hang_up(None);
                sleep(lasts).await;
                server.away(false);
            }
            3 => {
                truth.fault_begins("is cut off from one");
                server.cut_off(replica, true);
                server.hang_up(Some(replica));
                sleep(lasts).await;
                if !truth.is_killed(replica) {
                    server.cut_off(replica, false);
                }
            }
            4 => {
                truth.fault_begins("hangs up");
                server.hang_up(if random.bool() { None } else { Some(replica) });
            }
            5 => {
                truth.fault_begins("is emptied");
                server.with(super::store::Store::flush);
            }
            6 => {
                truth.fault_begins("fails over to an older one");
                server.with(|store| store.fail_over(&former));
                server.hang_up(None);
            }
            7 | 8 => {
                let mode = [Mode::ReadOnly, Mode::Full, Mode::Loading, Mode::Losing][random.usize(..4)];
                truth.fault_begins(&format!("{mode:?}"));
                server.with(|store| store.mode = mode);
                sleep(lasts).await;
                server.with(|store| store.mode = Mode::Honest);
            }
            9 => {
                truth.fault_begins("its clock is set");
                truth.set_server_clock(random.i64(-100_000..100_000));
            }
            _ => {
                for _ in 0..random.u8(1..5) {
                    truth.lie();
                    let lie = server.with(|store| store.lie(&mut random));
                    truth.fault_begins(lie);
                    sleep(Duration::from_millis(random.u64(..1_000))).await;
                    truth.fault_ends();
                }
                continue;
            }
        }
        truth.fault_ends();
        former = server.with(|store| store.clone());
    }
}
