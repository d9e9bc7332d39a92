//! The configuration's files over time: what of them is in force, whether they have changed, and what they say then.
//!
//! Must never let a faulty file displace a good one.

use std::{path::Path, sync::Arc};

use super::{
    faults::Faults,
    file_set::{FileSet, Fingerprints, Known},
    last_good::LastGood,
    partial_writes::{self, During, PartialWrites},
    values::{Loaded, Reloaded},
    versions::{self, Chosen},
};
use crate::clock::{Clock, SystemClock};

/// The files of a configuration that has been loaded. Holds every credential, so that a file that hasn't changed needn't be
/// read again.
pub struct Files {
    path: Arc<Path>,
    good: LastGood,
    seen: Fingerprints,
    partial_writes: PartialWrites,
    clock: Arc<dyn Clock>,
}

impl Files {
    /// Reads the main file at `path` and every file it names.
    ///
    /// Waits for files that are being written, a fifth of a second at most: not for an async worker.
    ///
    /// # Errors
    /// Every fault at once, by file and line; but where the syntax or a TOML type is wrong, those faults alone.
    pub fn open(path: &Path) -> Result<(Self, Loaded), Faults> {
        let (read, seen) = FileSet::take(path, Known::default());
        let Chosen { good, config, warnings, .. } = versions::all(&read)?;
        let files =
            Self { path: Arc::from(path), good, seen, partial_writes: PartialWrites::default(), clock: Arc::new(SystemClock) };
        Ok((files, Loaded { config, warnings }))
    }

    /// The same, told the time by another clock than the machine's.
    #[must_use]
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// How the files looked when they were last read.
    #[must_use]
    pub fn seen(&self) -> &Fingerprints {
        &self.seen
    }

    /// Whether any file, the ones they name included, looks other than when it was last read, well or in vain; reads none.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.seen.again() != self.seen
    }

    /// Reads what has changed, and puts it together with what hasn't.
    ///
    /// The whole is checked as one. A credentials file that is at fault (its syntax, a user, a password file; or it can't be
    /// read, or is gone although it is named without a wildcard) stays in force as it was, and is told of in
    /// [`Reloaded::kept`]; one that was never good has no users. So does a file that takes on a user whom another has; where
    /// two files take on the same user at once, the later one. A file is gone, and its users
    /// with it, if the very directory in which it stood can be listed and doesn't have it any more, or if the main file names it
    /// no more; whatever can't be looked at is at fault.
    ///
    /// A file that lacks users who were in it and are nowhere else now is taken at once if it was replaced as a whole (by a rename,
    /// or a link that was swapped). If it was written to, it may be half: it stays as it was until it has stood still for some
    /// seconds, whoever asks.
    ///
    /// Waits for files that are being written, a fifth of a second at most: not for an async worker.
    ///
    /// # Errors
    /// Every fault where the main file is at fault: everything stays as it was. So it is where the main file names a credentials
    /// file that isn't there and never was, or takes on a user whom a credentials file has.
    pub fn reload(&mut self) -> Result<Reloaded, Faults> {
        self.take(self.good.known())
    }

    /// [`Self::reload`] that reads everything, changed or not.
    ///
    /// # Errors
    /// The same.
    pub fn reload_all(&mut self) -> Result<Reloaded, Faults> {
        self.take(Known::default())
    }

    fn take(&mut self, known: Known) -> Result<Reloaded, Faults> {
        let began = self.clock.now().mono;
        let (mut read, mut seen) = FileSet::take(&self.path, known);
        let during = During { began, done: self.clock.now().mono };
        let main = self.partial_writes.of_main(&self.good, &read, during);
        let partial = main.map(|(lost, left)| (partial_writes::warning(&read.main, lost), left));
        if partial.is_some() {
            (read, seen) = FileSet::take_under(self.good.main(), read.into_known());
        }
        self.seen = seen;
        let withheld = self.partial_writes.of_files(&self.good, &read, During { began, done: self.clock.now().mono });
        let Chosen { good, config, mut warnings, kept } = versions::file_by_file(&self.good, read, &withheld)?;
        let (partial, left) = partial.unzip();
        warnings.extend(partial);
        let changed = !good.is(&self.good);
        self.good = good;
        let again_in = withheld.again_in.into_iter().chain(left).min();
        Ok(Reloaded { config, warnings, kept, again_in, changed })
    }
}

/// The path alone: the rest is credentials.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("path", &self.path).finish_non_exhaustive()
    }
}
