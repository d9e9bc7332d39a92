//! Pure: may this caller ask for this user? Default deny.
//!
//! Must never depend on whether the user exists: a denial tells a caller nothing of who is configured. Names are compared exactly:
//! no prefix, no other case.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::collections::{HashMap, HashSet};

use crate::{
    caller::{CallerId, CallerName, CallerPattern},
    config::{self, Config, Merchants},
    user::{MerchantId, Number, UserKey},
};

/// Who may ask for whom.
#[derive(Debug)]
pub enum Policy {
    /// Nobody is asked who they are: everybody may all. The operator has spelled that out, or only this machine can connect.
    Everyone,
    /// `[[callers]]`, and nobody else.
    Listed(Listed),
}

/// The entries of `[[callers]]`.
#[derive(Debug, Default)]
pub struct Listed {
    entries: Vec<Entry>,
    /// The entries of each id without a wildcard, by index.
    exact: HashMap<CallerName, Vec<usize>>,
    /// Those with one.
    wild: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    id: CallerPattern,
    /// None: every merchant.
    merchants: Option<HashSet<MerchantId>>,
    /// None: every number of those merchants.
    numbers: Option<HashSet<Number>>,
    line: usize,
}

/// Why a call may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave<'p> {
    /// Everybody may.
    Everyone,
    /// This entry says so: its id, and its line in the main file.
    Entry {
        /// As it is configured.
        id: &'p str,
        /// From 1.
        line: usize,
    },
}

/// Why it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial<'p> {
    /// No entry has this caller's id.
    Unlisted,
    /// Entries have it, but not this merchant; the first of them.
    Merchant {
        /// As it is configured.
        id: &'p str,
        /// From 1.
        line: usize,
    },
    /// One has the merchant too, but not this number.
    Number {
        /// As it is configured.
        id: &'p str,
        /// From 1.
        line: usize,
    },
}

impl Policy {
    /// The policy of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        if config.asks() { Self::Listed(Listed::new(&config.callers)) } else { Self::Everyone }
    }

    /// May `caller` have tokens of `user`?
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, caller: &CallerId, user: &UserKey) -> Result<Leave<'_>, Denial<'_>> {
        match (self, caller) {
            (Self::Everyone, _) => Ok(Leave::Everyone),
            (Self::Listed(_), CallerId::Anonymous) => Err(Denial::Unlisted),
            (Self::Listed(listed), CallerId::Named(name)) => listed.decide(name, user),
        }
    }

    /// Whether any entry means this caller, whomever it may ask for; where nobody is asked who they are, everybody is meant.
    #[must_use]
    pub fn means(&self, caller: &CallerId) -> bool {
        match (self, caller) {
            (Self::Everyone, _) => true,
            (Self::Listed(_), CallerId::Anonymous) => false,
            (Self::Listed(listed), CallerId::Named(name)) => listed.entries_of(name).next().is_some(),
        }
    }
}

impl Listed {
    fn new(callers: &[config::CallerConfig]) -> Self {
        let mut listed = Self::default();
        for (index, caller) in callers.iter().enumerate() {
            match caller.id.exact() {
                Some(name) => listed.exact.entry(name.clone()).or_default().push(index),
                None => listed.wild.push(index),
            }
            listed.entries.push(Entry {
                id: caller.id.clone(),
                merchants: match &caller.merchants {
                    Merchants::All => None,
                    Merchants::Only(merchants) => Some(merchants.iter().cloned().collect()),
                },
                numbers: caller.numbers.as_ref().map(|numbers| numbers.iter().cloned().collect()),
                line: caller.line,
            });
        }
        listed
    }

    /// The entries that mean this caller.
    fn entries_of(&self, name: &CallerName) -> impl Iterator<Item = &Entry> {
        let exact = self.exact.get(name).into_iter().flatten();
        let wild = self.wild.iter().filter(|index| self.entries.get(**index).is_some_and(|entry| entry.id.matches(name)));
        exact.chain(wild).filter_map(|index| self.entries.get(*index))
    }

