//! Which version of each file serves after a change: the new one, or the last good one.
//!
//! Must never mix two versions of the main file, nor let a user be served from two files.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use super::{
    credentials::{self, CredentialsFile, Place},
    faults::{Fault, Faults, Report},
    half_written::{self, Doubted},
    main_file::Main,
    patterns::{self, Matched, Named, Pattern},
    reading::{Known, MainPart, Reading, UsersPart},
    values::{Config, Kept},
};
use crate::user::UserKey;

/// A set of files that is good as a whole.
#[derive(Debug)]
pub(super) struct Good {
    main: Arc<MainPart>,
    files: Vec<Arc<UsersPart>>,
    /// Which files each pattern named, those that another one had named already included.
    named: HashMap<String, Vec<Named>>,
}

/// What was chosen.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) good: Good,
    pub(super) config: Config,
    pub(super) warnings: Vec<Fault>,
    pub(super) kept: Vec<Kept>,
}

impl Good {
    /// What need not be read again.
    pub(super) fn known(&self) -> Known {
        Known { main: Some(Arc::clone(&self.main)), files: self.files.clone() }
    }

    pub(super) fn main(&self) -> &Arc<MainPart> {
        &self.main
    }

    pub(super) fn files(&self) -> &[Arc<UsersPart>] {
        &self.files
    }

    /// Whether `other` holds the very same files.
    pub(super) fn is(&self, other: &Self) -> bool {
        let same = self.files.iter().zip(&other.files).all(|(one, other)| Arc::ptr_eq(one, other));
        Arc::ptr_eq(&self.main, &other.main) && self.files.len() == other.files.len() && same
    }

    /// What a pattern named before; where it is new, what it would have named. None where nothing is known of it.
    fn named(&self, pattern: &Pattern) -> Option<Vec<Named>> {
        if let Some(named) = self.named.get(&pattern.text) {
            return Some(named.clone());
        }
        let mut would: Vec<Named> =
            self.named.values().flatten().filter(|named| pattern.would_name(self.main.path(), &named.path)).cloned().collect();
        would.sort_by(|one, other| one.path.cmp(&other.path));
        would.dedup_by(|later, earlier| later.path == earlier.path);
        (!would.is_empty()).then_some(would)
    }

    fn of(reading: &Reading, files: Vec<Arc<UsersPart>>, before: Option<&Self>) -> Self {
        let named = |matched: &Matched| {
            let mut named = match &matched.files {
                Ok(_) => matched.named.clone(),
                Err(_) => before.and_then(|good| good.named(&matched.pattern)).unwrap_or_default(),
            };
            named.extend(matched.missed.iter().map(|missed| missed.named.clone()));
            named
        };
        let named = reading.matched.iter().map(|matched| (matched.pattern.text.clone(), named(matched))).collect();
        Self { main: Arc::clone(&reading.main), files, named }
    }
}

/// Takes everything that was read, or nothing.
pub(super) fn all(reading: &Reading) -> Result<Choice, Faults> {
    let mut head = head(reading);
    for matched in &reading.matched {
        if let Err(why) = &matched.files {
            head.push(pattern_fault(reading, matched, why));
        }
        matched.missed.iter().for_each(|missed| head.push(pattern_fault(reading, matched, missed.why)));
    }
    let mut reports: Vec<Report> = std::iter::once(head).chain(reading.files.iter().map(|part| part.report.clone())).collect();
    let tables = tables(reading.main.value.as_ref(), reading.files.iter().map(Some));
    for clash in credentials::clashes(&tables) {
        if let Some(report) = reports.get_mut(clash.later.index) {
            report.push(clash.fault_of(clash.later));
        }
    }
    let (config, warnings) = verdict(reading, reports, &tables)?;
    Ok(Choice { good: Good::of(reading, reading.files.clone(), None), config, warnings, kept: Vec::new() })
}

