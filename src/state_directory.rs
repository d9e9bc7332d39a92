//! A directory of the broker's own, for what outlives a restart: a key, and files that are there whole or not at all.
//!
//! Must never take what somebody else may have put there, leave half a file behind, or let others read one.

use std::{
    fmt,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::keyed_hash::{self, KEY_BYTES, KeyBytes, KeyedHash};

/// The directory is made for its owner alone, and so are files.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Permission to write, of the group and of others.
const OTHERS_WRITE: u32 = 0o022;
/// Any permission of the group and of others.
const OTHERS_ANY: u32 = 0o077;
/// The file with the key; whoever writes here holds a lock on it.
const KEY: &str = "key";
/// A file is written under its name with this behind it, and renamed when it is whole.
const NEW: &str = "new";

/// Why the directory, or a file in it, can't be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It is a file, or the like.
    #[error("it is not a directory")]
    NotADirectory,
    /// Its owner can put there what it likes.
    #[error("it belongs to another user: make it the broker's own")]
    NotOurs,
    /// So can its group, or anybody.
    #[error("others may write to it: `chmod 700` it, or name a directory in it that the broker may make")]
    OpenToOthers,
    /// Two would write each other's files.
    #[error("another process uses it: give each broker a directory of its own")]
    InUse,
    /// A file in it is none that was written here.
    #[error("{0}")]
    Foreign(&'static str),
    /// The system has no randomness for a key.
    #[error("there is no randomness for a key")]
    NoRandomness,
    /// The system says no.
    #[error("can't {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

/// The directory, and its key.
pub struct StateDirectory {
    path: PathBuf,
    key: KeyedHash,
    /// Of the key, whose lock is the directory's.
    lock: File,
    is_locked: AtomicBool,
}

impl fmt::Debug for StateDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateDirectory").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StateDirectory {
    /// Opens the directory, which is made if only it is missing. Says too whether there was a key, but none to be used, so that what was
    /// written under it is lost.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn open(path: &Path) -> Result<(Self, bool), StateError> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StateError::Io("be made", error)),
        }
        let metadata = fs::metadata(path).map_err(|error| StateError::Io("be looked at", error))?;
        if !metadata.is_dir() {
            return Err(StateError::NotADirectory);
        }
        if !is_ours(&metadata) {
            return Err(StateError::NotOurs);
        }
        if metadata.mode() & OTHERS_WRITE != 0 {
            return Err(StateError::OpenToOthers);
        }
        let at = path.join(KEY);
        let is_lost = match read(&at, KEY_BYTES) {
            Ok(key) => key.is_some_and(|key| key.len() != KEY_BYTES),
            Err(StateError::Foreign(_)) => true,
            Err(error) => return Err(error),
        };
        if is_lost {
            remove(&at).map_err(|error| StateError::Io("have its key replaced", error))?;
        }
        let key = own_key(&at)?;
        let lock = File::open(&at).map_err(|error| StateError::Io("have its key opened", error))?;
        let directory = Self { path: path.to_owned(), key: KeyedHash::new(&key), lock, is_locked: AtomicBool::new(false) };
        Ok((directory, is_lost))
    }

    /// What is hashed under the directory's key.
    #[must_use]
    pub fn key(&self) -> &KeyedHash {
        &self.key
    }

    /// A file's bytes, if it is there.
    ///
    /// # Errors
    /// Where it can't be read, or is longer than `limit`, or may be somebody else's.
    pub fn read(&self, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read(&self.path.join(name), limit)
    }

    /// Puts these bytes in a file's place: whoever reads it, after whatever crash, finds the former or these. Takes as long as the disk.
    ///
    /// # Errors
    /// Where that fails, or another process uses the directory; then the former are there.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        self.lock()?;
        let at = self.path.join(name);
        let renamed = write_new(&at, bytes).and_then(|new| fs::rename(new, &at));
        // The name too must outlive a crash of the machine.
        renamed.and_then(|()| File::open(&self.path)?.sync_all()).map_err(|error| StateError::Io("be written to", error))
    }

    /// Another process may hold the lock, such as the one whose place this takes: it is asked for again with each write.
    fn lock(&self) -> Result<(), StateError> {
        if self.is_locked.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.lock.try_lock() {
            Ok(()) => {
                self.is_locked.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(StateError::InUse),
            Err(TryLockError::Error(error)) => Err(StateError::Io("be locked", error)),
        }
    }
}