    fn decide(&self, name: &CallerName, user: &UserKey) -> Result<Leave<'_>, Denial<'_>> {
        let mut denial = Denial::Unlisted;
        for entry in self.entries_of(name) {
            let (id, line) = (entry.id.as_str(), entry.line);
            let merchant = entry.merchants.as_ref().is_none_or(|merchants| merchants.contains(&user.merchant));
            let number = entry.numbers.as_ref().is_none_or(|numbers| numbers.contains(&user.number));
            denial = match (merchant, number, denial) {
                (true, true, _) => return Ok(Leave::Entry { id, line }),
                // What came nearest is told.
                (true, false, Denial::Unlisted | Denial::Merchant { .. }) => Denial::Number { id, line },
                (false, _, Denial::Unlisted) => Denial::Merchant { id, line },
                (_, _, nearer) => nearer,
            };
        }
        Err(denial)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(merchant: &str, number: &str) -> UserKey {
        UserKey {
            merchant: MerchantId::parse(merchant.to_owned()).expect("is valid"),
            number: Number::parse(number.to_owned()).expect("is valid"),
        }
    }

    fn caller(id: &str, merchants: &[&str], numbers: Option<&[&str]>, line: usize) -> config::CallerConfig {
        let merchants = match merchants {
            ["*"] => Merchants::All,
            some => Merchants::Only(some.iter().map(|id| MerchantId::parse((*id).to_owned()).expect("is valid")).collect()),
        };
        let number = |number: &&str| Number::parse((*number).to_owned()).expect("is valid");
        let id = CallerPattern::parse(id).expect("is valid");
        config::CallerConfig { id, merchants, numbers: numbers.map(|some| some.iter().map(number).collect()), line }
    }

    fn named(id: &str) -> CallerId {
        CallerId::Named(CallerName::parse(id).expect(id))
    }

    const ONE: &str = "+447871239999";
    const OTHER: &str = "+447871230000";

    #[test]
    fn an_entry_gives_what_it_names_and_nothing_else_does() {
        let listed = Policy::Listed(Listed::new(&[
            caller("spiffe://example.org/ns/cards/sa/cards", &["m1"], Some(&[ONE]), 1),
            caller("spiffe://example.org/ns/cards/sa/cards", &["m2"], None, 2),
            caller("system:serviceaccount:cards:cards", &["*"], None, 3),
            caller("cards.example.org", &[], None, 4),
        ]));
        let spiffe = "spiffe://example.org/ns/cards/sa/cards";
        let allowed = |id, line| Ok(Leave::Entry { id, line });
        for (id, user, expected) in [
            (spiffe, user("m1", ONE), allowed(spiffe, 1)),
            (spiffe, user("m1", OTHER), Err(Denial::Number { id: spiffe, line: 1 })),
            (spiffe, user("m2", OTHER), allowed(spiffe, 2)),
            (spiffe, user("m3", ONE), Err(Denial::Merchant { id: spiffe, line: 1 })),
            ("system:serviceaccount:cards:cards", user("m9", ONE), allowed("system:serviceaccount:cards:cards", 3)),
            ("cards.example.org", user("m1", ONE), Err(Denial::Merchant { id: "cards.example.org", line: 4 })),
        ] {
            assert_eq!(listed.decide(&named(id), &user), expected, "{id}");
            assert!(listed.means(&named(id)), "whomever it asks for: {id}");
        }
        for id in [
            "spiffe://example.org/ns/cards/sa/card",
            "spiffe://example.org/ns/cards/sa/cards2",
            "spiffe://example.org/ns/cards/sa",
            "spiffe://example.com/ns/cards/sa/cards",
            "spiffe://example.org/ns/Cards/sa/cards",
            "system:serviceaccount:cards:card",
            "cards.example.com",
        ] {
            assert_eq!(listed.decide(&named(id), &user("m1", ONE)), Err(Denial::Unlisted), "{id}");
            assert!(!listed.means(&named(id)), "{id}");
        }
        assert_eq!(listed.decide(&CallerId::Anonymous, &user("m1", ONE)), Err(Denial::Unlisted));
        assert_eq!(Policy::Everyone.decide(&CallerId::Anonymous, &user("m1", ONE)), Ok(Leave::Everyone));
    }

    proptest! {
        /// Taking an entry away or naming fewer never lets more through.
        #[test]
        fn less_is_never_more(ids in prop::collection::vec(0..3usize, 0..5), merchants in prop::collection::vec(0..3usize, 0..5), asked in (0..3usize, 0..3usize)) {
            let names = ["a.example.org", "b.example.org", "*.example.org"];
            let all: Vec<_> = ids.iter().zip(&merchants).enumerate()
                .map(|(line, (id, merchant))| caller(names[*id], &[["m0", "m1", "m2"][*merchant]], None, line)).collect();
            let may = |callers: &[config::CallerConfig]| {
                let policy = Policy::Listed(Listed::new(callers));
                policy.decide(&named(["a.example.org", "b.example.org", "c.example.org"][asked.0]), &user(["m0", "m1", "m2"][asked.1], ONE)).is_ok()
            };
            for end in 0..all.len() {
                prop_assert!(!may(&all[..end]) || may(&all), "{all:?}");
            }
            prop_assert!(!may(&[]));
        }
    }
}
