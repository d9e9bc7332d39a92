//! `[audit]`: where the trail goes; and that it goes into no file that the configuration reads.
//!
//! Must never let lines be added to what is sent or trusted: a password's file, a key's, the configuration itself.

use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    faults::Fault,
    findings::At,
    fingerprint::{Fingerprint, Node},
    reader::{Found, Reader},
    values::{AuditConfig, Hits},
};

/// `audit.file`.
#[derive(Clone, Debug)]
pub(super) struct TrailFile {
    path: PathBuf,
    /// Where it stands in the main file.
    line: Option<usize>,
}

/// Reads the table.
pub(super) fn read(mut table: Reader<'_, '_>) -> (AuditConfig, Option<TrailFile>) {
    let named = table.string("file").map(|Found { value, at }| (table.findings().source().beside(&value), at));
    if let Some((path, at)) = &named {
        look_at(&table, *at, path);
    }
    let hits = table.choice("hits", Hits::default(), &[("each", Hits::Each), ("summed", Hits::Summed)]);
    let trail = named.map(|(path, at)| TrailFile { path, line: table.findings().line(at) });
    table.finish();
    (AuditConfig { file: trail.as_ref().map(|trail| trail.path.clone()), hits }, trail)
}

/// Says what lines can't be added to, or what nobody will read them from.
fn look_at(table: &Reader<'_, '_>, at: At, path: &Path) {
    const FILE: &str = "name a regular file, or leave the key out for standard output";
    // Of a bare name the parent is empty, and means where the process runs.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = parent.filter(|directory| !directory.is_dir()) {
        let message = format!("names a file in {}, which is no directory: make it, or mend the path", directory.display());
        table.fault(at, "file", message);
        return;
    }
    let Ok(found) = fs::metadata(path) else { return };
    let kind = found.file_type();
    if kind.is_dir() {
        table.fault(at, "file", "names a directory: name a file in it");
    } else if kind.is_char_device() {
        let message = format!("names a device, which may keep nothing of the trail: {FILE}");
        table.findings().warn(at, table.key("file"), message);
    } else if !kind.is_file() {
        table.fault(at, "file", format!("names a pipe, a socket or a disk, which nobody may be reading: {FILE}"));
    }
}

impl TrailFile {
    /// The fault of a trail that would go into one of the files that were read, under that name or another one.
    ///
    /// `main` is the main file, `named` are all files with what stood there, and `will_be_read` says whether one would be if it were there.
    pub(super) fn conflict<'f>(
        &self,
        main: &Path,
        mut named: impl Iterator<Item = (&'f Path, Option<Fingerprint>)>,
        will_be_read: impl FnOnce(&Path) -> bool,
    ) -> Option<Fault> {
        let node = Node::of(&self.path);
        let is_trail = |(path, seen): (&Path, Option<Fingerprint>)| {
            let same_node = |other: Option<Node>| node.is_some() && node == other;
            same_node(seen.map_or_else(|| Node::of(path), |seen| seen.node())) || is_same_place(&self.path, path)
        };
        let message = if named.any(is_trail) {
            "names a file that the configuration reads, so that lines of the trail would be added to what is sent or trusted: name one of \
             its own"
        } else if will_be_read(&self.path) {
            "names a file that credentials_files would read: name one that its patterns don't match"
        } else {
            return None;
        };
        Some(Fault { file: Arc::from(main), line: self.line, key: "audit.file".to_owned(), message: message.to_owned() })
    }
}

/// Whether both name one place, where there may be nothing yet.
fn is_same_place(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(parent.canonicalize().ok()?.join(path.file_name()?))
    };
    // Few have the same name, and only of those the directory is looked up.
    one == other || one.file_name() == other.file_name() && place(one).is_some_and(|one| place(other) == Some(one))
}
