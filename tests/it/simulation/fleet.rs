//! Several real brokers over one simulated tier, with machines that die and clocks that are wrong, in paused time, against the invariants
//! of a fleet.
//!
//! Each run follows from its seed alone. `TOKEN_BROKER_FLEET_SEEDS=20000` runs more of them, `TOKEN_BROKER_SEED=4711` that one.

mod finale;
mod machines;
mod mischief;
mod operator;
mod script;
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod truth;
pub(crate) mod vault;

use std::{sync::Arc, time::Duration};

use tokio::{runtime, task::JoinSet};

use self::{
    machines::Fleet,
    truth::{Rules, Truth},
};
use super::seeds::{self, Played};

/// Seeds of an ordinary run.
const SEEDS: u64 = 1_000;
const USERS: usize = 3;
const REPLICAS: usize = 3;
const CALLERS: usize = 6;
/// The longest that the vault takes.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long callers go on calling, in simulated time.
const RUN: Duration = Duration::from_secs(60);

#[test]
fn no_history_of_a_fleet_breaks_an_invariant() {
    let (seeds, counts) = seeds::play(("TOKEN_BROKER_FLEET_SEEDS", SEEDS), "no_history_of_a_fleet", simulate);
    let [sign_ins, calls, shared, judged] = counts;
    println!("{seeds} seeds, {sign_ins} sign-ins, {calls} calls, {shared} answers of others' tokens, {judged} judged");
    assert!(seeds == 1 || sign_ins > 10 * seeds && shared > 10 * seeds && judged > 10 * seeds, "the simulation does simulate");
}

#[test]
fn a_seed_is_a_history_of_a_fleet() {
    seeds::are_histories(simulate);
}

fn simulate(seed: u64) -> Played<4> {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let truth = runtime.block_on(run(seed));
    let counts = truth.counts();
    let counts = [counts.sign_ins, counts.calls, counts.shared, counts.judged];
    Played { history: truth.history(), violations: truth.violations(), counts }
}

async fn run(seed: u64) -> Arc<Truth> {
    let mut random = fastrand::Rng::with_seed(seed);
    let floor = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)][random.usize(..3)];
    let truth = Arc::new(Truth::new(Rules { floor, hold: Duration::from_secs(random.u64(10..40)) }));
    let fleet = Arc::new(Fleet::new(Arc::clone(&truth), &mut random));
    let mut doing = JoinSet::new();
    for _ in 0..CALLERS {
        doing.spawn(Arc::clone(&fleet).call_on(random.fork()));
    }
    // Some tiers have no faults, some machines don't die, and some clocks are not set.
    if random.u8(..4) > 0 {
        doing.spawn(mischief::make(Arc::clone(&fleet), random.fork()));
    }
    if random.bool() {
        doing.spawn(Arc::clone(&fleet).restart_on(random.fork()));
    }
    if random.u8(..4) == 0 {
        doing.spawn(Arc::clone(&fleet).set_clocks_on(random.fork()));
    }
    // And some operators leave it alone. Its own chance, so that the other runs are what they would be without.
    if seed.is_multiple_of(2) {
        doing.spawn(operator::act_on(Arc::clone(&fleet), fastrand::Rng::with_seed(seed)));
    }
    while let Some(ended) = doing.join_next().await {
        ended.expect("nobody panics");
    }
    finale::play(&fleet, &mut random).await;
    truth
}
