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
    fingerprint::Identity,
    last_good::Good,
    main_file::Main,
    reading::{Part, Reading},
};
use crate::user::UserKey;

/// How long a file that was written in place must have stood still before what it lost is believed: longer than a program that
/// writes it in parts pauses between two of them. A removal can wait so long; who can't wait replaces the file by a rename.
pub(super) const STILL_FOR: Duration = Duration::from_secs(7);

/// What is doubted, and since when it has stood still.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    main: Option<Doubt>,
    files: HashMap<PathBuf, Doubt>,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// How the version looks that lost something.
    identity: Identity,
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
pub(super) struct Doubted {
    /// How much each file lost.
    pub(super) files: HashMap<PathBuf, usize>,
    /// When the first may be believed.
    pub(super) again_in: Option<Duration>,
}

/// Who is in any of the files as they were read, with the highest attempt.
struct Everybody<'r>(HashMap<&'r UserKey, u64>);

impl Doubts {
    /// How much the main file lost, if it is not to be taken yet, and how long that may last.
    pub(super) fn of_main(&mut self, good: &Good, reading: &Reading, during: During) -> Option<(usize, Duration)> {
        let before = self.main.take();
        let (old, new) = (good.main(), &reading.main);
        let (old_value, value) = old.value.as_ref().zip(new.value.as_ref())?;
        if !old.was_written_to(new) || new.report.is_faulty() {
            return None;
        }
        let everybody = Everybody::of(reading);
        // Whoever stands in a file that is named no more is lost with its name.
        let named: HashSet<_> = reading.files.iter().map(|part| part.path()).collect();
        let files = good.files().iter().filter(|part| !named.contains(part.path())).filter_map(|part| part.value.as_ref());
        let users: usize = files.chain([&old_value.users]).map(|file| everybody.lacks(file)).sum();
        let lost = users.saturating_add(callers_lost(old_value, value));
        if lost == 0 {
            return None;
        }
        let doubt = Doubt::going_on(before, new.identity(), during);
        self.main = Some(doubt);
        doubt.left(during).map(|left| (lost, left))
    }

    /// The credentials files that are not to be taken yet.
    pub(super) fn of_files(&mut self, good: &Good, reading: &Reading, during: During) -> Doubted {
        let old: HashMap<_, _> = good.files().iter().map(|part| (part.path(), part)).collect();
        let written_to = reading.files.iter().filter_map(|new| Some((*old.get(new.path())?, new)));
        let mut written_to = written_to.filter(|(old, new)| old.was_written_to(new) && !new.report.is_faulty()).peekable();
        let mut before = std::mem::take(&mut self.files);
        let mut doubted = Doubted::default();
        if written_to.peek().is_none() {
            return doubted;
        }
        let everybody = Everybody::of(reading);
        for (old, new) in written_to {
            let lost = old.value.as_ref().map_or(0, |file| everybody.lacks(file));
            if lost > 0 {
                let doubt = Doubt::going_on(before.remove(new.path()), new.identity(), during);
                self.files.insert(new.path().to_owned(), doubt);
                if let Some(left) = doubt.left(during) {
                    doubted.files.insert(new.path().to_owned(), lost);
                    doubted.again_in = Some(doubted.again_in.map_or(left, |again| again.min(left)));
                }
            }
        }
        doubted
    }
}

impl Doubt {
    /// The same doubt as before, if the same version stands there still.
    fn going_on(before: Option<Self>, identity: Identity, during: During) -> Self {
        before.filter(|before| before.identity == identity).unwrap_or(Self { identity, since: during.done })
    }

    /// How long it lasts still.
    fn left(self, during: During) -> Option<Duration> {
        let still = during.began.saturating_duration_since(self.since);
        (still < STILL_FOR).then(|| STILL_FOR.saturating_sub(still))
    }
}

impl<'r> Everybody<'r> {
    fn of(reading: &'r Reading) -> Self {
        let main = reading.main.value.as_ref().map(|main| &main.users);
        let sound = reading.files.iter().filter(|part| !part.report.is_faulty());
        let files = main.into_iter().chain(sound.filter_map(|part| part.value.as_ref()));
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
    old.callers.iter().filter(|caller| !new.callers.iter().any(|other| other.id == caller.id)).count()
}

/// What is told of a file that isn't taken yet.
pub(super) fn warning<T>(part: &Part<T>, lost: usize) -> Fault {
    let message = format!(
        "was written in place, and lacks {lost} of those who were in it or the end of their entries: it is taken once it has stood still \
         for {} s, and its last good version stays until then: to have it at once, write another file, and rename that to this one's name",
        STILL_FOR.as_secs()
    );
    Fault { file: Arc::from(part.path()), line: None, key: String::new(), message }
}
