//! The audit trail's file, which others rename, delete and replace while it is written to.
//!
//! Must never go on writing to a file that its path does not name any more, if the path's can be opened; nor make one that others
//! than its owner may read.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::OFlags;
use tokio::time::Instant;
use tracing::{error, info};

use super::{lines::Sink, output::put};
use crate::clock::Clock;

/// Who may read it: its owner, whom the operator chooses.
const MODE: u32 = 0o600;
/// A file that could not be opened is tried again no sooner than this, nor is that said more often than …
const TRIED_EVERY: Duration = Duration::from_secs(1);
/// … this.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// The open file.
#[derive(Debug)]
pub(super) struct Trail {
    path: PathBuf,
    file: File,
    torn: bool,
    clock: Arc<dyn Clock>,
    /// When opening it anew failed last, and when that was said last.
    failed: Option<Instant>,
    said: Option<Instant>,
}

impl Trail {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, torn: false, clock, failed: None, said: None })
    }

    /// Whether the path still names what is open. Where that can't be found out, no.
    fn is_in_place(&self) -> bool {
        let same = |named: &fs::Metadata, open: &fs::Metadata| (named.dev(), named.ino()) == (open.dev(), open.ino());
        matches!((fs::metadata(&self.path), self.file.metadata()), (Ok(named), Ok(open)) if same(&named, &open))
    }

    /// Whether what is open was deleted.
    fn is_nameless(&self) -> bool {
        self.file.metadata().is_ok_and(|open| open.is_file() && open.nlink() == 0)
    }

    /// Opens the path's file, unless it is open.
    fn follow(&mut self) {
        if self.is_in_place() {
            return;
        }
        let now = self.clock.now().mono;
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        if since(self.failed).is_some_and(|since| since < TRIED_EVERY) {
            return;
        }
        match open(&self.path) {
            Ok(file) => {
                (self.file, self.torn, self.failed, self.said) = (file, false, None, None);
                info!(file = %self.path.display(), "the audit trail's file was renamed, replaced or deleted: it is opened anew");
            }
            Err(error) => {
                self.failed = Some(now);
                if since(self.said).is_none_or(|since| since >= SAID_EVERY) {
                    self.said = Some(now);
                    let file = self.path.display();
                    error!(%file, %error, "the audit trail's file can't be opened anew: lines go on into the one that was there before");
                }
            }
        }
    }
}

impl Sink for Trail {
    fn put(&mut self, lines: &[u8], count: usize) -> usize {
        // A look costs less than one line does.
        self.follow();
        let lost = put(self.file.as_fd(), lines, count, &mut self.torn);
        if !self.is_nameless() {
            return lost;
        }
        // Deleted since the look: what is in a file without a name, nobody will read.
        self.follow();
        if self.is_nameless() { count } else { put(self.file.as_fd(), lines, count, &mut self.torn) }
    }

    fn look(&mut self) {
        self.failed = None;
        self.follow();
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Of a pipe without a reader, opening would wait for one.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    fs::OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(flags).open(path)
}
