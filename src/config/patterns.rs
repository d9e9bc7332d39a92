//! `credentials_files`: which files its patterns name now.
//!
//! Must never name a file twice, nor a hidden one that no pattern asks for, nor take a file that can't be looked at for another
//! one, or for deleted.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    fingerprint::{Fingerprint, Node, Seen},
    glob_walk, limits, source,
};

/// One of `credentials_files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) text: String,
    /// Where it stands in the main file.
    pub(super) line: Option<usize>,
}

impl Pattern {
    /// Whether it may match any number of files, none included; otherwise it is one file's path.
    fn is_wild(&self) -> bool {
        self.text.contains(['*', '?', '['])
    }
}

/// A file that a pattern names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: PathBuf,
    /// The directory in which it stands; none where that can't be looked at.
    directory: Option<Node>,
}

/// A pattern and what it names now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matched {
    pub(super) pattern: Pattern,
    /// Regular files that no pattern before has named; in words that fit behind the key, why that can't be said.
    pub(super) files: Result<Vec<Seen>, String>,
    /// All it names, what another pattern has named already included.
    pub(super) named: Vec<Named>,
    /// What it named before, and what is neither named any more nor deleted; found by [`miss`].
    pub(super) missed: Vec<Missed>,
}

/// A file that isn't named any more although nothing says that it was deleted, and in words that fit behind the key, why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) named: Named,
    pub(super) why: &'static str,
}

/// What all patterns name now.
struct Present {
    paths: HashSet<PathBuf>,
    fingerprints: HashSet<Fingerprint>,
}

impl Matched {
    /// Whether it names nothing, not even what another pattern has named already.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_ok() && self.named.is_empty() && self.missed.is_empty()
    }
}

impl Pattern {
    /// Whether it would name this file if that were there; `main` is the main file.
    pub(super) fn would_name(&self, main: &Path, file: &Path) -> bool {
        const BY_PART: glob::MatchOptions =
            glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
        let full = |base: &str| {
            let text = self.text.strip_prefix("./").unwrap_or(&self.text);
            glob::Pattern::new(&Path::new(&glob::Pattern::escape(base)).join(text).to_string_lossy())
        };
        let base = main.parent().and_then(Path::to_str).map(full);
        self.is_wild() && base.is_some_and(|pattern| pattern.is_ok_and(|pattern| pattern.matches_path_with(file, BY_PART)))
    }
}

/// Finds what is missed of the files that the patterns named `before`: not named by any pattern any more, and not deleted
/// either. Deleted is what the very directory in which it stood can be asked for, and doesn't have any more.
pub(super) fn miss(matched: &mut [Matched], before: impl Fn(&Pattern) -> Vec<Named>) {
    let files = matched.iter().flat_map(|matched| matched.files.iter().flatten());
    let fingerprints = files.map(|file| file.fingerprint).filter(Fingerprint::is_there).collect();
    let paths = matched.iter().flat_map(|matched| &matched.named).map(|named| named.path.clone()).collect();
    let present = Present { paths, fingerprints };
    for matched in matched.iter_mut().filter(|matched| matched.files.is_ok()) {
        let gone = before(&matched.pattern).into_iter().filter(|named| !present.paths.contains(&named.path));
        matched.missed = gone.filter_map(|named| Some(Missed { why: present.why_missed(&named)?, named })).collect();
    }
}

impl Present {
    fn why_missed(&self, named: &Named) -> Option<&'static str> {
        const REPLACED: &str = "names what is no regular file any more: put the file back, or delete what stands in its place";
        const UNSEEN: &str = "leads to a file that can't be looked at any more: let this process look, or take the pattern out";
        const GONE: &str = "leads into a directory that is not there any more: bring it back, or to remove the file's users, put an empty \
                            file in its place, or take the pattern out";
        const EXCHANGED: &str = "leads into another directory than before, which has no file for it: bring the former back, or to remove \
                                 the file's users, put an empty file in its place, or take the pattern out";
        match fs::symlink_metadata(&named.path).map_err(|error| error.kind()) {
            // Known by another name.
            Ok(_) if self.fingerprints.contains(&Fingerprint::of(&named.path)) => return None,
            Ok(_) => return Some(REPLACED),
            Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(_) => return Some(UNSEEN),
        }
        let directory = named.path.parent();
        match directory_of(&named.path) {
            None => Some(GONE),
            now if now == named.directory => None,
            // Replaced as a whole, if there is something in it.
            Some(_) if self.paths.iter().any(|path| path.parent() == directory) => None,
            Some(_) => Some(EXCHANGED),
        }
    }
}

/// The directory in which a file stands.
fn directory_of(file: &Path) -> Option<Node> {
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    Node::of(directory.unwrap_or(Path::new(".")))
}

/// The files that the patterns of the main file name, each once, in the patterns' order and then by name.
pub(super) fn expand(patterns: impl IntoIterator<Item = Pattern>, main: &Seen) -> Vec<Matched> {
    let directory = main.path.parent().unwrap_or(Path::new(""));
    // A file with two names is read once; the main file, matched by its own pattern, has been read. Of files that can't be
    // looked at nobody knows whether they are the same: those count by their names.
    let mut fingerprints: HashSet<Fingerprint> = HashSet::from([main.fingerprint]);
    let mut paths: HashSet<PathBuf> = HashSet::new();
    let mut directories: HashMap<PathBuf, Option<Node>> = HashMap::new();
    let mut count = 0_usize;
    let expanded = patterns.into_iter().map(|pattern| {
        let found = if pattern.is_wild() { matches(directory, &pattern.text) } else { literal(directory, &pattern.text) };
        let mut name = |file: &Seen| {
            let parent = file.path.parent().unwrap_or(Path::new("")).to_owned();
            Named { path: file.path.clone(), directory: *directories.entry(parent).or_insert_with(|| directory_of(&file.path)) }
        };
        let named = found.iter().flatten().map(&mut name).collect();
        let files = found.and_then(|found| {
            let is_new = |file: &Seen| {
                let by_path = paths.insert(file.path.clone());
                by_path && (!file.fingerprint.is_there() || fingerprints.insert(file.fingerprint))
            };
            let found: Vec<Seen> = found.into_iter().filter(is_new).collect();
            let total = count.saturating_add(found.len());
            if total > limits::CREDENTIALS_FILES {
                // It alone: the other patterns have their files still.
                return Err(format!("matches more than {} files: narrow the pattern", limits::CREDENTIALS_FILES));
            }
            count = total;
            Ok(found)
        });
        Matched { pattern, files, named, missed: Vec::new() }
    });
    expanded.collect()
}

/// The one file that a path without wildcards names.
fn literal(directory: &Path, text: &str) -> Result<Vec<Seen>, String> {
    let path = directory.join(text);
    match source::probe(&path) {
        Ok(()) => Ok(vec![Seen::at(path)]),
        Err(why) => Err(format!("names a file that {why}: mend the path, relative to this file")),
    }
}

/// The regular files that a pattern matches, and what may be such a file but can't be looked at.
fn matches(directory: &Path, text: &str) -> Result<Vec<Seen>, String> {
    let files = glob_walk::matches(directory, text, limits::CREDENTIALS_FILES)?;
    Ok(files.into_iter().map(Seen::at).collect())
}
