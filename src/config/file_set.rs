//! Reads the main file and every file it names, without reading again what is known already, until all of it stood still.
//!
//! Must never hand out a file that changed while it was read as if it were whole.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use toml::de::DeTable;

use super::{
    credentials::CredentialsFile,
    faults::{Fault, Report},
    findings::Findings,
    fingerprint::{Fingerprint, Seen},
    main_file::{self, Main},
    patterns::{self, Matched},
    reader,
    source::Source,
};

/// How often files that change meanwhile are read: whoever writes in place is done within a few reads, or is still at it when
/// the next poll comes.
const TRIES: u32 = 5;
/// How long a writer is given before the next try: many times what it takes to write a file, and with all tries still short.
const PAUSE: Duration = Duration::from_millis(40);

/// One file as it was read.
#[derive(Debug)]
pub(super) struct ReadFile<T> {
    /// The path as it was named, and what stood there just before it was read.
    own: Seen,
    /// The same of the files that it names, each once.
    beside: Vec<Seen>,
    /// Those that it names and that are read when they are needed.
    elsewhere: Vec<PathBuf>,
    /// What it holds, as far as it is whole; none where its text can't be had.
    pub(super) value: Option<T>,
    pub(super) report: Report,
}

impl<T> ReadFile<T> {
    fn read(own: Seen, remedy: &str, collect: impl FnOnce(&Findings<'_>, DeTable<'_>) -> T) -> Self {
        let source = match Source::open(&own.path, remedy) {
            Ok(source) => source,
            Err(report) => return Self { own, beside: Vec::new(), elsewhere: Vec::new(), value: None, report },
        };
        let (value, report) = match reader::parse(&source) {
            Ok(table) => {
                let findings = Findings::new(&source);
                let value = collect(&findings, table);
                (Some(value), findings.into_report())
            }
            Err(report) => (None, report),
        };
        let (mut beside, elsewhere) = source.into_named();
        beside.sort_by(|one, other| one.path.cmp(&other.path));
        beside.dedup_by(|later, earlier| later.path == earlier.path);
        Self { own, beside, elsewhere, value, report }
    }

    /// The path as it was named.
    pub(super) fn path(&self) -> &Path {
        &self.own.path
    }

    /// It and all that it names, as far as that was looked at: paths, and what stood there.
    pub(super) fn with_named(&self) -> impl Iterator<Item = (&Path, Option<Fingerprint>)> {
        let seen = std::iter::once(&self.own).chain(&self.beside);
        let elsewhere = self.elsewhere.iter().map(|path| (path.as_path(), None));
        seen.map(|seen| (seen.path.as_path(), Some(seen.fingerprint))).chain(elsewhere)
    }

    /// What stood there just before it was read.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.own.fingerprint
    }

    /// Whether `later` is the same file, written to since then.
    pub(super) fn was_written_to(&self, later: &Self) -> bool {
        self.own.fingerprint.was_written_to(&later.own.fingerprint)
    }

    /// Whether the file and those it names are still what was read.
    fn is_current(&self) -> bool {
        self.own.is_current() && self.beside.iter().all(Seen::is_current)
    }

    /// The fault of a file that never stood still.
    fn unsettled(&self) -> Fault {
        let message = "changes while it is read, or a file that it names does: write the new version to another file, and rename \
                       that to this one's name";
        Fault { file: Arc::from(self.path()), line: None, key: String::new(), message: message.to_owned() }
    }
}

/// The main file.
pub(super) type MainFile = ReadFile<Main>;
/// One of `credentials_files`.
pub(super) type UsersFile = ReadFile<CredentialsFile>;

/// What need not be read again as long as it is current.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) main: Option<Arc<MainFile>>,
    pub(super) files: Vec<Arc<UsersFile>>,
}

