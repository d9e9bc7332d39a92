//! `credentials_files`: which files its patterns name now.
//!
//! Must never name a file twice, nor a hidden one that no pattern asks for.

use std::{
    borrow::Cow,
    collections::HashSet,
    path::{Component, Path, PathBuf},
};

use super::{
    identity::{Identity, Seen},
    limits, source,
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

/// A pattern and what it names now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matched {
    pub(super) pattern: Pattern,
    /// Regular files that no pattern before has named; in words that fit behind the key, why that can't be said.
    pub(super) files: Result<Vec<Seen>, String>,
    /// Whether it names nothing, not even what another pattern has named already.
    pub(super) nothing: bool,
    /// Whether the directory isn't there in which it looks.
    pub(super) nowhere: bool,
}

impl Matched {
    /// Takes a directory that has gone away, say a volume's, for a fault: its files are not deleted by that.
    pub(super) fn insist(&mut self) {
        const GONE: &str = "leads into a directory that is not there any more: bring it back, or take the pattern out";
        if self.nowhere {
            (self.files, self.nothing) = (Err(GONE.to_owned()), false);
        }
    }
}

/// The files that the patterns of the main file name, each once, in the patterns' order and then by name.
pub(super) fn expand(patterns: impl IntoIterator<Item = Pattern>, main: &Seen) -> Vec<Matched> {
    let directory = main.path.parent().unwrap_or(Path::new(""));
    // A file with two names is read once; the main file, matched by its own pattern, has been read.
    let mut named: HashSet<Identity> = HashSet::from([main.identity]);
    let mut count = 0_usize;
    let expanded = patterns.into_iter().map(|pattern| {
        let found = if pattern.is_wild() { matches(directory, &pattern.text) } else { literal(directory, &pattern.text) };
        let nothing = found.as_ref().is_ok_and(Vec::is_empty);
        let files = found.and_then(|found| {
            let found: Vec<Seen> = found.into_iter().filter(|file| named.insert(file.identity)).collect();
            let total = count.saturating_add(found.len());
            if total > limits::CREDENTIALS_FILES {
                // It alone: the other patterns have their files still.
                return Err(format!("matches more than {} files: narrow the pattern", limits::CREDENTIALS_FILES));
            }
            count = total;
            Ok(found)
        });
        let nowhere = pattern.is_wild() && !directory.join(literal_part(&pattern.text)).exists();
        Matched { pattern, files, nothing, nowhere }
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

/// The regular files that a pattern matches.
fn matches(directory: &Path, text: &str) -> Result<Vec<Seen>, String> {
    const UNREADABLE: &str = "leads into a directory that can't be read: let this process read it, or narrow the pattern";
    let base = directory.to_str().ok_or("is a pattern, and its directory's name is not UTF-8: name the files one by one")?;
    let full = Path::new(&glob::Pattern::escape(base)).join(text);
    let paths = glob::glob(&full.to_string_lossy())
        .map_err(|error| format!("is not a pattern ({}): mend it, or name the files one by one", error.msg))?;
    // The directory's own name may have hidden parts.
    let given = if Path::new(text).is_absolute() { 0 } else { parts(directory).count() };
    let named: Vec<glob::Pattern> =
        text.split('/').filter(|part| part.starts_with('.')).filter_map(|part| glob::Pattern::new(part).ok()).collect();
    let mut files = Vec::new();
    for path in paths {
        let path: PathBuf = path.map_err(|error| format!("{UNREADABLE} ({})", error.error().kind()))?;
        let hidden = parts(&path).skip(given).any(|name| name.starts_with('.') && !named.iter().any(|part| part.matches(&name)));
        // One that can't be looked at counts as a file, whose reading will say why: taken for no file, its users would be removed.
        if !hidden && path.metadata().map_or(true, |found| found.is_file()) {
            files.push(Seen::at(path));
        }
        if files.len() > limits::CREDENTIALS_FILES {
            break;
        }
    }
    Ok(files)
}

/// The directories of a pattern before its first wildcard.
fn literal_part(text: &str) -> &str {
    let end = text.find(['*', '?', '[']).unwrap_or(text.len());
    text.get(..end).and_then(|before| before.rfind('/').and_then(|slash| before.get(..=slash))).unwrap_or_default()
}

/// A path's names. Those that begin with a dot are skipped unless the pattern names the dot: Kubernetes keeps a second view of
/// each mounted file in `..data`, and editors keep old copies in hidden files. (The glob crate's own option for this panics at
/// a file name that isn't UTF-8.)
fn parts(path: &Path) -> impl Iterator<Item = Cow<'_, str>> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    })
}
