//! Files, read whole: regular ones only, up to a limit, wiped when dropped, and able to say on which line a byte stands.
//!
//! Must never read without a limit, nor wait on a pipe.

use std::{
    cell::{OnceCell, RefCell},
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{
    faults::{Fault, Report},
    fingerprint::Seen,
    limits::FILE_BYTES,
    permissions::Permissions,
};
use crate::text::{self, Flaw};

/// The bytes of a file, and who else may get at them.
pub(crate) struct Contents {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(super) permissions: Permissions,
}

/// Why a file can't be read, in words that fit behind "the file".
#[derive(Debug)]
pub(crate) enum Unreadable {
    NotRegular,
    TooLong(u64),
    Io(io::ErrorKind),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegular => f.write_str("is not a regular file"),
            Self::TooLong(limit) if limit % (1 << 20) == 0 => write!(f, "is longer than {} MiB", limit >> 20),
            Self::TooLong(limit) => write!(f, "is longer than {} KiB", limit >> 10),
            Self::Io(io::ErrorKind::NotFound) => f.write_str("does not exist"),
            Self::Io(io::ErrorKind::PermissionDenied) => f.write_str("may not be read by this process"),
            Self::Io(kind) => write!(f, "can't be read ({kind})"),
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// Whether there is a regular file. Asked before opening: to open a pipe is to wait for its writer.
pub(super) fn probe(path: &Path) -> Result<(), Unreadable> {
    if fs::metadata(path)?.is_file() { Ok(()) } else { Err(Unreadable::NotRegular) }
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Contents, Unreadable> {
    probe(path)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > limit {
        return Err(Unreadable::TooLong(limit));
    }
    // Room for all of it from the start: a buffer that grows leaves copies behind that nobody wipes.
    let room = usize::try_from(metadata.len()).unwrap_or_default().saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Unreadable::TooLong(limit));
    }
    Ok(Contents { bytes, permissions: Permissions::of(&metadata) })
}

/// A configuration file: its text, its lines, and the files that it names.
pub(super) struct Source {
    path: Arc<Path>,
    text: Zeroizing<String>,
    permissions: Permissions,
    /// The byte after each line break, found when the first line is asked for: a file without faults is never searched.
    breaks: OnceCell<Vec<usize>>,
    /// What was read beside it, or tried.
    beside: RefCell<Vec<Seen>>,
    /// What it names beside that, which others follow.
    elsewhere: RefCell<Vec<PathBuf>>,
}

impl Source {
    /// Reads the file at `path`; `remedy` is what to do if that fails.
    pub(super) fn open(path: &Path, remedy: &str) -> Result<Self, Report> {
        let path: Arc<Path> = Arc::from(path);
        match read(&path, FILE_BYTES) {
            Ok(contents) => Self::of(path, contents),
            Err(why) => {
                let message = format!("the file {why}: {remedy}");
                Err(Report::of_fault(Fault { file: path, line: None, key: String::new(), message }))
            }
        }
    }

    /// A file with these contents.
    pub(super) fn of(path: Arc<Path>, mut contents: Contents) -> Result<Self, Report> {
        let fault = |line, message| Fault { file: Arc::clone(&path), line, key: String::new(), message };
        match text::utf8(&contents.bytes) {
            Ok(_) => {}
            Err(Flaw::NotUtf8(line)) => {
                let message = "is not UTF-8 from here on: save the file as UTF-8".to_owned();
                return Err(Report::of_shape(fault(Some(line), message)));
            }
            Err(flaw) => return Err(Report::of_shape(fault(None, format!("the file {flaw}")))),
        }
        let text = String::from_utf8(std::mem::take(&mut *contents.bytes)).unwrap_or_default();
        let text = Zeroizing::new(text);
        let (breaks, beside, elsewhere) = (OnceCell::new(), RefCell::default(), RefCell::default());
        Ok(Self { text, permissions: contents.permissions, breaks, beside, elsewhere, path })
    }

    /// The path as it was named.
    pub(super) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// The whole text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Who else may get at the file.
    pub(super) fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// A path that this file names: a relative one begins where this one stands.
    pub(super) fn beside(&self, named: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(named)
    }

    /// Reads a file of at most `limit` bytes that this one names.
    pub(super) fn read_beside(&self, named: &str, limit: u64) -> Result<Contents, Unreadable> {
        let path = self.beside(named);
        // Looked at before it is read: what changes from here on is seen as a change.
        self.beside.borrow_mut().push(Seen::at(path.clone()));
        read(&path, limit)
    }

    /// Takes note of a file that this one names and that is read anew as it is needed, not with this one.
    pub(super) fn names(&self, path: &Path) {
        self.elsewhere.borrow_mut().push(path.to_owned());
    }

    /// What [`Self::read_beside`] read or tried, as it was before that; and what [`Self::names`] noted.
    pub(super) fn into_named(self) -> (Vec<Seen>, Vec<PathBuf>) {
        (self.beside.into_inner(), self.elsewhere.into_inner())
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        let breaks = self.breaks.get_or_init(|| {
            self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at.saturating_add(1)).collect()
        });
        1 + breaks.partition_point(|start| *start <= offset)
    }
}

/// The path alone: the text holds secrets.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}