/// Everything as it was read once.
#[derive(Debug)]
pub(super) struct FileSet {
    pub(super) main: Arc<MainFile>,
    pub(super) matched: Vec<Matched>,
    /// The files of all that matched, in that order.
    pub(super) files: Vec<Arc<UsersFile>>,
    /// How the main file looked, and the files that it names; what was read of them may be older.
    looks: (Seen, Vec<Seen>),
}

impl FileSet {
    /// Reads the main file at `path` and what it names; gives how it all looked from outside, for [`Fingerprints::again`].
    pub(super) fn take(path: &Path, known: Known) -> (Self, Fingerprints) {
        Self::until_still(known, |known| Self::once(path, known))
    }

    /// The same with a main file that was read before, whatever stands in its place now.
    pub(super) fn take_under(main: &Arc<MainFile>, known: Known) -> (Self, Fingerprints) {
        Self::until_still(known, |known| {
            let beside = main.beside.iter().map(|seen| Seen::at(seen.path.clone())).collect();
            Self::under(Arc::clone(main), (Seen::at(main.own.path.clone()), beside), known)
        })
    }

    /// Reads until nothing changes meanwhile; what still does after the last try isn't taken.
    fn until_still(mut known: Known, mut once: impl FnMut(&Known) -> Self) -> (Self, Fingerprints) {
        for _ in 1..TRIES {
            let read = once(&known);
            let seen = Fingerprints::of(&read);
            if seen == seen.again() {
                return (read, seen);
            }
            known = read.into_known();
            thread::sleep(PAUSE);
        }
        let mut read = once(&known);
        let seen = Fingerprints::of(&read);
        read.tell_unsettled();
        (read, seen)
    }

    fn once(path: &Path, known: &Known) -> Self {
        let main = known.main.as_ref().filter(|main| main.is_current()).map_or_else(|| Arc::new(read_main(path)), Arc::clone);
        let looks = (main.own.clone(), main.beside.clone());
        Self::under(main, looks, known)
    }

    fn under(main: Arc<MainFile>, looks: (Seen, Vec<Seen>), known: &Known) -> Self {
        let patterns = main.value.iter().flat_map(|main| main.patterns.iter().cloned());
        let matched = patterns::expand(patterns, &looks.0);
        let known: HashMap<&Path, &Arc<UsersFile>> = known.files.iter().map(|part| (part.path(), part)).collect();
        let files = matched.iter().flat_map(|matched| matched.files.iter().flatten()).map(|file| {
            let known = known.get(file.path.as_path()).filter(|part| part.is_current());
            known.map_or_else(|| Arc::new(read_users(&file.path)), |part| Arc::clone(part))
        });
        let files = files.collect();
        Self { main, matched, files, looks }
    }

    /// What need not be read again.
    pub(super) fn into_known(self) -> Known {
        Known { main: Some(self.main), files: self.files }
    }

    /// Puts a fault in the place of what isn't current any more.
    fn tell_unsettled(&mut self) {
        // One that was read before is in order as it was.
        let read_now = self.main.own == self.looks.0 && self.main.beside == self.looks.1;
        if read_now && !self.main.is_current() {
            let ReadFile { own, beside, .. } = &*self.main;
            let report = Report::of_fault(self.main.unsettled());
            self.main =
                Arc::new(ReadFile { own: own.clone(), beside: beside.clone(), elsewhere: Vec::new(), value: None, report });
        }
        for file in self.files.iter_mut().filter(|file| !file.is_current()) {
            let ReadFile { own, beside, .. } = &**file;
            let report = Report::of_fault(file.unsettled());
            *file = Arc::new(ReadFile { own: own.clone(), beside: beside.clone(), elsewhere: Vec::new(), value: None, report });
        }
    }
}

fn read_main(path: &Path) -> MainFile {
    const REMEDY: &str = "name the configuration file with --config, and let this process read it";
    ReadFile::read(Seen::at(path.to_owned()), REMEDY, main_file::read)
}

