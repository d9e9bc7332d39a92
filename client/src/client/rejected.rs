//! The tokens that the vault's API answered with 401, by user: each call names them, whichever replica answers.
//!
//! Must never grow without end, name a token for longer than it would have lived, or hold a token itself.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Token;

/// Most ids of one call, and so of one user: the contract's.
pub(super) const IDS_MAX: usize = 16;
/// Longest of them, in characters: the contract's.
const ID_MAX: usize = 64;
/// Most users with a rejected token: about 2 MiB; beyond that the longest silent one is forgotten.
const USERS_MAX: usize = 4_096;
/// Of so many tokens it is known when they end: those that were handed out last.
const HANDED_MAX: usize = 4_096;
/// No token lives longer: the contract's.
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct User {
    merchant_id: String,
    number: String,
}

#[derive(Debug)]
struct Dead {
    id: String,
    /// When it would have ended.
    ends: Instant,
}

#[derive(Default)]
struct Memory {
    /// The newest last, of each user and so over all.
    users: HashMap<User, (Instant, VecDeque<Dead>)>,
    /// When tokens end, and in which order they came.
    handed: HashMap<String, Instant>,
    order: VecDeque<String>,
}

/// What one client remembers, with all its clones.
#[derive(Default)]
pub(super) struct Rejected {
    memory: Mutex<Memory>,
}

/// Without the numbers.
impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("users", &self.memory().users.len()).finish_non_exhaustive()
    }
}

impl Rejected {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one: `lives` is its life as its answer said, where there was one.
    pub(super) fn note(&self, merchant_id: &str, number: &str, id: &str, lives: Option<Duration>, now: Instant) {
        // What the broker would refuse must not spoil the user's later calls.
        if id.is_empty() || id.chars().count() > ID_MAX {
            return;
        }
        let mut memory = self.memory();
        let ends = memory.handed.get(id).copied();
        let ends = ends.unwrap_or_else(|| now + lives.unwrap_or(LIFETIME_MAX).min(LIFETIME_MAX));
        let user = User { merchant_id: merchant_id.to_owned(), number: number.to_owned() };
        if !memory.users.contains_key(&user) {
            memory.make_room(now);
        }
        let (last, dead) = memory.users.entry(user).or_insert_with(|| (now, VecDeque::new()));
        *last = now;
        dead.retain(|other| other.ends > now && !other.id.eq_ignore_ascii_case(id));
        if dead.len() == IDS_MAX {
            dead.pop_front();
        }
        dead.push_back(Dead { id: id.to_owned(), ends });
    }

    /// What a call for this user names: what its caller says, then what is remembered, the newest first.
    pub(super) fn named(&self, merchant_id: &str, number: &str, mut said: Vec<String>, now: Instant) -> Vec<String> {
        let mut memory = self.memory();
        if memory.users.is_empty() {
            return said;
        }
        let user = User { merchant_id: merchant_id.to_owned(), number: number.to_owned() };
        let Some((_, dead)) = memory.users.get_mut(&user) else { return said };
        dead.retain(|dead| dead.ends > now);
        if dead.is_empty() {
            memory.users.remove(&user);
            return said;
        }
        for dead in dead.iter().rev() {
            if said.len() < IDS_MAX && !said.iter().any(|id| id.eq_ignore_ascii_case(&dead.id)) {
                said.push(dead.id.clone());
            }
        }
        said
    }

    /// Notes an answer to a call that named `named`.
    pub(super) fn answered(&self, merchant_id: &str, number: &str, named: &[String], token: &Token, now: Instant) {
        let mut memory = self.memory();
        if !memory.handed.contains_key(&token.token_id) {
            memory.hand(&token.token_id, now + life(token).unwrap_or(LIFETIME_MAX).min(LIFETIME_MAX));
        }
        // The vault insists on it: it is believed until somebody complains anew, or each call would cost a sign-in.
        if named.iter().any(|id| id.eq_ignore_ascii_case(&token.token_id)) {
            let user = User { merchant_id: merchant_id.to_owned(), number: number.to_owned() };
            if let Some((_, dead)) = memory.users.get_mut(&user) {
                dead.retain(|dead| !dead.id.eq_ignore_ascii_case(&token.token_id));
            }
        }
    }
}

