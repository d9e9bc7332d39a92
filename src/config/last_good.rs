//! The versions of the files that are in force: what a file falls back to that is at fault.
//!
//! Must never hold a file that is at fault, nor two versions of one.

use std::{collections::HashMap, sync::Arc};

use super::{
    file_set::{FileSet, Known, MainFile, UsersFile},
    patterns::{Matched, Named, Pattern},
};

/// A set of files that is good as a whole.
#[derive(Debug)]
pub(super) struct LastGood {
    main: Arc<MainFile>,
    files: Vec<Arc<UsersFile>>,
    /// Which files each pattern named, those that another one had named already included.
    named: HashMap<String, Vec<Named>>,
}

impl LastGood {
    /// What need not be read again.
    pub(super) fn known(&self) -> Known {
        Known { main: Some(Arc::clone(&self.main)), files: self.files.clone() }
    }

    pub(super) fn main(&self) -> &Arc<MainFile> {
        &self.main
    }

    pub(super) fn files(&self) -> &[Arc<UsersFile>] {
        &self.files
    }

    /// Whether `other` holds the very same files.
    pub(super) fn is(&self, other: &Self) -> bool {
        let same = self.files.iter().zip(&other.files).all(|(one, other)| Arc::ptr_eq(one, other));
        Arc::ptr_eq(&self.main, &other.main) && self.files.len() == other.files.len() && same
    }

    /// What a pattern named before; where it is new, what it would have named. None where nothing is known of it.
    pub(super) fn named(&self, pattern: &Pattern) -> Option<Vec<Named>> {
        if let Some(named) = self.named.get(&pattern.text) {
            return Some(named.clone());
        }
        let mut would: Vec<Named> =
            self.named.values().flatten().filter(|named| pattern.would_name(self.main.path(), &named.path)).cloned().collect();
        would.sort_by(|one, other| one.path.cmp(&other.path));
        would.dedup_by(|later, earlier| later.path == earlier.path);
        (!would.is_empty()).then_some(would)
    }

    /// Of what was read, these files serve.
    pub(super) fn of(read: &FileSet, files: Vec<Arc<UsersFile>>, before: Option<&Self>) -> Self {
        let named = |matched: &Matched| {
            let mut named = match &matched.files {
                Ok(_) => matched.named.clone(),
                Err(_) => before.and_then(|good| good.named(&matched.pattern)).unwrap_or_default(),
            };
            named.extend(matched.missed.iter().map(|missed| missed.named.clone()));
            named
        };
        let named = read.matched.iter().map(|matched| (matched.pattern.text.clone(), named(matched))).collect();
        Self { main: Arc::clone(&read.main), files, named }
    }
}