/// The key that is there, or else a new one. Two processes that begin at once have the same.
fn own_key(at: &Path) -> Result<KeyBytes, StateError> {
    if !at.exists() {
        let key = keyed_hash::random_key().ok_or(StateError::NoRandomness)?;
        let made = write_new(at, &*key).and_then(|new| {
            let linked = fs::hard_link(&new, at);
            remove(&new)?;
            linked.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        });
        made.map_err(|error| StateError::Io("be written to", error))?;
    }
    let bytes = read(at, KEY_BYTES)?.filter(|bytes| bytes.len() == KEY_BYTES);
    let bytes = bytes.ok_or(StateError::Foreign("its key changes while it is read"))?;
    Ok(Zeroizing::new(keyed_hash::first(&bytes)))
}

fn read(at: &Path, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let failed = |error| StateError::Io("have a file read", error);
    // Looked at before it is opened: to open a pipe is to wait for its writer.
    let metadata = match fs::symlink_metadata(at) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() || !is_ours(&metadata) || metadata.mode() & OTHERS_ANY != 0 {
        return Err(StateError::Foreign("it is not a file that only the broker may read and write"));
    }
    let room = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room.min(limit) + 1));
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(at).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit { Err(StateError::Foreign("it is too long")) } else { Ok(Some(bytes)) }
}

/// Writes a file beside the one at `at`, to its last byte on the disk.
fn write_new(at: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let new = at.with_extension(NEW);
    // One that a crash left behind.
    remove(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(new)
}

fn remove(at: &Path) -> io::Result<()> {
    fs::remove_file(at).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn open(path: &Path) -> (StateDirectory, bool) {
        StateDirectory::open(path).expect("can be used")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("is there").mode() & 0o777
    }

    #[test]
    fn what_was_written_is_there_the_next_time_for_its_owner_alone() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("state");
        let key = {
            let (directory, is_lost) = open(&path);
            assert!(!is_lost && directory.read("a", 10).expect("is read").is_none());
            directory.replace("a", b"one").expect("is written");
            directory.replace("a", b"another").expect("is written");
            // What a crash may leave.
            fs::write(path.join("a.new"), "half").expect("is written");
            directory.key().of(&[])
        };
        let (directory, is_lost) = open(&path);
        assert!(!is_lost && directory.key().of(&[]) == key);
        assert_eq!(directory.read("a", 7).expect("is read").expect("is there").as_slice(), b"another");
        assert!(matches!(directory.read("a", 6), Err(StateError::Foreign(_))), "too long");
        directory.replace("a", b"third").expect("is written in spite of what was left");
        assert_eq!([mode(&path), mode(&path.join("a")), mode(&path.join("key"))], [0o700, 0o600, 0o600]);
    }

    #[test]
    fn what_others_may_have_written_is_not_taken() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("state");
        let before = open(&path).0.key().of(&[]);
        let set = |name: &str, mode| fs::set_permissions(path.join(name), Permissions::from_mode(mode)).expect("is ours");
        for mode in [0o770, 0o707, 0o720] {
            set("", mode);
            assert!(matches!(StateDirectory::open(&path), Err(StateError::OpenToOthers)), "{mode:o}");
        }
        set("", 0o755);
        open(&path).0.replace("a", b"one").expect("is written");
        set("a", 0o640);
        assert!(matches!(open(&path).0.read("a", 10), Err(StateError::Foreign(_))));
        set("key", 0o644);
        let (directory, is_lost) = open(&path);
        assert!(is_lost && directory.key().of(&[]) != before, "others may know the key");
        fs::write(path.join("key"), "short").expect("is written");
        assert!(open(&path).1);
        fs::remove_file(path.join("a")).expect("is there");
        std::os::unix::fs::symlink("/dev/null", path.join("a")).expect("is made");
        assert!(matches!(open(&path).0.read("a", 10), Err(StateError::Foreign(_))));
        assert!(matches!(StateDirectory::open(&path.join("key")), Err(StateError::NotADirectory)));
        assert!(matches!(StateDirectory::open(&outer.path().join("none/state")), Err(StateError::Io(..))));
    }

    #[test]
    fn one_process_writes_and_another_does_once_that_is_gone() {
        let outer = tempfile::tempdir().expect("a directory");
        let [(first, _), (second, _)] = [open(outer.path()), open(outer.path())];
        first.replace("a", b"one").expect("is written");
        assert!(matches!(second.replace("a", b"two"), Err(StateError::InUse)));
        drop(first);
        second.replace("a", b"two").expect("is written");
    }
}
