//! Pure: may this caller ask for this user? Default deny. And if it may not: is that on trial, so that it is let in all the same?
//!
//! Must never depend on whether the user exists: a denial tells a caller nothing of who is configured. Names are compared exactly:
//! no prefix, no other case. What is on trial never changes what the entries say, only what comes of a denial.

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
    /// Whether nobody is refused: all of it is on trial.
    on_trial: bool,
}

#[derive(Debug)]
struct Entry {
    id: CallerPattern,
    /// None: every merchant.
    merchants: Option<HashSet<MerchantId>>,
    /// None: every number of those merchants.
    numbers: Option<HashSet<Number>>,
    trial: bool,
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

/// Why somebody is let in whom the policy denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial<'p> {
    /// All of it is on trial (`auth.enforce = false`): whoever it is.
    All,
    /// This entry means the caller, and is (`trial = true`).
    Entry {
        /// As it is configured.
        id: &'p str,
        /// From 1.
        line: usize,
    },
}

/// How much of a policy is on trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    /// All of it.
    pub all: bool,
    /// Entries that are by themselves.
    pub entries: usize,
}

impl Trials {
    /// Whether anything is.
    #[must_use]
    pub fn any(self) -> bool {
        self.all || self.entries > 0
    }
}

impl Policy {
    /// The policy of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        if config.asks() { Self::Listed(Listed::new(&config.callers, config.auth.enforce)) } else { Self::Everyone }
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

    /// Why a caller who was denied is let in all the same, if so. Entries add up here too: one on trial that means the caller is enough,
    /// whatever others say of it. Nobody in particular is meant by none.
    #[must_use]
    pub fn lets_in(&self, caller: &CallerId) -> Option<Trial<'_>> {
        let Self::Listed(listed) = self else { return None };
        if listed.on_trial {
            return Some(Trial::All);
        }
        let CallerId::Named(name) = caller else { return None };
        let entry = listed.entries_of(name).find(|entry| entry.trial)?;
        Some(Trial::Entry { id: entry.id.as_str(), line: entry.line })
    }

    /// Whether all of it is on trial, so that even who is not known is let in.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        match self {
            Self::Everyone => false,
            Self::Listed(listed) => listed.on_trial,
        }
    }

    /// How much of it is on trial.
    #[must_use]
    pub fn trials(&self) -> Trials {
        match self {
            Self::Everyone => Trials::default(),
            Self::Listed(Listed { on_trial, entries, .. }) => {
                Trials { all: *on_trial, entries: entries.iter().filter(|entry| entry.trial).count() }
            }
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
    fn new(callers: &[config::CallerConfig], enforce: bool) -> Self {
        let mut listed = Self { on_trial: !enforce, ..Self::default() };
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
                trial: caller.trial,
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
        config::CallerConfig { id, merchants, numbers: numbers.map(|some| some.iter().map(number).collect()), trial: false, line }
    }

    fn enforced(callers: &[config::CallerConfig]) -> Policy {
        Policy::Listed(Listed::new(callers, true))
    }

    fn named(id: &str) -> CallerId {
        CallerId::Named(CallerName::parse(id).expect(id))
    }

    const ONE: &str = "+447871239999";
    const OTHER: &str = "+447871230000";

    #[test]
    fn an_entry_gives_what_it_names_and_nothing_else_does() {
        let listed = enforced(&[
            caller("spiffe://example.org/ns/cards/sa/cards", &["m1"], Some(&[ONE]), 1),
            caller("spiffe://example.org/ns/cards/sa/cards", &["m2"], None, 2),
            caller("system:serviceaccount:cards:cards", &["*"], None, 3),
            caller("cards.example.org", &[], None, 4),
        ]);
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

    #[test]
    fn who_is_denied_is_let_in_where_all_is_on_trial_or_an_entry_that_means_it() {
        let on_trial = |id, merchants: &[&str], line| config::CallerConfig { trial: true, ..caller(id, merchants, None, line) };
        let (cards, ledger, other) = ("cards.example.org", "ledger.example.org", "other.example.net");
        // An exact entry that is enforced, and a wider one on trial: one that lets in is enough.
        let entries = [caller(cards, &["m1"], None, 1), on_trial("*.example.org", &["m2"], 2), caller(other, &["m1"], None, 3)];
        let policy = enforced(&entries);
        let by_the_second = Some(Trial::Entry { id: "*.example.org", line: 2 });
        for (name, trial) in [(cards, by_the_second), (ledger, by_the_second), (other, None), ("nobody.example.com", None)] {
            assert_eq!(policy.lets_in(&named(name)), trial, "{name}");
        }
        assert_eq!(policy.lets_in(&CallerId::Anonymous), None, "no entry means nobody in particular");
        assert_eq!((policy.trials(), enforced(&entries[..1]).trials().any()), (Trials { all: false, entries: 1 }, false));
        let all = Policy::Listed(Listed::new(&entries, false));
        assert!(all.is_on_trial() && !policy.is_on_trial() && !Policy::Everyone.is_on_trial());
        for caller in [CallerId::Anonymous, named(cards), named("nobody.example.com")] {
            assert_eq!(all.lets_in(&caller), Some(Trial::All), "{caller}");
        }
        assert_eq!(all.trials(), Trials { all: true, entries: 1 });
        // What the entries say is the same either way.
        for (name, merchant) in [(cards, "m1"), (cards, "m2"), (cards, "m3"), (other, "m2"), ("nobody.example.com", "m1")] {
            let key = user(merchant, ONE);
            assert_eq!(all.decide(&named(name), &key), policy.decide(&named(name), &key), "{name} {merchant}");
        }
        assert_eq!((Policy::Everyone.lets_in(&CallerId::Anonymous), Policy::Everyone.trials().any()), (None, false));
    }

    proptest! {
        /// Taking an entry away or naming fewer never lets more through.
        #[test]
        fn less_is_never_more(ids in prop::collection::vec(0..3usize, 0..5), merchants in prop::collection::vec(0..3usize, 0..5), asked in (0..3usize, 0..3usize)) {
            let names = ["a.example.org", "b.example.org", "*.example.org"];
            let all: Vec<_> = ids.iter().zip(&merchants).enumerate()
                .map(|(line, (id, merchant))| caller(names[*id], &[["m0", "m1", "m2"][*merchant]], None, line)).collect();
            let may = |callers: &[config::CallerConfig]| {
                let policy = enforced(callers);
                policy.decide(&named(["a.example.org", "b.example.org", "c.example.org"][asked.0]), &user(["m0", "m1", "m2"][asked.1], ONE)).is_ok()
            };
            for end in 0..all.len() {
                prop_assert!(!may(&all[..end]) || may(&all), "{all:?}");
            }
            prop_assert!(!may(&[]));
        }
    }
}
