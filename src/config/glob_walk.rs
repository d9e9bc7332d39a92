//! Walks the directories that a pattern leads through, and lists the files that it matches.
//!
//! Must never pass over what it can't look at: that may be a directory full of files, or a file full of users.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::fingerprint::Node;

const UNREADABLE: &str = "leads into a directory that can't be read: let this process read it, or narrow the pattern";

/// One part of a pattern, between two slashes.
enum Part {
    Literal(String),
    Wild(glob::Pattern),
    /// `**`
    Deep,
}

impl Part {
    fn new(text: &str) -> Result<Self, glob::PatternError> {
        match text {
            "**" => Ok(Self::Deep),
            _ if text.contains(['*', '?', '[']) => glob::Pattern::new(text).map(Self::Wild),
            _ => Ok(Self::Literal(text.to_owned())),
        }
    }

    /// Whether it asks for a name out of a list. Names that begin with a dot are skipped unless the part spells the dot out:
    /// Kubernetes keeps a second view of each mounted file in `..data`, and editors keep old copies in hidden files.
    fn takes(&self, name: &str) -> bool {
        match self {
            Self::Literal(text) => text == name,
            Self::Wild(pattern) => pattern.matches(name) && (pattern.as_str().starts_with('.') || !name.starts_with('.')),
            Self::Deep => !name.starts_with('.'),
        }
    }
}

/// What stands at a path, symlinks followed.
#[derive(Clone, Copy)]
enum Found {
    File,
    Directory,
    /// A pipe, a socket or a device.
    Other,
    Nothing,
    /// Whatever it is, it can't be looked at.
    Unseen(io::ErrorKind),
}

impl Found {
    fn at(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(found) => Self::of(found.file_type()),
            // A name under a file names nothing. A link that leads nowhere does: what it leads to may be away.
            Err(error) => match (error.kind(), fs::symlink_metadata(path).map_err(|error| error.kind())) {
                (_, Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)) => Self::Nothing,
                (kind, _) => Self::Unseen(kind),
            },
        }
    }

    fn of(kind: fs::FileType) -> Self {
        if kind.is_file() {
            Self::File
        } else if kind.is_dir() {
            Self::Directory
        } else {
            Self::Other
        }
    }
}

/// A walk along one pattern.
struct Walk {
    parts: Vec<Part>,
    /// Directories still to be looked at, and which part is to be found in each.
    todo: Vec<(PathBuf, usize)>,
    /// Which have been: links may lead back to them.
    been: HashSet<(Node, usize)>,
    files: Vec<PathBuf>,
}

/// The files that a pattern matches, or that may be such files, sorted by name; stops soon after `limit`. None where the
/// directory isn't there in which it begins.
///
/// What can't be looked at counts as a file, whose reading will say why: taken for no file, its users would be removed.
pub(super) fn matches(directory: &Path, text: &str, limit: usize) -> Result<Vec<PathBuf>, String> {
    let not_a_pattern =
        |error: glob::PatternError| format!("is not a pattern ({}): mend it, or name the files one by one", error.msg);
    glob::Pattern::new(text).map_err(not_a_pattern)?;
    let parts = text.split('/').filter(|part| !matches!(*part, "" | ".")).map(Part::new);
    let parts = parts.collect::<Result<Vec<_>, _>>().map_err(not_a_pattern)?;
    let start = if Path::new(text).is_absolute() { PathBuf::from("/") } else { directory.to_owned() };
    // What ends in a slash asks for directories.
    let todo = if text.ends_with('/') { Vec::new() } else { vec![(start, 0)] };
    let mut walk = Walk { parts, todo, been: HashSet::new(), files: Vec::new() };
    while let Some((directory, index)) = walk.todo.pop() {
        walk.look_into(&directory, index)?;
        if walk.files.len() > limit {
            break;
        }
    }
    let mut files = walk.files;
    files.sort();
    files.dedup();
    Ok(files)
}

impl Walk {
    fn look_into(&mut self, directory: &Path, index: usize) -> Result<(), String> {
        let Some(part) = self.parts.get(index) else { return Ok(()) };
        if let Part::Literal(name) = part {
            let path = directory.join(name);
            let found = Found::at(&path);
            if let (Found::Unseen(kind), true) = (found, index.saturating_add(1) < self.parts.len()) {
                // One that isn't there is told of the files that it had.
                let absent = kind == io::ErrorKind::NotFound;
                return if absent { Ok(()) } else { Err(format!("{UNREADABLE} ({kind})")) };
            }
            self.take(path, found, index);
            return Ok(());
        }
        let deep = matches!(part, Part::Deep);
        if deep {
            if !Node::of(directory).is_none_or(|node| self.been.insert((node, index))) {
                return Ok(());
            }
            self.todo.push((directory.to_owned(), index.saturating_add(1)));
        }
        for (path, found) in list(directory, |name| part.takes(name))? {
            match (deep, found) {
                (false, found) => self.take(path, found, index),
                (true, Found::Directory) => self.todo.push((path, index)),
                // In a whole tree there may be links to anything. Where one led to a directory with files, they are missed.
                (true, Found::Unseen(io::ErrorKind::NotFound) | Found::File | Found::Other | Found::Nothing) => {}
                (true, Found::Unseen(_)) => self.files.push(path),
            }
        }
        Ok(())
    }

    /// Takes what one part has matched.
    fn take(&mut self, path: PathBuf, found: Found, index: usize) {
        let next = index.saturating_add(1);
        let rest = self.parts.get(next..).unwrap_or_default();
        match found {
            Found::File | Found::Unseen(_) if rest.is_empty() => self.files.push(path),
            Found::Directory if !rest.is_empty() => self.todo.push((path, next)),
            Found::Unseen(_) => {
                // By the name that a file has there, if it can be known.
                let names = rest.iter().map_while(|part| if let Part::Literal(name) = part { Some(name) } else { None });
                self.files.push(names.fold(path, |path, name| path.join(name)));
            }
            Found::File | Found::Directory | Found::Other | Found::Nothing => {}
        }
    }
}

/// What of a directory is asked for. A directory that is gone has nothing.
fn list(directory: &Path, takes: impl Fn(&str) -> bool) -> Result<Vec<(PathBuf, Found)>, String> {
    let unreadable = |error: io::Error| format!("{UNREADABLE} ({})", error.kind());
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = match fs::read_dir(here) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(&takes) {
            let path = directory.join(&name);
            // A directory's list mostly tells what a name is, also where the name may not be looked up.
            let kind = entry.file_type().ok().filter(|kind| !kind.is_symlink()).map(Found::of);
            let kind = kind.unwrap_or_else(|| Found::at(&path));
            found.push((path, kind));
        }
    }
    Ok(found)
}
