//! What is wrong with the configuration, and where: faults and warnings, gathered file by file.
//!
//! Must never repeat a value of the configuration: a secret may stand under the wrong key, and faults are printed and logged.

use std::{fmt, path::Path, sync::Arc};

use crate::plain;

/// One thing that is wrong, or that a person should look at: `FILE:LINE: key: what is wrong: remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file at fault, as it was named.
    pub file: Arc<Path>,
    /// The line, from 1; none where the whole file is at fault or the key stands nowhere.
    pub line: Option<usize>,
    /// The key with its tables, such as `vault.base_url`; empty where no key is at fault.
    pub key: String,
    /// What is wrong and what to do about it. Holds no value of the file.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.map(|line| format!("{line}:")).unwrap_or_default();
        let key = if self.key.is_empty() { String::new() } else { format!(" {}:", self.key) };
        let whole = format!("{}:{line}{key} {}", self.file.display(), self.message);
        // Whoever can make a file where a pattern looks gives it a name.
        f.write_str(&plain::on_one_line(&whole))
    }
}

/// Every fault of a configuration that can't be used, at least one; shown one a line, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// These faults, of which there is one at least.
    pub(super) fn of(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// These faults, and those of `more` that aren't among them.
    pub(super) fn and(mut self, more: Vec<Fault>) -> Self {
        for fault in more {
            if !self.0.contains(&fault) {
                self.0.push(fault);
            }
        }
        self
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// What was found in one file, or in several after [`Report::append`].
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Syntax errors and wrong types: while there are any, the rest isn't worth telling.
    shape: Vec<Fault>,
    /// Every other fault.
    other: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Report {
    /// A report with one syntax error.
    pub(super) fn of_shape(fault: Fault) -> Self {
        Self { shape: vec![fault], ..Self::default() }
    }

    /// A report with one fault that isn't about syntax or types.
    pub(super) fn of_fault(fault: Fault) -> Self {
        Self { other: vec![fault], ..Self::default() }
    }

    /// Adds a syntax error or a wrong type.
    pub(super) fn push_shape(&mut self, fault: Fault) {
        self.shape.push(fault);
    }

    /// Adds any other fault.
    pub(super) fn push(&mut self, fault: Fault) {
        self.other.push(fault);
    }

    /// Adds something that works, but that a person should look at.
    pub(super) fn push_warning(&mut self, warning: Fault) {
        self.warnings.push(warning);
    }

    /// Whether there is any fault.
    pub(super) fn is_faulty(&self) -> bool {
        !self.shape.is_empty() || !self.other.is_empty()
    }

    /// Adds the next file's report behind this one's; puts the next one's faults in the order of lines.
    pub(super) fn append(&mut self, mut next: Self) {
        for (to, from) in
            [(&mut self.shape, &mut next.shape), (&mut self.other, &mut next.other), (&mut self.warnings, &mut next.warnings)]
        {
            from.sort_by_key(|fault| fault.line);
            to.append(from);
        }
    }

    /// The verdict: `whole` and the warnings if nothing is wrong, otherwise the faults to show, those of the file at `path` and
    /// of the files it names.
    pub(super) fn verdict<T>(self, path: &Path, whole: Option<T>) -> Result<(T, Vec<Fault>), Faults> {
        if !self.shape.is_empty() {
            return Err(Faults(self.shape));
        }
        if !self.other.is_empty() {
            return Err(Faults(self.other));
        }
        whole.map(|whole| (whole, self.warnings)).ok_or_else(|| {
            // Nothing is missing without a fault; should that ever be untrue, the program says so and doesn't start.
            let message = "can't be used, and this program fails to say why: report that as its bug".to_owned();
            Faults(vec![Fault { file: Arc::from(path), line: None, key: String::new(), message }])
        })
    }
}