/// Takes the main file, and of each credentials file what was read if that is in order, else the version that is in `good`.
///
/// A user who is configured twice is the fault of the file that took it on since then; of the later one if both did. That
/// file's last good version stays too, and where this brings up another such user, the same rule decides again. Where the main
/// file is at fault, nothing is taken.
pub(super) fn file_by_file(good: &Good, mut reading: Reading, doubted: &Doubted) -> Result<Choice, Faults> {
    // Files without users may go as they like.
    let has_users = |part: &&Arc<UsersPart>| part.value.as_ref().is_some_and(|file| file.len() > 0);
    let with_users: HashSet<&Path> = good.files.iter().filter(has_users).map(|part| part.path()).collect();
    patterns::miss(&mut reading.matched, |pattern| {
        let named = good.named(pattern).unwrap_or_default().into_iter();
        named.filter(|named| with_users.contains(&*named.path)).collect()
    });
    let reading = &reading;
    let strict = match all(reading) {
        Ok(choice) if doubted.files.is_empty() => return Ok(choice),
        strict => strict.err(),
    };
    let refused = |more: Vec<Fault>| match &strict {
        Some(strict) => strict.clone().and(more),
        None => Faults::of(more),
    };
    let Some(main) = reading.main.value.as_ref().filter(|_| !reading.main.report.is_faulty()) else {
        return Err(refused(Vec::new()));
    };
    let Some(mut candidates) = candidates(good, reading, doubted) else { return Err(refused(Vec::new())) };
    if let Err(more) = settle(&mut candidates, main, good) {
        return Err(refused(more));
    }
    let files: Vec<Arc<UsersPart>> = candidates.iter().filter_map(Candidate::serving).cloned().collect();
    let reports = std::iter::once(head(reading)).chain(files.iter().map(|part| part.report.clone())).collect();
    let (config, mut warnings) = verdict(reading, reports, &tables(Some(main), files.iter().map(Some)))?;
    warnings.extend(candidates.iter().filter_map(Candidate::doubt));
    let kept = candidates.into_iter().filter_map(Candidate::kept).collect();
    Ok(Choice { good: Good::of(reading, files, Some(good)), config, warnings, kept })
}

/// The report on the main file; of its patterns, only what they warn of.
fn head(reading: &Reading) -> Report {
    const NOTHING: &str = "matches no file: mend the pattern, which is relative to this file, or remove it";
    let mut report = reading.main.report.clone();
    for matched in reading.matched.iter().filter(|matched| matched.is_empty()) {
        report.push_warning(pattern_fault(reading, matched, NOTHING));
    }
    report
}

fn pattern_fault(reading: &Reading, matched: &Matched, message: &str) -> Fault {
    Fault {
        file: Arc::from(reading.main.path()),
        line: matched.pattern.line,
        key: "credentials_files".to_owned(),
        message: message.to_owned(),
    }
}

/// The users file by file: the main file's first.
fn tables<'r>(
    main: Option<&'r Main>,
    files: impl Iterator<Item = Option<&'r Arc<UsersPart>>>,
) -> Vec<Option<&'r CredentialsFile>> {
    let files = files.map(|part| part.and_then(|part| part.value.as_ref()));
    std::iter::once(main.map(|main| &main.users)).chain(files).collect()
}

/// Every fault, the main file's report being the first; the configuration and the warnings if there is none.
fn verdict(reading: &Reading, reports: Vec<Report>, tables: &[Option<&CredentialsFile>]) -> Result<(Config, Vec<Fault>), Faults> {
    const NO_USERS: &str = "are missing: every request will be answered with NOT_FOUND: add [[users]]";
    let mut report = Report::default();
    let users = tables.iter().flatten().map(|table| table.len()).sum();
    if reading.main.value.is_some() && users == 0 {
        let (file, key) = (Arc::from(reading.main.path()), "users".to_owned());
        report.push_warning(Fault { file, line: None, key, message: NO_USERS.to_owned() });
    }
    reports.into_iter().for_each(|next| report.append(next));
    let whole = if report.is_faulty() { None } else { reading.main.value.as_ref() };
    let whole = whole.and_then(|Main { grpc, admin, log, audit, traces, vault, auth, callers, .. }| {
        let mut all = Vec::with_capacity(users);
        tables.iter().flatten().for_each(|table| all.extend(table.users()));
        let (grpc, admin, log) = (grpc.clone(), admin.clone(), log.clone());
        let (audit, traces, auth, callers) = (audit.clone(), traces.clone(), auth.clone(), callers.clone());
        Some(Config { grpc, admin, log, audit, traces, vault: vault.clone()?, auth, callers, users: all })
    });
    report.verdict(reading.main.path(), whole)
}

/// A credentials file that is named now, and what may serve of it.
struct Candidate<'r> {
    path: Arc<Path>,
    read: Option<&'r Arc<UsersPart>>,
    good: Option<&'r Arc<UsersPart>>,
    /// Why what was read doesn't serve, if so.
    faults: Report,
    /// How much of the last good version it lacks, where that isn't believed yet.
    doubted: Option<usize>,
}

