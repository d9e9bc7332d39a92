//! Which tokens a caller was given, and which of them the vault's API refused.
//!
//! Replicas hold tokens of their own: a complaint must reach the one that it is about, so it goes along with each call for the
//! user while the token would have lived. Must never grow without bound, nor hold a token itself.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The contract's bound on the ids in one call; as many tokens are remembered of a user.
pub(super) const IDS_MAX: usize = 16;
/// Its bound on one id, in characters.
const ID_MAX: usize = 64;
/// Users of whom tokens are remembered, at most: each takes up to 2 KiB. Beyond that, whose last token ends first is forgotten.
const USERS_MAX: usize = 10_000;
/// No token lives longer, so a complaint of one that was not seen here is remembered for so long.
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What one client remembers of all users.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<(String, String), Vec<Known>>>);

/// A token, by its id.
#[derive(Clone, Debug)]
struct Known {
    token_id: String,
    ends: Instant,
    rejected: bool,
}

impl Memory {
    /// The ids to send with a call for this user, `named` first: those that are named now, and those that were before.
    pub(super) fn rejected(&self, merchant_id: &str, number: &str, named: &[String], now: Instant) -> Vec<String> {
        let mut users = self.users();
        let mut ids: Vec<String> = named.iter().filter(|id| !id.is_empty()).cloned().collect();
        let user = (merchant_id.to_owned(), number.to_owned());
        if ids.is_empty() && !users.contains_key(&user) {
            return ids;
        }
        let known = room(&mut users, user, now);
        // What the broker would refuse is the caller's to mend, and must not spoil the calls after it.
        for id in ids.iter().filter(|id| id.chars().count() <= ID_MAX) {
            match known.iter_mut().find(|known| known.token_id.eq_ignore_ascii_case(id)) {
                Some(known) => known.rejected = true,
                None => keep(known, Known { token_id: id.clone(), ends: now + LIFETIME_MAX, rejected: true }),
            }
        }
        for known in known.iter().rev().filter(|known| known.rejected) {
            if ids.len() < IDS_MAX && !ids.iter().any(|id| id.eq_ignore_ascii_case(&known.token_id)) {
                ids.push(known.token_id.clone());
            }
        }
        ids
    }

    /// The broker answered with this token. One that was refused and comes again is the vault's last word: to complain of it with
    /// each call would cost a sign-in each.
    pub(super) fn given(&self, merchant_id: &str, number: &str, token_id: &str, left: Duration, now: Instant) {
        let mut users = self.users();
        let known = room(&mut users, (merchant_id.to_owned(), number.to_owned()), now);
        known.retain(|known| known.token_id != token_id);
        keep(known, Known { token_id: token_id.to_owned(), ends: now + left.min(LIFETIME_MAX), rejected: false });
    }

    fn users(&self) -> MutexGuard<'_, HashMap<(String, String), Vec<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user's tokens that have not ended.
fn room(users: &mut HashMap<(String, String), Vec<Known>>, user: (String, String), now: Instant) -> &mut Vec<Known> {
    if users.len() >= USERS_MAX && !users.contains_key(&user) {
        users.retain(|_, known| known.iter().any(|known| known.ends > now));
        if users.len() >= USERS_MAX {
            let first = users.iter().min_by_key(|(_, known)| known.iter().map(|known| known.ends).max());
            if let Some(first) = first.map(|(user, _)| user.clone()) {
                users.remove(&first);
            }
        }
    }
    let known = users.entry(user).or_default();
    known.retain(|known| known.ends > now);
    known
}

fn keep(known: &mut Vec<Known>, new: Known) {
    if known.len() >= IDS_MAX {
        known.remove(0);
    }
    known.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a fixed point to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn complaints_go_along_while_their_tokens_would_have_lived() {
        let (memory, now) = (Memory::default(), start());
        let rejected = |named: &[&str], at| {
            let named: Vec<_> = named.iter().map(|id| (*id).to_owned()).collect();
            memory.rejected("m", "n", &named, now + Duration::from_secs(at))
        };
        let given = |id, seconds| memory.given("m", "n", id, Duration::from_secs(seconds), now);
        assert!(rejected(&[], 0).is_empty());
        given("a", 60);
        given("b", 90);
        assert!(rejected(&[""], 1).is_empty(), "nobody complained");
        assert_eq!(rejected(&["a"], 1), ["a"]);
        assert_eq!(rejected(&["b"], 1), ["b", "a"]);
        assert_eq!(rejected(&[], 59), ["b", "a"]);
        assert_eq!(rejected(&[], 60), ["b"], "it would have ended");
        assert!(memory.rejected("m", "other", &[], now).is_empty(), "another user's");
        given("b", 90);
        assert!(rejected(&[], 61).is_empty(), "the vault insists on it");
        let long = "x".repeat(65);
        assert_eq!(rejected(&[&long], 61), [long.as_str()]);
        assert!(rejected(&[], 61).is_empty(), "a call that is refused spoils no other");
        for n in 0..100 {
            assert!(rejected(&[&format!("x{n}")], 70).len() <= IDS_MAX);
        }
        assert_eq!(rejected(&[], 70).len(), IDS_MAX);
    }

    #[test]
    fn no_more_users_than_that_are_remembered() {
        let (memory, now) = (Memory::default(), start());
        for n in 0..USERS_MAX + 10 {
            memory.given("m", &n.to_string(), "a", Duration::from_secs(60 + n as u64), now);
        }
        assert_eq!(memory.users().len(), USERS_MAX);
        assert!(memory.users().contains_key(&("m".to_owned(), (USERS_MAX + 9).to_string())));
    }
}
