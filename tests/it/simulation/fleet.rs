//! Several real brokers over one simulated tier, with machines that die and clocks that are wrong, in paused time, against the invariants
//! of a fleet.
//!
//! Each run follows from its seed alone. `TOKEN_BROKER_FLEET_SEEDS=20000` runs more of them, `TOKEN_BROKER_SEED=4711` that one.

mod finale;
mod machines;
mod mischief;
mod script;
mod server;
mod store;
mod truth;
mod vault;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{runtime, task::JoinSet};

use self::{
    machines::Fleet,
    truth::{Rules, Truth},
};

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
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("is a number"));
    let (first, end) = match number("TOKEN_BROKER_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, number("TOKEN_BROKER_FLEET_SEEDS").unwrap_or(SEEDS)),
    };
    let next = AtomicU64::new(first);
    let totals: [AtomicU64; 4] = std::array::from_fn(|_| AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let truth = simulate(seed);
                    let found = truth.violations();
                    if first + 1 == end {
                        println!("{}", truth.history().join("\n"));
                    }
                    assert!(
                        found.is_empty(),
                        "seed {seed}: {found:#?}\nrun it alone: TOKEN_BROKER_SEED={seed} cargo test --test it no_history_of_a_fleet"
                    );
                    let counts = truth.counts();
                    for (total, count) in totals.iter().zip([counts.sign_ins, counts.calls, counts.shared, counts.judged]) {
                        total.fetch_add(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let [sign_ins, calls, shared, judged] = totals.map(AtomicU64::into_inner);
    println!("{} seeds, {sign_ins} sign-ins, {calls} calls, {shared} answers of others' tokens, {judged} judged", end - first);
    let seeds = end - first;
    assert!(seeds == 1 || sign_ins > 10 * seeds && shared > 10 * seeds && judged > 10 * seeds, "the simulation does simulate");
}

#[test]
fn a_seed_is_a_history_of_a_fleet() {
    for seed in [3, 1_000_003] {
        let (once, again) = (simulate(seed).history(), simulate(seed).history());
        let parting = once.iter().zip(&again).find(|(once, again)| once != again);
        assert_eq!((parting, once.len()), (None, again.len()), "seed {seed}");
    }
}

fn simulate(seed: u64) -> Arc<Truth> {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(run(seed))
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
    while let Some(ended) = doing.join_next().await {
        ended.expect("nobody panics");
    }
    finale::play(&fleet, &mut random).await;
    truth
}
