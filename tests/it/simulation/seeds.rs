//! Plays many histories, each from its seed, on both processors; and one of them twice.
//!
//! Must never pass over a violation, nor play a seed that the failure's own words don't name.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Names one seed, which is played alone and told.
const ONE: &str = "TOKEN_BROKER_SEED";

/// A history that was played.
pub(super) struct Played<const N: usize> {
    pub(super) history: Vec<String>,
    pub(super) violations: Vec<String>,
    /// What happened, counted.
    pub(super) counts: [u64; N],
}

/// Plays so many seeds, or as many as the variable names, and says how many they were and what happened in all of them.
pub(super) fn play<const N: usize>(
    (variable, usual): (&str, u64),
    test: &str,
    simulate: impl Fn(u64) -> Played<N> + Sync,
) -> (u64, [u64; N]) {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().expect("is a number"));
    let (first, end) = match number(ONE) {
        Some(seed) => (seed, seed + 1),
        None => (0, number(variable).unwrap_or(usual)),
    };
    let next = AtomicU64::new(first);
    let totals: [AtomicU64; N] = std::array::from_fn(|_| AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let Played { history, violations: found, counts } = simulate(seed);
                    if first + 1 == end {
                        println!("{}", history.join("\n"));
                    }
                    assert!(found.is_empty(), "seed {seed}: {found:#?}\nrun it alone: {ONE}={seed} cargo test --test it {test}");
                    for (total, count) in totals.iter().zip(counts) {
                        total.fetch_add(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (end - first, totals.map(AtomicU64::into_inner))
}

/// A seed's history is the same each time.
pub(super) fn are_histories<const N: usize>(simulate: impl Fn(u64) -> Played<N>) {
    for seed in [3, 4, 1_000_003, 1_000_004] {
        let (once, again) = (simulate(seed).history, simulate(seed).history);
        let parting = once.iter().zip(&again).find(|(once, again)| once != again);
        assert_eq!((parting, once.len()), (None, again.len()), "seed {seed}");
    }
}