impl Memory {
    /// Forgets whose tokens have all ended; where that is not enough, who was silent for longest.
    fn make_room(&mut self, now: Instant) {
        if self.users.len() < USERS_MAX {
            return;
        }
        self.users.retain(|_, (_, dead)| dead.iter().any(|dead| dead.ends > now));
        if self.users.len() >= USERS_MAX {
            let silent = self.users.iter().min_by_key(|(_, (last, _))| *last).map(|(user, _)| user.clone());
            silent.and_then(|user| self.users.remove(&user));
        }
    }

    fn hand(&mut self, id: &str, ends: Instant) {
        if self.order.len() == HANDED_MAX {
            let oldest = self.order.pop_front();
            oldest.and_then(|id| self.handed.remove(&id));
        }
        self.order.push_back(id.to_owned());
        self.handed.insert(id.to_owned(), ends);
    }
}

/// How long a token lives from its answer on.
pub(super) fn life(token: &Token) -> Option<Duration> {
    token.expires_in.and_then(|left| Duration::try_from(left).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn token(id: &str, lives: u64) -> Token {
        let expires_in = Some(prost_types::Duration { seconds: i64::try_from(lives).expect("is short"), nanos: 0 });
        Token { token_id: id.to_owned(), expires_in, ..Token::default() }
    }

    fn named(rejected: &Rejected, number: &str, now: Instant) -> Vec<String> {
        rejected.named("m", number, Vec::new(), now)
    }

    #[tokio::test(start_paused = true)]
    async fn names_them_for_their_user_alone_and_while_they_would_have_lived() {
        let (rejected, now) = (Rejected::default(), crate::client::now());
        rejected.answered("m", "1", &[], &token("a", 60), now);
        rejected.note("m", "1", "a", None, now + SECOND);
        rejected.note("m", "1", "b", Some(90 * SECOND), now + SECOND);
        rejected.note("m", "1", "unknown", None, now + SECOND);
        assert_eq!(named(&rejected, "1", now + SECOND), ["unknown", "b", "a"]);
        assert!(named(&rejected, "2", now).is_empty() && rejected.named("n", "1", Vec::new(), now).is_empty());
        assert_eq!(rejected.named("m", "1", vec!["A".to_owned(), "x".to_owned()], now), ["A", "x", "unknown", "b"]);
        assert_eq!(named(&rejected, "1", now + 60 * SECOND), ["unknown", "b"]);
        assert_eq!(named(&rejected, "1", now + 91 * SECOND), ["unknown"]);
        assert!(named(&rejected, "1", now + SECOND + LIFETIME_MAX).is_empty());
        assert!(rejected.memory().users.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_the_vault_insists_on_is_named_no_more() {
        let (rejected, now) = (Rejected::default(), crate::client::now());
        rejected.note("m", "1", "a", None, now);
        rejected.answered("m", "1", &[], &token("a", 60), now);
        assert_eq!(named(&rejected, "1", now), ["a"], "an answer to a call from before says nothing");
        rejected.answered("m", "1", &["A".to_owned()], &token("a", 60), now);
        assert!(named(&rejected, "1", now).is_empty());
        rejected.note("m", "1", "a", None, now);
        assert_eq!(named(&rejected, "1", now), ["a"], "complained of anew");
    }

    #[tokio::test(start_paused = true)]
    async fn stays_small_and_keeps_the_newest() {
        let (rejected, now) = (Rejected::default(), crate::client::now());
        for n in 0..20 {
            rejected.note("m", "1", &format!("id-{n}"), None, now);
        }
        let wanted: Vec<_> = (4..20).rev().map(|n| format!("id-{n}")).collect();
        assert_eq!(named(&rejected, "1", now), wanted);
        let said: Vec<_> = (0..17).map(|n| format!("said-{n}")).collect();
        assert_eq!(rejected.named("m", "1", said.clone(), now), said, "too many is for the broker to say");
        for id in ["", &"x".repeat(65)] {
            rejected.note("m", "2", id, None, now);
        }
        assert!(named(&rejected, "2", now).is_empty());
        for user in 0..USERS_MAX + 10 {
            let later = now + SECOND * u32::try_from(user).expect("is small");
            rejected.note("m", &format!("user-{user}"), "a", None, later);
            rejected.answered("m", "1", &[], &token(&format!("token-{user}"), 60), later);
        }
        let memory = rejected.memory();
        assert_eq!((memory.users.len(), memory.handed.len(), memory.order.len()), (USERS_MAX, HANDED_MAX, HANDED_MAX));
        assert!(memory.users.keys().any(|user| user.number == format!("user-{}", USERS_MAX + 9)));
    }
}