impl<'r> Candidate<'r> {
    fn serving(&self) -> Option<&'r Arc<UsersPart>> {
        if self.keeps() { self.good } else { self.read }
    }

    /// Whether the last good version serves.
    fn keeps(&self) -> bool {
        self.faults.is_faulty() || self.doubted.is_some()
    }

    fn doubt(&self) -> Option<Fault> {
        self.read.zip(self.doubted).map(|(part, lost)| half_written::warning(part, lost))
    }

    fn kept(self) -> Option<Kept> {
        let users = self.good.map(|part| part.value.as_ref().map_or(0, CredentialsFile::len));
        self.faults.verdict(&self.path, Some(())).err().map(|faults| Kept { file: self.path, users, faults })
    }
}

/// The files to choose among; none where the main file is at fault, since it names what isn't there and never was.
fn candidates<'r>(good: &'r Good, reading: &'r Reading, doubted: &Doubted) -> Option<Vec<Candidate<'r>>> {
    let by_path: HashMap<&Path, &Arc<UsersPart>> = good.files.iter().map(|part| (part.path(), part)).collect();
    let mut seen: HashSet<Arc<Path>> = reading.files.iter().map(|part| Arc::from(part.path())).collect();
    let (mut found, mut read) = (Vec::new(), reading.files.iter());
    let fault = |matched: &Matched, why: &str| Report::of_fault(pattern_fault(reading, matched, why));
    // Named once too, and only where it isn't there.
    let mut absent = |named: Named, why: &str, matched: &Matched| {
        let path: Arc<Path> = Arc::from(named.path);
        let good = by_path.get(&*path).copied();
        seen.insert(Arc::clone(&path)).then(|| Candidate { path, read: None, good, faults: fault(matched, why), doubted: None })
    };
    for matched in &reading.matched {
        match &matched.files {
            Ok(files) => found.extend(read.by_ref().take(files.len()).map(|part| Candidate {
                path: Arc::from(part.path()),
                read: Some(part),
                good: by_path.get(part.path()).copied(),
                faults: if part.report.is_faulty() { part.report.clone() } else { Report::default() },
                doubted: doubted.files.get(part.path()).copied(),
            })),
            Err(why) => {
                let named = good.named(&matched.pattern)?;
                if named.is_empty() {
                    let (path, faults) = (Arc::from(Path::new(&matched.pattern.text)), fault(matched, why));
                    found.push(Candidate { path, read: None, good: None, faults, doubted: None });
                }
                found.extend(named.into_iter().filter_map(|named| absent(named, why, matched)));
            }
        }
        found.extend(matched.missed.iter().filter_map(|missed| absent(missed.named.clone(), missed.why, matched)));
    }
    Some(found)
}

/// Takes files back until no user stands in two.
///
/// # Errors
/// What is at fault where that can't be mended so.
fn settle(candidates: &mut [Candidate<'_>], main: &Main, good: &Good) -> Result<(), Vec<Fault>> {
    let before = good.main.value.as_ref().map(|main| main.users.keys()).unwrap_or_default();
    // Whose users a file had, found when it is first asked for.
    let mut had: HashMap<usize, HashSet<&UserKey>> = HashMap::new();
    loop {
        let tables = tables(Some(main), candidates.iter().map(Candidate::serving));
        let clashes = credentials::clashes(&tables);
        if clashes.is_empty() {
            return Ok(());
        }
        let mut at_fault = Vec::with_capacity(clashes.len());
        for clash in &clashes {
            let mut is_new = |place: Place<'_>| match place.index.checked_sub(1) {
                None => !before.contains(clash.key),
                Some(index) => candidates.get(index).is_some_and(|candidate| {
                    let had = had.entry(index).or_insert_with(|| {
                        candidate.good.and_then(|part| part.value.as_ref()).map(CredentialsFile::keys).unwrap_or_default()
                    });
                    !candidate.keeps() && !had.contains(clash.key)
                }),
            };
            let place = if !is_new(clash.later) && is_new(clash.earlier) { clash.earlier } else { clash.later };
            at_fault.push((place.index, clash.fault_of(place)));
        }
        let beyond = |(index, fault): &(usize, Fault)| {
            let candidate = index.checked_sub(1).and_then(|index| candidates.get(index));
            candidate.is_none_or(|candidate| candidate.keeps()).then(|| fault.clone())
        };
        let more: Vec<Fault> = at_fault.iter().filter_map(beyond).collect();
        if !more.is_empty() {
            return Err(more);
        }
        for (index, fault) in at_fault {
            if let Some(candidate) = index.checked_sub(1).and_then(|index| candidates.get_mut(index)) {
                candidate.faults.push(fault);
            }
        }
    }
}
