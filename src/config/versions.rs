//! Which version of each file serves after a change: the new one, or the last good one.
//!
//! Must never mix two versions of the main file, nor let a user be served from two files.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use super::{
    conflicts::{self, Versions},
    credentials::CredentialsFile,
    faults::{Fault, Faults, Report},
    file_set::{FileSet, UsersFile},
    last_good::LastGood,
    main_file::Main,
    partial_writes::{self, Withheld},
    patterns::{self, Matched, Named},
    values::{Config, Kept},
};

/// What was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) good: LastGood,
    pub(super) config: Config,
    pub(super) warnings: Vec<Fault>,
    pub(super) kept: Vec<Kept>,
}

/// Takes everything that was read, or nothing.
pub(super) fn all(read: &FileSet) -> Result<Chosen, Faults> {
    let mut head = head(read);
    for matched in &read.matched {
        if let Err(why) = &matched.files {
            head.push(pattern_fault(read, matched, why));
        }
        matched.missed.iter().for_each(|missed| head.push(pattern_fault(read, matched, missed.why)));
    }
    let mut reports: Vec<Report> = std::iter::once(head).chain(read.files.iter().map(|file| file.report.clone())).collect();
    let tables = tables(read.main.value.as_ref(), read.files.iter().map(Some));
    for (index, fault) in conflicts::of_new(tables.iter().copied()) {
        if let Some(report) = reports.get_mut(index) {
            report.push(fault);
        }
    }
    let (config, warnings) = verdict(read, reports, &tables)?;
    Ok(Chosen { good: LastGood::of(read, read.files.clone(), None), config, warnings, kept: Vec::new() })
}

/// Takes the main file, and of each credentials file what was read if that is in order, else the version that is in `good`.
///
/// A user who is configured twice is the fault of the file that took it on since then; of the later one if both did. That
/// file's last good version stays too, and where this brings up another such user, the same rule decides again. Where the main
/// file is at fault, nothing is taken.
pub(super) fn file_by_file(good: &LastGood, mut read: FileSet, withheld: &Withheld) -> Result<Chosen, Faults> {
    // Files without users may go as they like.
    let has_users = |file: &&Arc<UsersFile>| file.value.as_ref().is_some_and(|file| file.len() > 0);
    let with_users: HashSet<&Path> = good.files().iter().filter(has_users).map(|file| file.path()).collect();
    patterns::miss(&mut read.matched, |pattern| {
        let named = good.named(pattern).unwrap_or_default().into_iter();
        named.filter(|named| with_users.contains(&*named.path)).collect()
    });
    let read = &read;
    let strict = match all(read) {
        Ok(chosen) if withheld.files.is_empty() => return Ok(chosen),
        strict => strict.err(),
    };
    let refused = |more: Vec<Fault>| match &strict {
        Some(strict) => strict.clone().and(more),
        None => Faults::of(more),
    };
    let Some(main) = read.main.value.as_ref().filter(|_| !read.main.report.is_faulty()) else {
        return Err(refused(Vec::new()));
    };
    let Some(mut candidates) = candidates(good, read, withheld) else { return Err(refused(Vec::new())) };
    let at_fault = conflicts::fall_back(&versions(main, good, &candidates)).map_err(refused)?;
    for (index, fault) in at_fault {
        if let Some(candidate) = index.checked_sub(1).and_then(|index| candidates.get_mut(index)) {
            candidate.faults.push(fault);
        }
    }
    let files: Vec<Arc<UsersFile>> = candidates.iter().filter_map(Candidate::serving).cloned().collect();
    let reports = std::iter::once(head(read)).chain(files.iter().map(|file| file.report.clone())).collect();
    let (config, mut warnings) = verdict(read, reports, &tables(Some(main), files.iter().map(Some)))?;
    warnings.extend(candidates.iter().filter_map(Candidate::warning));
    let kept = candidates.into_iter().filter_map(Candidate::kept).collect();
    Ok(Chosen { good: LastGood::of(read, files, Some(good)), config, warnings, kept })
}

/// The report on the main file; of its patterns, only what they warn of.
fn head(read: &FileSet) -> Report {
    const NOTHING: &str = "matches no file: mend the pattern, which is relative to this file, or remove it";
    let mut report = read.main.report.clone();
    for matched in read.matched.iter().filter(|matched| matched.is_empty()) {
        report.push_warning(pattern_fault(read, matched, NOTHING));
    }
    let trail = read.main.value.as_ref().and_then(|main| main.trail.as_ref());
    let named = read.main.with_named().chain(read.files.iter().flat_map(|file| file.with_named()));
    let will_be_read = |path: &Path| read.matched.iter().any(|matched| matched.pattern.would_name(read.main.path(), path));
    let conflict = trail.and_then(|trail| trail.conflict(read.main.path(), named, will_be_read));
    conflict.into_iter().for_each(|fault| report.push(fault));
    report
}

fn pattern_fault(read: &FileSet, matched: &Matched, message: &str) -> Fault {
    Fault {
        file: Arc::from(read.main.path()),
        line: matched.pattern.line,
        key: "credentials_files".to_owned(),
        message: message.to_owned(),
    }
}

