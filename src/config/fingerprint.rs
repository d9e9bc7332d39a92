//! By what a file is known again without reading it.
//!
//! Must never open a file: this is asked every few seconds, for every file of the configuration.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Which file or directory it is, whatever is written to it. The number of one that was deleted may be given again, so its
/// birth counts too, where the file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl Node {
    /// Of what stands at the path now; none where it can't be looked at.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&fs::Metadata> for Node {
    fn from(found: &fs::Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino(), born: found.created().ok() }
    }
}

/// What stands at a path, symlinks followed.
///
/// Replacing a file, writing to it, changing its permissions and swapping a directory above it (Kubernetes' `..data`) each
/// make it another. What it can't tell apart is two writes of the same length within one tick of the file system's clock
/// (some milliseconds); who reads waits until a file has been left alone for longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fingerprint {
    /// A file, or something else that has a name.
    There {
        node: Node,
        mode: u32,
        size: u64,
        /// Seconds and nanoseconds.
        modified: (i64, i64),
        /// The same, of its name, owner and permissions too. Unlike the former it can't be set back.
        changed: (i64, i64),
    },
    /// Nothing that can be got at. It says nothing about what stands there: two of these are not the same file.
    Not(io::ErrorKind),
}

impl Fingerprint {
    /// Whether it could be looked at, so that what is equal is the same file.
    pub(super) fn is_there(&self) -> bool {
        matches!(self, Self::There { .. })
    }

    /// Whether `later` is the same file, written to since then; one that was replaced as a whole is another file.
    pub(super) fn was_written_to(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::There { node, .. }, Self::There { node: now, .. }) => node == now && self != later,
            // It can't be told that it was replaced.
            (Self::Not(_), _) | (_, Self::Not(_)) => true,
        }
    }

    /// Which file it is, if it could be looked at.
    pub(super) fn node(&self) -> Option<Node> {
        match self {
            Self::There { node, .. } => Some(*node),
            Self::Not(_) => None,
        }
    }

    /// Looks at what stands at the path now.
    pub(super) fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(found) => Self::There {
                node: Node::from(&found),
                mode: found.mode(),
                size: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            },
            Err(error) => Self::Not(error.kind()),
        }
    }
}

/// A path, and what stood there when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) path: PathBuf,
    pub(super) fingerprint: Fingerprint,
}

impl Seen {
    /// Looks at the path now.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { fingerprint: Fingerprint::of(&path), path }
    }

    /// Whether the same still stands there.
    pub(super) fn is_current(&self) -> bool {
        self.fingerprint == Fingerprint::of(&self.path)
    }
}
