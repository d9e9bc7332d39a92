//! Places of which there are so many, such as those of calls that wait, shared out by caller: a caller may take another place while it
//! holds less than four times what is free.
//!
//! Must never let one caller leave none to the next, keep those who want more than there is from coming to the same share, nor remember a
//! caller that holds none. Callers who are asked for no name, and renewals, are not told apart: they may take whatever is free.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::caller::{CallerId, CallerName};

/// A caller may hold up to so many times what is left free. Alone that is four fifths of all; those who want more than there is come to
/// shares of a size, and whatever they do, a part is left for the next: a fifth beside one, a ninth beside two.
const TIMES_FREE: usize = 4;

/// So many places.
pub struct Shares {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// What those hold who hold any.
    by_caller: HashMap<CallerName, usize>,
}

/// Why a call is turned away though the vault may be well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shed {
    /// All places are taken.
    Full,
    /// What is free is for other callers.
    Share,
    /// The caller has begun as many sign-ins as it may in a minute.
    Rate,
}

impl Shed {
    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Share => "share",
            Self::Rate => "rate",
        }
    }
}

/// A place that somebody holds; free again when dropped.
#[derive(Debug)]
pub struct Place {
    shares: Arc<Shares>,
    caller: Option<CallerName>,
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("most", &self.most).field("taken", &self.taken()).finish()
    }
}

impl Shares {
    /// So many places, all free.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Takes a place for a caller; none: for nobody in particular.
    ///
    /// # Errors
    /// Why there is none for it.
    pub fn take(self: &Arc<Self>, caller: Option<&CallerId>) -> Result<Place, Shed> {
        let caller = caller.and_then(CallerId::name);
        let mut taken = self.lock();
        let free = self.most.saturating_sub(taken.all);
        if free == 0 {
            return Err(Shed::Full);
        }
        if let Some(name) = caller {
            let held = taken.by_caller.get(name).copied().unwrap_or_default();
            if !may_take(held, free) {
                return Err(Shed::Share);
            }
            taken.by_caller.insert(name.clone(), held + 1);
        }
        taken.all += 1;
        Ok(Place { shares: Arc::clone(self), caller: caller.cloned() })
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        taken.all -= 1;
        let Some(name) = &self.caller else { return };
        if let Some(held) = taken.by_caller.get_mut(name) {
            *held -= 1;
            if *held == 0 {
                taken.by_caller.remove(name);
            }
        }
    }
}

/// The rule.
fn may_take(held: usize, free: usize) -> bool {
    held < free.saturating_mul(TIMES_FREE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(n: usize) -> CallerId {
        CallerId::Named(crate::caller::CallerName::parse(&format!("c{n}.example.org")).expect("is a name"))
    }

    /// Takes as many as it gets.
    fn all_it_gets(shares: &Arc<Shares>, caller: Option<&CallerId>) -> Vec<Place> {
        std::iter::from_fn(|| shares.take(caller).ok()).collect()
    }

    #[test]
    fn one_alone_gets_four_fifths_and_who_is_nobody_in_particular_gets_all() {
        let shares = Shares::new(1_000);
        let places = all_it_gets(&shares, Some(&named(0)));
        assert_eq!((places.len(), shares.take(Some(&named(0))).err()), (800, Some(Shed::Share)));
        let others = all_it_gets(&shares, Some(&CallerId::Anonymous));
        assert_eq!((others.len(), shares.take(Some(&named(1))).err()), (200, Some(Shed::Full)));
        drop((places, others));
        assert_eq!(all_it_gets(&shares, None).len(), 1_000);
        assert_eq!((shares.taken(), shares.lock().by_caller.len()), (0, 0));
    }

    #[test]
    fn those_who_want_more_than_there_is_come_to_equal_shares_as_places_are_given_back() {
        let shares = Shares::new(1_000);
        let callers = [named(0), named(1), named(2)];
        let mut held: Vec<_> = callers.iter().map(|caller| all_it_gets(&shares, Some(caller))).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [800, 160, 32], "who comes later gets less at first");
        for _ in 0..1_000 {
            // Each place is given back at some time, and whoever wants one asks again.
            held.iter_mut().for_each(|places| places.truncate(places.len() - places.len() / 50 - 1));
            while held
                .iter_mut()
                .zip(&callers)
                .any(|(places, caller)| shares.take(Some(caller)).map(|place| places.push(place)).is_ok())
            {}
        }
        let counts: Vec<_> = held.iter().map(Vec::len).collect();
        assert!(counts.iter().all(|count| (270..=345).contains(count)), "{counts:?}");
    }

    proptest! {
        /// Whatever callers take and give back: there are never more than all, no caller ever holds more than four fifths, a caller that
        /// holds none always gets one beside one other, and nothing is kept of those who hold none.
        #[test]
        fn no_caller_leaves_another_without(most in 10..200usize, steps in prop::collection::vec((0..5usize, any::<bool>()), 0..600)) {
            let shares = Shares::new(most);
            let mut held: Vec<Vec<Place>> = (0..5).map(|_| Vec::new()).collect();
            for (who, takes) in steps {
                if takes {
                    let (before, free) = (held[who].len(), most - shares.taken());
                    match shares.take(Some(&named(who))) {
                        Ok(place) => {
                            prop_assert!(before < TIMES_FREE * free);
                            held[who].push(place);
                        }
                        Err(Shed::Full) => prop_assert_eq!(free, 0),
                        Err(shed) => prop_assert!(shed == Shed::Share && before >= TIMES_FREE * free && before > 0),
                    }
                } else {
                    held[who].pop();
                }
                let counts: Vec<_> = held.iter().map(Vec::len).collect();
                prop_assert_eq!(counts.iter().sum::<usize>(), shares.taken());
                prop_assert!(shares.taken() <= most);
                prop_assert!(counts.iter().all(|count| 5 * count <= 4 * most + 5), "{:?} of {}", counts, most);
                let holders = counts.iter().filter(|count| **count > 0).count();
                prop_assert_eq!(shares.lock().by_caller.len(), holders);
                if holders == 1 {
                    prop_assert!(shares.take(Some(&named(9))).is_ok(), "{:?} of {}", counts, most);
                }
            }
            drop(held);
            prop_assert_eq!((shares.taken(), shares.lock().by_caller.len()), (0, 0));
        }
    }
}
