//! The Unix socket: made so that nobody else reaches it, and who is at its other end, by the kernel's word.
//!
//! Must never be open to more than its mode says, not even for a moment; take the path of a process that still listens there; nor
//! believe what a client says of itself.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

use crate::config::OperatorConfig;

/// Who may connect: the broker's own user, and root, whom no mode keeps out.
const MODE: u32 = 0o600;
/// Who may connect where other uids are listed: those could not otherwise. All others are known by their credentials, and refused.
const MODE_FOR_OTHERS: u32 = 0o666;
const ROOT: u32 = 0;

/// The socket can't be made.
#[derive(Debug, Error)]
#[error("operator.socket: can't listen on {}: {why}", path.display())]
pub struct SocketError {
    path: PathBuf,
    why: String,
}

/// Whose acts are taken.
#[derive(Clone, Debug)]
pub struct Allowed(Vec<u32>);

impl Allowed {
    /// The broker's own user, and those that are listed.
    #[must_use]
    pub fn new(uids: &[u32]) -> Self {
        Self(uids.iter().copied().chain([geteuid().as_raw()]).collect())
    }

    /// Whether acts of this user are taken.
    #[must_use]
    pub fn lets(&self, uid: u32) -> bool {
        self.0.contains(&uid)
    }

    /// Whether somebody is among them whom a file's mode keeps out.
    fn has_others(&self) -> bool {
        let own = geteuid().as_raw();
        self.0.iter().any(|uid| *uid != own && *uid != ROOT)
    }
}

/// A process at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user, when it connected.
    pub uid: u32,
    /// Its id in our namespace of processes; 0 where it is not in that.
    pub pid: i32,
}

impl Peer {
    /// Who has connected (`SO_PEERCRED`, unix(7)).
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), pid: credentials.pid().unwrap_or_default() })
    }
}

/// The socket, which goes when this does.
#[derive(Debug)]
pub struct OperatorSocket {
    pub(super) listener: UnixListener,
    pub(super) allowed: Allowed,
    path: PathBuf,
    /// What is there of ours: another process may have taken the path since.
    node: Option<(u64, u64)>,
}

impl OperatorSocket {
    /// Makes the socket, in the place of one that a process left which is no more.
    ///
    /// # Errors
    /// Says what is in the way, and what to do.
    pub async fn bind(config: &OperatorConfig) -> Result<Self, SocketError> {
        let (path, allowed) = (config.socket.clone(), Allowed::new(&config.uids));
        let mode = if allowed.has_others() { MODE_FOR_OTHERS } else { MODE };
        match listen(&path, mode).await {
            Ok((listener, node)) => Ok(Self { listener, allowed, node, path }),
            Err(why) => Err(SocketError { path, why }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OperatorSocket {
    fn drop(&mut self) {
        if self.node.is_some() && node(&self.path) == self.node {
            // Whoever comes next makes its own.
            fs::remove_file(&self.path).ok();
        }
    }
}

/// What is at a path, by the file system's device and number.
type Node = Option<(u64, u64)>;

fn node(path: &Path) -> Node {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Made in a directory of ours alone, and moved to its place once its mode is set: between the two calls it would be open to whom the umask
/// lets, and its name could be made to lead elsewhere. With what it is, by which it is known again.
async fn listen(path: &Path, mode: u32) -> Result<(UnixListener, Node), String> {
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err("something else than a socket is there: remove it, or name another path".to_owned());
        }
        match UnixStream::connect(path).await {
            // It was left by a process that is no more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(format!("a socket is there that can't be looked at ({error}): remove it, or name another path"));
            }
            // That it is busy says so too.
            Ok(_) | Err(_) => return Err("another process listens there: end it, or name another path".to_owned()),
        }
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(format!("{} is no directory: make it, for the broker's user alone", parent.display()));
    }
    let mut ours = path.as_os_str().to_owned();
    ours.push(format!(".{}", std::process::id()));
    let (ours, making) = (PathBuf::from(&ours), PathBuf::from(ours).join("s"));
    let made = || {
        // Of a process that had the same number.
        drop((fs::remove_file(&making), fs::remove_dir(&ours)));
        DirBuilder::new().mode(0o700).create(&ours)?;
        let listener = UnixListener::bind(&making)?;
        fs::set_permissions(&making, Permissions::from_mode(mode))?;
        let node = node(&making);
        fs::rename(&making, path)?;
        Ok((listener, node))
    };
    let made = made()
        .map_err(|error: io::Error| format!("{error}: have the broker's user write to its directory, or name another path"));
    drop((fs::remove_file(&making), fs::remove_dir(&ours)));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path, uids: &[u32]) -> OperatorConfig {
        OperatorConfig { socket: path.to_owned(), uids: uids.to_vec() }
    }

    #[tokio::test]
    async fn it_is_made_for_its_owner_replaces_what_was_left_and_goes_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("operator.sock");
        let mode = || fs::symlink_metadata(&path).expect("is there").permissions().mode() & 0o777;
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        let socket = OperatorSocket::bind(&config(&path, &[0])).await.expect("nobody listens there any more");
        assert_eq!(mode(), 0o600);
        let error = OperatorSocket::bind(&config(&path, &[])).await.expect_err("somebody listens");
        assert!(error.to_string().contains("another process listens there"), "{error}");
        drop(socket);
        assert!(!path.exists());
        let socket = OperatorSocket::bind(&config(&path, &[4_242])).await.expect("binds");
        assert_eq!(mode(), 0o666, "those who are listed can connect");
        // Another process has replaced it: what is there is not ours to remove.
        fs::remove_file(&path).expect("is there");
        fs::write(&path, "").expect("is written");
        drop(socket);
        assert!(path.exists());
        let error = OperatorSocket::bind(&config(&path, &[])).await.expect_err("it is a file");
        assert!(error.to_string().contains("something else than a socket"), "{error}");
        let error = OperatorSocket::bind(&config(Path::new("/nowhere/at/all.sock"), &[])).await.expect_err("no directory");
        assert!(error.to_string().contains("/nowhere/at is no directory: make it"), "{error}");
    }

    #[test]
    fn acts_are_taken_of_the_own_user_and_of_those_who_are_listed() {
        let own = geteuid().as_raw();
        assert!(Allowed::new(&[]).lets(own));
        assert!(!Allowed::new(&[]).lets(own + 1));
        assert!(Allowed::new(&[own + 1]).lets(own + 1));
        assert!(!Allowed::new(&[]).has_others() && !Allowed::new(&[0]).has_others() && Allowed::new(&[own + 1]).has_others());
    }
}