/// The users file by file: the main file's first.
fn tables<'r>(
    main: Option<&'r Main>,
    files: impl Iterator<Item = Option<&'r Arc<UsersFile>>>,
) -> Vec<Option<&'r CredentialsFile>> {
    let files = files.map(|file| file.and_then(|file| file.value.as_ref()));
    std::iter::once(main.map(|main| &main.users)).chain(files).collect()
}

/// Every fault, the main file's report being the first; the configuration and the warnings if there is none.
fn verdict(read: &FileSet, reports: Vec<Report>, tables: &[Option<&CredentialsFile>]) -> Result<(Config, Vec<Fault>), Faults> {
    const NO_USERS: &str = "are missing: every request will be answered with NOT_FOUND: add [[users]]";
    let mut report = Report::default();
    let users = tables.iter().flatten().map(|table| table.len()).sum();
    if read.main.value.is_some() && users == 0 {
        let (file, key) = (Arc::from(read.main.path()), "users".to_owned());
        report.push_warning(Fault { file, line: None, key, message: NO_USERS.to_owned() });
    }
    reports.into_iter().for_each(|next| report.append(next));
    let whole = if report.is_faulty() { None } else { read.main.value.as_ref().and_then(|main| main.config.clone()) };
    let whole = whole.map(|mut config| {
        config.users.reserve_exact(users);
        tables.iter().flatten().for_each(|table| config.users.extend(table.users()));
        config
    });
    report.verdict(read.main.path(), whole)
}

/// A credentials file that is named now, and what may serve of it.
struct Candidate<'r> {
    path: Arc<Path>,
    read: Option<&'r Arc<UsersFile>>,
    good: Option<&'r Arc<UsersFile>>,
    /// Why what was read doesn't serve, if so.
    faults: Report,
    /// How much of the last good version it lacks, where that isn't believed yet.
    withheld: Option<usize>,
}

impl<'r> Candidate<'r> {
    fn serving(&self) -> Option<&'r Arc<UsersFile>> {
        if self.keeps() { self.good } else { self.read }
    }

    /// Whether the last good version serves.
    fn keeps(&self) -> bool {
        self.faults.is_faulty() || self.withheld.is_some()
    }

    fn warning(&self) -> Option<Fault> {
        self.read.zip(self.withheld).map(|(file, lost)| partial_writes::warning(file, lost))
    }

    fn kept(self) -> Option<Kept> {
        let users = self.good.map(|file| file.value.as_ref().map_or(0, CredentialsFile::len));
        self.faults.verdict(&self.path, Some(())).err().map(|faults| Kept { file: self.path, users, faults })
    }
}

/// The files to choose among; none where the main file is at fault, since it names what isn't there and never was.
fn candidates<'r>(good: &'r LastGood, read: &'r FileSet, withheld: &Withheld) -> Option<Vec<Candidate<'r>>> {
    let by_path: HashMap<&Path, &Arc<UsersFile>> = good.files().iter().map(|file| (file.path(), file)).collect();
    let mut seen: HashSet<Arc<Path>> = read.files.iter().map(|file| Arc::from(file.path())).collect();
    let (mut found, mut files_read) = (Vec::new(), read.files.iter());
    let fault = |matched: &Matched, why: &str| Report::of_fault(pattern_fault(read, matched, why));
    // Named once too, and only where it isn't there.
    let mut absent = |named: Named, why: &str, matched: &Matched| {
        let path: Arc<Path> = Arc::from(named.path);
        let good = by_path.get(&*path).copied();
        seen.insert(Arc::clone(&path)).then(|| Candidate { path, read: None, good, faults: fault(matched, why), withheld: None })
    };
    for matched in &read.matched {
        match &matched.files {
            Ok(files) => found.extend(files_read.by_ref().take(files.len()).map(|file| Candidate {
                path: Arc::from(file.path()),
                read: Some(file),
                good: by_path.get(file.path()).copied(),
                faults: if file.report.is_faulty() { file.report.clone() } else { Report::default() },
                withheld: withheld.files.get(file.path()).copied(),
            })),
            Err(why) => {
                let named = good.named(&matched.pattern)?;
                if named.is_empty() {
                    let (path, faults) = (Arc::from(Path::new(&matched.pattern.text)), fault(matched, why));
                    found.push(Candidate { path, read: None, good: None, faults, withheld: None });
                }
                found.extend(named.into_iter().filter_map(|named| absent(named, why, matched)));
            }
        }
        found.extend(matched.missed.iter().filter_map(|missed| absent(missed.named.clone(), missed.why, matched)));
    }
    Some(found)
}

/// What may serve of the main file, and of each candidate.
fn versions<'r>(main: &'r Main, good: &'r LastGood, candidates: &[Candidate<'r>]) -> Vec<Versions<'r>> {
    let file = |file: Option<&'r Arc<UsersFile>>| file.and_then(|file| file.value.as_ref());
    let before = good.main().value.as_ref().map(|main| &main.users);
    let main = Versions { serving: Some(&main.users), good: before, may_fall_back: false };
    let of = |candidate: &Candidate<'r>| Versions {
        serving: file(candidate.serving()),
        good: file(candidate.good),
        may_fall_back: !candidate.keeps(),
    };
    std::iter::once(main).chain(candidates.iter().map(of)).collect()
}
