//! An operator who acts on single users at random, at any replica: no act breaks an invariant but by what it lifts by name.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{REPLICAS, RUN, USERS, machines::Fleet};
use crate::simulation::world::user;

/// What a lift lifts of a user's.
const OWN: [&str; 3] = ["refusal", "wait", "back-off"];
/// And of a merchant's.
const WAITS: [&str; 2] = ["wait", "merchant's wait"];

/// Acts until the run is over.
pub(super) async fn act_on(fleet: Arc<Fleet>, mut random: fastrand::Rng) {
    let (truth, began, seldom) = (&fleet.truth, Instant::now(), random.u64(1_000..15_000));
    while began.elapsed() < RUN {
        sleep(Duration::from_millis(random.u64(..seldom))).await;
        let (replica, key) = (fleet.replica(random.usize(..REPLICAS)), user(random.usize(..USERS)));
        let (broker, number, asked) = (&replica.broker, replica.number, Instant::now());
        let act = random.u8(..5);
        let acting = async {
            match act {
                0 | 1 => {
                    truth.note(format!("an operator drops {key}'s token at replica {number}"));
                    let (dropped, is_known) = broker.drop_token(&key).await.expect("is configured");
                    truth.dropped(number, &key, asked, is_known);
                    truth.note(format!("{key}'s token is dropped, known: {is_known}, there was one: {}", dropped.is_some()));
                }
                2 | 3 => {
                    truth.note(format!("an operator lifts {key} at replica {number}"));
                    // Before it is told of as done others hear of it, maybe.
                    truth.lifted(|of| *of == key, &OWN, asked);
                    let (lifted, is_known) = broker.lift_hold(&key).await.expect("is configured");
                    truth.lifted(|of| *of == key, &OWN, asked);
                    truth.note(format!("{key} is lifted, known: {is_known}, from {:?}", lifted.map(|stop| stop.failure)));
                }
                _ => {
                    truth.note(format!("an operator lifts the waits of {} at replica {number}", key.merchant));
                    truth.lifted(|of| of.merchant == key.merchant, &WAITS, asked);
                    let lifted = broker.lift_waits(&key.merchant).await.map(|(_, is_known)| is_known);
                    truth.lifted(|of| of.merchant == key.merchant, &WAITS, asked);
                    truth.note(format!("the waits of {} are lifted, known: {lifted:?}", key.merchant));
                }
            }
        };
        replica.dead.run_until_cancelled(acting).await;
    }
}
