//! The real broker over a simulated vault and simulated clocks, in paused time, against the invariants.
//!
//! Each run follows from its seed alone. `TOKEN_BROKER_SEEDS=100000` runs more of them, `TOKEN_BROKER_SEED=4711` that one.

mod acts;
mod callers;
pub(crate) mod fleet;
mod judgements;
mod processes;
mod seeds;
mod vault;
mod world;

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use token_broker::{
    broker::Broker,
    config::Renewal,
    live::{Live, Settings, Snapshot},
    users::holds::Rules,
};
use tokio::{runtime, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{
    callers::Operator,
    processes::Processes,
    seeds::Played,
    vault::SCRIPTED_PANIC,
    world::{Force, SimulatedClock, World},
};
use crate::support::broker_in_memory::{configuration, parts, settings};

/// Seeds of an ordinary run.
const SEEDS: u64 = 1_000;
const USERS: usize = 4;
const CALLERS: usize = 6;
/// How long callers go on calling, in simulated time.
const RUN: Duration = Duration::from_secs(240);
/// By then whatever was under way has ended, and no pause lasts: the longest is one of ten minutes.
const SETTLED: Duration = Duration::from_secs(720);

#[test]
fn no_history_breaks_an_invariant() {
    silence_scripted_panics();
    let (seeds, [sign_ins, calls]) = seeds::play(("TOKEN_BROKER_SEEDS", SEEDS), "no_history_breaks", simulate);
    println!("{seeds} seeds, {sign_ins} sign-ins, {calls} calls");
    assert!(seeds == 1 || sign_ins > seeds, "the simulation does simulate");
}

#[test]
fn a_seed_is_a_history() {
    silence_scripted_panics();
    seeds::are_histories(simulate);
}

fn simulate(seed: u64) -> Played<2> {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let world = runtime.block_on(run(seed));
    Played { history: world.history(), violations: world.violations(), counts: [world.sign_ins(), world.calls()] }
}

async fn run(seed: u64) -> Arc<World> {
    let mut random = fastrand::Rng::with_seed(seed);
    // The jitter of answers is this thread's.
    fastrand::seed(seed);
    let force = Force::draw(&mut random, 0);
    let world = Arc::new(World::new(force));
    let clock = Arc::new(SimulatedClock::new(Arc::clone(&world)));
    let users: Vec<_> = (0..USERS).map(world::user).collect();
    let configured = world.configure(force, |configured| configured.extend(users.iter().map(|key| (key.clone(), 0))));

    let vault = Arc::new(vault::SimulatedVault::new(Arc::clone(&world), 0, random.fork()));
    let settings = Settings {
        rules: Rules { min_sign_in_interval: force.floor, refusal_hold: force.hold },
        renewal: if random.bool() { Renewal::Ahead } else { Renewal::AtExpiry },
        max_concurrent_sign_ins: force.limit,
        idle_after: Duration::from_secs(60),
        ..settings("vault 0", vault.clone())
    };
    let parts = parts(clock, USERS, random.u64(..));
    let closing = CancellationToken::new();
    let broker =
        Arc::new(Broker::new(parts, Live::new(Snapshot::new(configuration(configured, settings.clone()))), closing.clone()));

    let mut tasks = JoinSet::new();
    let renewing = Arc::clone(&broker);
    tasks.spawn(async move { renewing.renew_ahead().await });
    let mut calling = JoinSet::new();
    for _ in 0..CALLERS {
        calling.spawn(callers::call_on(Arc::clone(&broker), Arc::clone(&world), users.clone(), random.fork(), RUN));
    }
    let processes = Processes::new(&broker, &world, &users, false, &mut random);
    calling.spawn(processes.live(random.fork(), RUN));
    if random.u8(..4) == 0 {
        calling.spawn(callers::set_the_clock(Arc::clone(&world), random.fork(), RUN));
    }
    if random.u8(..3) == 0 {
        calling.spawn(acts::act_on(Arc::clone(&broker), Arc::clone(&world), users.clone(), random.fork(), RUN));
    }
    let operates = random.u8(..3) == 0;
    let (broker_, world_) = (Arc::clone(&broker), Arc::clone(&world));
    let mut operator = Operator { broker: broker_, world: world_, users, settings, vaults: vec![vault], random: random.fork() };
    if operates {
        operator = operator.operate(RUN).await;
    }
    while let Some(caller) = calling.join_next().await {
        caller.expect("no caller panics");
    }
    // Whatever is still queued or under way ends; then nothing may be left.
    sleep(SETTLED).await;
    world.check(broker.flights_under_way() == 0, || format!("{} flights never ended", broker.flights_under_way()));
    world.check(broker.waiting() == 0, || format!("{} waiters leaked", broker.waiting()));
    operator.all_is_well().await;
    closing.cancel();
    while let Some(task) = tasks.join_next().await {
        task.expect("no task panics");
    }
    world
}

/// Panics that the simulated vault was told to have are part of the run; all others are shown.
fn silence_scripted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&SCRIPTED_PANIC) {
                shown(panic);
            }
        }));
    });
}
