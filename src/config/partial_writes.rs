//! New versions of files from which users are missing: believed at once where the file was replaced as a whole, and where it was
//! written to only once it has stood still for long.
//!
//! Must never take the first half of a file for all of it while somebody may still be writing.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    credentials::CredentialsFile,
    faults::Fault,
    file_set::{FileSet, ReadFile},
    fingerprint::Fingerprint,
    last_good::LastGood,
    main_file::Main,
    values::CallerConfig,
};
use crate::user::UserKey;

/// How long a file that was written in place must have stood still before what it lost is believed: longer than a program that
/// writes it in parts pauses between two of them. A removal can wait so long; who can't wait replaces the file by a rename.
pub(super) const STILL_FOR: Duration = Duration::from_secs(7);

/// Which files were written to in place and lack something, and since when each has stood still.
#[derive(Debug, Default)]
pub(super) struct PartialWrites {
    main: Option<PartialWrite>,
    files: HashMap<PathBuf, PartialWrite>,
}

#[derive(Clone, Copy, Debug)]
struct PartialWrite {
    /// How the version looks that lost something.
    fingerprint: Fingerprint,
    since: Instant,
}

/// When a reading began, and when it was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct During {
    pub(super) began: Instant,
    pub(super) done: Instant,
}

/// What is not to be taken yet.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// How much each file lost.
    pub(super) files: HashMap<PathBuf, usize>,
    /// When the first may be believed.
    pub(super) again_in: Option<Duration>,
}

/// Who is in any of the files as they were read, with the highest attempt.
struct Everybody<'r>(HashMap<&'r UserKey, u64>);

impl PartialWrites {
    /// How much the main file lost, if it is not to be taken yet, and how long that may last.
    pub(super) fn of_main(&mut self, good: &LastGood, read: &FileSet, during: During) -> Option<(usize, Duration)> {
        let before = self.main.take();
        let (old, new) = (good.main(), &read.main);
        let (old_value, value) = old.value.as_ref().zip(new.value.as_ref())?;
        if !old.was_written_to(new) || new.report.is_faulty() {
            return None;
        }
        let everybody = Everybody::of(read);
        // Whoever stands in a file that is named no more is lost with its name.
        let named: HashSet<_> = read.files.iter().map(|file| file.path()).collect();
        let files = good.files().iter().filter(|file| !named.contains(file.path())).filter_map(|file| file.value.as_ref());
        let users: usize = files.chain([&old_value.users]).map(|file| everybody.lacks(file)).sum();
        let lost = users.saturating_add(callers_lost(old_value, value));
        if lost == 0 {
            return None;
        }
        let write = PartialWrite::going_on(before, new.fingerprint(), during);
        self.main = Some(write);
        write.left(during).map(|left| (lost, left))
    }

    /// The credentials files that are not to be taken yet.
    pub(super) fn of_files(&mut self, good: &LastGood, read: &FileSet, during: During) -> Withheld {
        let old: HashMap<_, _> = good.files().iter().map(|file| (file.path(), file)).collect();
        let written_to = read.files.iter().filter_map(|new| Some((*old.get(new.path())?, new)));
        let mut written_to = written_to.filter(|(old, new)| old.was_written_to(new) && !new.report.is_faulty()).peekable();
        let mut before = std::mem::take(&mut self.files);
        let mut withheld = Withheld::default();
        if written_to.peek().is_none() {
            return withheld;
        }
        let everybody = Everybody::of(read);
        for (old, new) in written_to {
            let lost = old.value.as_ref().map_or(0, |file| everybody.lacks(file));
            if lost > 0 {
                let write = PartialWrite::going_on(before.remove(new.path()), new.fingerprint(), during);
                self.files.insert(new.path().to_owned(), write);
                if let Some(left) = write.left(during) {
                    withheld.files.insert(new.path().to_owned(), lost);
                    withheld.again_in = Some(withheld.again_in.map_or(left, |again| again.min(left)));
                }
            }
        }
        withheld
    }
}

impl PartialWrite {
    /// The same as before, if the same version stands there still.
    fn going_on(before: Option<Self>, fingerprint: Fingerprint, during: During) -> Self {
        before.filter(|before| before.fingerprint == fingerprint).unwrap_or(Self { fingerprint, since: during.done })
    }

    /// How long it lasts still.
    fn left(self, during: During) -> Option<Duration> {
        let still = during.began.saturating_duration_since(self.since);
        (still < STILL_FOR).then(|| STILL_FOR.saturating_sub(still))
    }
}

impl<'r> Everybody<'r> {
    fn of(read: &'r FileSet) -> Self {
        let main = read.main.value.as_ref().map(|main| &main.users);
        let sound = read.files.iter().filter(|file| !file.report.is_faulty());
        let files = main.into_iter().chain(sound.filter_map(|file| file.value.as_ref()));
        let mut everybody = HashMap::new();
        for (key, attempt) in files.flat_map(CredentialsFile::attempts) {
            let highest = everybody.entry(key).or_insert(attempt);
            *highest = attempt.max(*highest);
        }
        Self(everybody)
    }

    /// How many of a file's users are nowhere any more. A lower attempt counts too: `attempt` stands at a user's end.
    fn lacks(&self, file: &CredentialsFile) -> usize {
        file.attempts().filter(|(key, attempt)| self.0.get(key).is_none_or(|now| now < attempt)).count()
    }
}

/// How many `[[callers]]` of the main file are missing from its new version.
fn callers_lost(old: &Main, new: &Main) -> usize {
    let has = |caller: &CallerConfig| new.config.iter().flat_map(|config| &config.callers).any(|other| other.id == caller.id);
    old.config.iter().flat_map(|config| &config.callers).filter(|caller| !has(caller)).count()
}

/// What is told of a file that isn't taken yet.
pub(super) fn warning<T>(file: &ReadFile<T>, lost: usize) -> Fault {
    let message = format!(
        "was written in place, and lacks {lost} of those who were in it or the end of their entries: it is taken once it has stood still \
         for {} s, and its last good version stays until then: to have it at once, write another file, and rename that to this one's name",
        STILL_FOR.as_secs()
    );
    Fault { file: Arc::from(file.path()), line: None, key: String::new(), message }
}
