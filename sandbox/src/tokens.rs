//! Which tokens are live.
//!
//! Must never grow without bound: expired tokens go at the next sign-in, and beyond [`MAX_LIVE`] the one that would expire first
//! is forgotten, which kills it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use sha2::{Digest, Sha256};

/// Live tokens that are remembered: about 200 bytes each, and far beyond what a test of the broker signs in.
const MAX_LIVE: usize = 1_000_000;

/// A token's hash: a quarter of its size.
pub(crate) type Key = [u8; 32];

pub(crate) fn key(token: &str) -> Key {
    Sha256::digest(token).into()
}

/// The live tokens and whose they are.
#[derive(Default)]
pub(crate) struct Tokens {
    live: HashMap<Key, (SystemTime, Arc<str>)>,
    by_expiry: BTreeSet<(SystemTime, Key)>,
}

impl Tokens {
    /// Makes a token live until `expires`.
    pub(crate) fn insert(&mut self, key: Key, expires: SystemTime, number: Arc<str>, now: SystemTime) {
        self.remove(&key);
        while self.by_expiry.first().is_some_and(|(expires, _)| *expires <= now) || self.live.len() >= MAX_LIVE {
            let Some((_, key)) = self.by_expiry.pop_first() else { break };
            self.live.remove(&key);
        }
        self.by_expiry.insert((expires, key));
        self.live.insert(key, (expires, number));
    }

    /// Whose token this is, if it is live.
    pub(crate) fn number(&self, key: &Key, now: SystemTime) -> Option<Arc<str>> {
        self.live.get(key).filter(|(expires, _)| now < *expires).map(|(_, number)| Arc::clone(number))
    }

    /// Kills a token; whether there was one.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let Some((expires, _)) = self.live.remove(key) else { return false };
        self.by_expiry.remove(&(expires, *key))
    }

    /// Kills them all; how many there were.
    pub(crate) fn clear(&mut self) -> usize {
        self.by_expiry.clear();
        let gone = self.live.len();
        self.live.clear();
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_has_expired_is_dropped_at_the_next_insertion() {
        let (mut tokens, start) = (Tokens::default(), SystemTime::UNIX_EPOCH);
        for second in 0..100_u64 {
            let now = start + Duration::from_secs(second);
            tokens.insert(key(&second.to_string()), now + Duration::from_secs(10), "+1".into(), now);
        }
        assert_eq!((tokens.live.len(), tokens.by_expiry.len()), (10, 10));
        assert!(tokens.remove(&key("99")));
        assert!(!tokens.remove(&key("99")));
        assert_eq!((tokens.live.len(), tokens.by_expiry.len()), (9, 9));
    }

    #[test]
    fn a_token_dies_at_its_expiry_not_after() {
        let (mut tokens, start) = (Tokens::default(), SystemTime::UNIX_EPOCH);
        let end = start + Duration::from_secs(10);
        tokens.insert(key("a"), end, "+1".into(), start);
        assert!(tokens.number(&key("a"), end - Duration::from_nanos(1)).is_some());
        assert!(tokens.number(&key("a"), end).is_none());
    }
}