fn read_users(path: &Path) -> UsersFile {
    const REMEDY: &str = "let this process read it, or take it out of credentials_files";
    ReadFile::read(Seen::at(path.to_owned()), REMEDY, CredentialsFile::read)
}

/// How every file of a configuration looks from outside. Two that are equal mean that nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    main: Seen,
    matched: Vec<Matched>,
    rest: Vec<Seen>,
}

impl Fingerprints {
    fn of(read: &FileSet) -> Self {
        let parts = read.files.iter().flat_map(|part| std::iter::once(&part.own).chain(&part.beside));
        let (main, beside) = &read.looks;
        let rest = beside.iter().chain(parts).cloned().collect();
        Self { main: main.clone(), matched: read.matched.clone(), rest }
    }

    /// Looks again. Reads no file, but asks the system about each, and lists the directories of the patterns: not for an async
    /// worker.
    #[must_use]
    pub fn again(&self) -> Self {
        let main = Seen::at(self.main.path.clone());
        let matched = patterns::expand(self.matched.iter().map(|matched| matched.pattern.clone()), &main);
        let rest = self.rest.iter().map(|seen| Seen::at(seen.path.clone())).collect();
        Self { main, matched, rest }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const MAIN: &str = "credentials_files = ['*.toml']\nvault.base_url = 'https://vault.example.org'\n";
    const FILES: [&str; 3] = ["a.toml", "b.toml", "main.toml"];

    fn directory() -> TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("main.toml"), MAIN).expect("a file");
        for name in ["a.toml", "b.toml"] {
            fs::write(directory.path().join(name), "users = []").expect("a file");
        }
        directory
    }

    /// Somebody writes to `name` during each of the first `writes` readings; gives how often it was read, and whose reports
    /// have a fault.
    fn read_while_written(name: &str, writes: u32) -> (u32, Vec<&str>) {
        let directory = directory();
        let (main, written) = (directory.path().join("main.toml"), directory.path().join(name));
        let mut readings = 0;
        let (read, _) = FileSet::until_still(Known::default(), |known| {
            let read = FileSet::once(&main, known);
            readings += 1;
            if readings <= writes {
                let text = fs::read_to_string(&written).expect("a file");
                fs::write(&written, format!("{text}# a line more")).expect("a file");
            }
            read
        });
        let reports = read.files.iter().map(|part| &part.report).chain([&read.main.report]);
        (readings, FILES.into_iter().zip(reports).filter_map(|(name, report)| report.is_faulty().then_some(name)).collect())
    }

    #[test]
    fn what_changes_while_it_is_read_is_read_again_and_never_taken_as_it_is() {
        for name in FILES {
            assert_eq!(read_while_written(name, 0), (1, vec![]));
            assert_eq!(read_while_written(name, 2), (3, vec![]));
            assert_eq!(read_while_written(name, u32::MAX), (TRIES, vec![name]));
        }
    }

    /// A user moves from b to a by a swap of both, between the reading of a and that of b.
    #[test]
    fn all_files_are_of_one_moment() {
        let directory = directory();
        let path = |name: &str| directory.path().join(name);
        let user = "users = [{ merchant_id = 'm', number = '+447871239999', password = 'p' }]";
        fs::write(path("b.toml"), user).expect("a file");
        let mut first = true;
        let (read, _) = FileSet::until_still(Known::default(), |known| {
            let mut read = FileSet::once(&path("main.toml"), known);
            if std::mem::take(&mut first) {
                fs::write(path("a.toml"), user).expect("a file");
                fs::write(path("b.toml"), "users = []").expect("a file");
                let after = FileSet::once(&path("main.toml"), known);
                read.files.truncate(1);
                read.files.extend(after.files.into_iter().skip(1));
            }
            read
        });
        let users: Vec<_> = read.files.iter().map(|part| part.value.as_ref().map_or(0, CredentialsFile::len)).collect();
        assert_eq!(users, [1, 0]);
    }
}
