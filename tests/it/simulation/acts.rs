//! An operator who acts on single users at random: no act breaks an invariant but by what it lifts by name.

use std::{sync::Arc, time::Duration};

use token_broker::{
    broker::{
        Broker,
        single_users::{Filter, Order},
    },
    user::UserKey,
};
use tokio::time::{Instant, sleep};

use super::world::World;

/// Beyond this after its deadline, an act counts as hung.
const SLACK: Duration = Duration::from_millis(2);

/// Acts until `run` is over.
pub(crate) async fn act_on(
    broker: Arc<Broker>,
    world: Arc<World>,
    users: Vec<UserKey>,
    mut random: fastrand::Rng,
    run: Duration,
) {
    let (began, order) = (Instant::now(), Order::default());
    while began.elapsed() < run {
        sleep(Duration::from_millis(random.u64(..20_000))).await;
        let key = &users[random.usize(..users.len())];
        let is_configured = world.configured(key).0;
        match random.u8(..5) {
            0 => {
                let done = broker.lift_hold(key).await.map(|(lifted, _)| lifted.map(|stop| stop.failure));
                world.check(done.is_ok() == is_configured, || format!("{key}: {done:?}"));
                world.lifted(key);
                world.note(format!("an operator lifts {key}: {done:?}"));
            }
            1 => {
                let done = broker.lift_waits(&key.merchant).await;
                let done = done.map(|(lifted, _)| (lifted.merchant.is_some(), lifted.users.len()));
                world.lifted_waits(&key.merchant);
                world.note(format!("an operator lifts the waits of {}: {done:?}", key.merchant));
            }
            2 => {
                let done = broker.drop_token(key).await.map(|(dropped, _)| dropped.is_some());
                world.check(done.is_ok() == is_configured, || format!("{key}: {done:?}"));
                world.dropped(key);
                world.note(format!("an operator drops {key}'s token: {done:?}"));
            }
            3 => {
                let patience = Duration::from_millis([0, 300, 5_000][random.usize(..3)]);
                let asked = Instant::now();
                let done = broker.renew_now(key, asked + patience).await;
                world.note(format!("an operator renews {key}'s token: {done:?}"));
                world.check(asked.elapsed() <= patience + SLACK, || format!("a renewal hung: {:?}", asked.elapsed()));
            }
            _ => look(&broker, &world, &order, is_configured.then_some(key)),
        }
    }
}

/// What is shown is what there is: everybody once, and a token where a caller would get one at once.
fn look(broker: &Broker, world: &World, order: &Order, key: Option<&UserKey>) {
    let (mut listed, mut after) = (0, None);
    loop {
        let page = broker.list(&Filter::default(), order, after.as_ref(), 2);
        listed += page.users.len();
        after = page.next;
        if after.is_none() {
            world.check(listed == page.total && listed == broker.users(), || format!("{listed} of {} are listed", page.total));
            break;
        }
    }
    if let Some(key) = key {
        let (now, shown) = (world.now(), broker.show(key));
        let had = world.with(key, |facts| facts.valid(now).is_some());
        let is_cached = shown.as_ref().is_ok_and(|view| view.states.cached);
        world.check(!had || is_cached, || format!("{key} has a token, and is shown as {shown:?}"));
    }
}
