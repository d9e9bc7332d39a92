//! Users who stand in two files: which of the two is at fault, and which files fall back to their last good version for it.
//!
//! Must never let a user be served from two files, nor take anything from a file that took on nobody.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
};

use super::{
    credentials::{CredentialsFile, Place},
    faults::Fault,
};
use crate::user::UserKey;

/// What is to serve of a file, and what served before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Versions<'f> {
    pub(super) serving: Option<&'f CredentialsFile>,
    pub(super) good: Option<&'f CredentialsFile>,
    /// Whether the good one can take its place: not that of the main file, nor of one that serves it already.
    pub(super) may_fall_back: bool,
}

/// The fault of a file, by its index.
pub(super) type AtFault = (usize, Fault);

/// Who has each user, and the faults of the others that have one too: of two the one that is new, of two new ones the later.
fn claims<'f>(
    files: impl Iterator<Item = Option<&'f CredentialsFile>>,
    is_new: impl Fn(usize, &UserKey) -> bool,
) -> (HashMap<&'f UserKey, Place<'f>>, Vec<AtFault>) {
    let (mut holders, mut at_fault) = (HashMap::new(), Vec::new());
    for (key, later) in files.enumerate().flat_map(|(index, file)| file.into_iter().flat_map(move |file| file.places(index))) {
        match holders.entry(key) {
            Entry::Vacant(free) => drop(free.insert(later)),
            Entry::Occupied(mut holder) => {
                let mut loser = later;
                if is_new(holder.get().index, key) && !is_new(later.index, key) {
                    loser = holder.insert(later);
                }
                at_fault.push((loser.index, loser.is_taken(key, holder.get())));
            }
        }
    }
    (holders, at_fault)
}

/// The faults of files that stand beside each other for the first time: of two that have a user, the later one's.
pub(super) fn of_new<'f>(files: impl Iterator<Item = Option<&'f CredentialsFile>>) -> Vec<AtFault> {
    claims(files, |_, _| true).1
}

/// Which files must fall back, each with its faults.
///
/// Each user is looked at once, and once more when their file falls back: whoever took them on meanwhile falls back too.
///
/// # Errors
/// What is at fault where a file would have to fall back that can't.
pub(super) fn fall_back(files: &[Versions<'_>]) -> Result<Vec<AtFault>, Vec<Fault>> {
    let good = |index: usize| files.get(index).and_then(|file| file.good);
    let had: Vec<OnceCell<HashSet<&UserKey>>> = files.iter().map(|_| OnceCell::new()).collect();
    let is_new = |index: usize, key: &UserKey| {
        let had = had.get(index).map(|had| had.get_or_init(|| good(index).map(CredentialsFile::keys).unwrap_or_default()));
        had.is_none_or(|had| !had.contains(key))
    };
    let (holders, mut at_fault) = claims(files.iter().map(|file| file.serving), is_new);
    let (mut fallen, mut all) = (HashSet::<usize>::new(), Vec::new());
    while !at_fault.is_empty() {
        let may = |index: usize| files.get(index).is_some_and(|file| file.may_fall_back);
        let stuck: Vec<Fault> = at_fault.iter().filter(|(index, _)| !may(*index)).map(|(_, fault)| fault.clone()).collect();
        if !stuck.is_empty() {
            return Err(stuck);
        }
        let falling: BTreeSet<usize> = at_fault.iter().map(|(index, _)| *index).collect();
        fallen.extend(&falling);
        all.append(&mut at_fault);
        let back = falling.into_iter().flat_map(|index| good(index).into_iter().flat_map(move |file| file.places(index)));
        at_fault = back
            .filter_map(|(key, place)| {
                let holder = holders.get(key).filter(|holder| !fallen.contains(&holder.index))?;
                Some((holder.index, holder.is_taken(key, &place)))
            })
            .collect();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disjoint(sets: &[u8]) -> bool {
        let all = sets.iter().fold(0, |all, set| all | set);
        all.count_ones() == sets.iter().map(|set| set.count_ones()).sum::<u32>()
    }

    /// The main file and two others, three users, every version before and after, the last one at fault or not.
    #[test]
    fn no_user_is_served_twice_and_who_took_on_nobody_stays() {
        let of_bits = |bits: u8| CredentialsFile::of_digits((0..3).filter(|user| bits & (1 << user) != 0));
        let all: Vec<CredentialsFile> = (0..8).map(of_bits).collect();
        let versions = |before: u8, now: u8, may_fall_back| Versions {
            serving: all.get(usize::from(now)),
            good: all.get(usize::from(before)),
            may_fall_back,
        };
        let sets = || (0..8).flat_map(|a| (0..8).flat_map(move |b| (0..8).map(move |c| [a, b, c])));
        for before in sets().filter(|before| disjoint(before)) {
            for now in sets() {
                for faulty in [false, true] {
                    let now = if faulty { [now[0], now[1], before[2]] } else { now };
                    let files = [
                        versions(before[0], now[0], false),
                        versions(before[1], now[1], true),
                        versions(before[2], now[2], !faulty),
                    ];
                    check(&files, before, now);
                }
            }
        }
    }

    fn check(files: &[Versions<'_>], before: [u8; 3], now: [u8; 3]) {
        let took_on = |index: usize| now[index] & !before[index];
        let said = format!("{before:?} {now:?}");
        match fall_back(files) {
            Ok(at_fault) => {
                let fallen: BTreeSet<usize> = at_fault.iter().map(|(index, _)| *index).collect();
                let served: Vec<u8> =
                    (0..3).map(|index| if fallen.contains(&index) { before[index] } else { now[index] }).collect();
                assert!(disjoint(&served), "{said}");
                for index in fallen {
                    let others = (0..3).filter(|other| *other != index).fold(0, |all, other| all | before[other] | now[other]);
                    assert_ne!(took_on(index) & others, 0, "{said}: {index}");
                }
            }
            Err(_) => {
                assert!(took_on(0) & (before[1] | before[2]) != 0, "{said}: only the main file has nothing to fall back to")
            }
        }
    }
}
