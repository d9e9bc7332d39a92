//! Numbers by chance, to spread in time what would come at once.
//!
//! Must never be taken for secrets: whoever knows the seed knows them all, so that a simulation can be repeated.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// Draws them.
#[derive(Debug)]
pub struct Jitter {
    seed: u64,
    drawn: AtomicU64,
}

impl Jitter {
    /// The numbers of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, drawn: AtomicU64::new(0) }
    }

    /// Others in each process, and each time.
    #[must_use]
    pub fn by_chance() -> Self {
        Self::new(RandomState::new().hash_one(()))
    }

    /// 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "half of the bits are plenty")]
    pub fn draw(&self) -> f64 {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let drawn = hasher.hash_one((self.seed, self.drawn.fetch_add(1, Ordering::Relaxed))) >> 32;
        drawn as f64 / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_spread_and_follows_from_its_seed() {
        let drawn = |jitter: Jitter| (0..1_000).map(|_| jitter.draw()).collect::<Vec<_>>();
        let one = drawn(Jitter::new(7));
        assert_eq!(one, drawn(Jitter::new(7)));
        assert_ne!(one, drawn(Jitter::new(8)));
        assert_ne!(drawn(Jitter::by_chance()), drawn(Jitter::by_chance()));
        assert!(one.iter().all(|drawn| (0.0..=1.0).contains(drawn)));
        for tenth in 0..10 {
            let within = |drawn: &&f64| (f64::from(tenth)..f64::from(tenth + 1)).contains(&(**drawn * 10.0));
            let count = one.iter().filter(within).count();
            assert!((60..140).contains(&count), "{count} in tenth {tenth}");
        }
    }
}
