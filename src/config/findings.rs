//! Gathers what is wrong in one file while that is read, and where in it.
//!
//! Must never repeat a value of the file.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    asked::{Asked, Record},
    faults::{Fault, Report},
    permissions::{Permissions, Writers},
    source::Source,
};
use crate::{
    clock::{Clock as _, SystemClock},
    timestamp,
};

/// A certificate that ends within this is told of, as it is by the alert: a week of work to get another.
const ENDING_WITHIN: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where in a file: at a byte, or nowhere in particular. Becomes a line only once there is something to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(pub(super) Option<usize>);

impl At {
    /// No place: a default, or the file as a whole.
    pub(super) const NOWHERE: Self = Self(None);
}

/// Gathers what is found while one file is read.
#[derive(Debug)]
pub(super) struct Findings<'s> {
    source: &'s Source,
    report: RefCell<Report>,
    /// What the file is asked for, where somebody wants to know.
    record: Option<RefCell<Record>>,
}

impl<'s> Findings<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        Self { source, report: RefCell::default(), record: None }
    }

    /// The same, and notes what the file is asked for.
    pub(super) fn recording(source: &'s Source) -> Self {
        Self { record: Some(RefCell::default()), ..Self::new(source) }
    }

    /// Notes what the file is asked for, if somebody wants to know.
    pub(super) fn record(&self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &self.record {
            note(&mut record.borrow_mut());
        }
    }

    /// The file that is being read.
    pub(super) fn source(&self) -> &'s Source {
        self.source
    }

    /// A wrong TOML type.
    pub(super) fn wrong_type(&self, at: At, key: impl Into<String>, message: impl Into<String>) {
        let fault = self.place(at, key.into(), message.into());
        self.report.borrow_mut().push_shape(fault);
    }

    /// Any other fault.
    pub(super) fn fault(&self, at: At, key: impl Into<String>, message: impl Into<String>) {
        let fault = self.place(at, key.into(), message.into());
        self.report.borrow_mut().push(fault);
    }

    /// Something that works, but that a person should look at.
    pub(super) fn warn(&self, at: At, key: impl Into<String>, message: impl Into<String>) {
        let fault = self.place(at, key.into(), message.into());
        self.report.borrow_mut().push_warning(fault);
    }

    /// The same of what was read before, of which the line is known.
    pub(super) fn warn_in_line(&self, line: usize, key: &str, message: impl Into<String>) {
        let file = Arc::clone(self.source.path());
        let warning = Fault { file, line: Some(line), key: key.to_owned(), message: message.into() };
        self.report.borrow_mut().push_warning(warning);
    }

    /// Says who else may write to a file that is named here.
    pub(super) fn writers_of(&self, at: At, key: &str, permissions: Permissions) {
        if let Some(writers) = permissions.writers() {
            self.written_by(writers, at, key, "names a file to which", "");
        }
    }

    /// Says who else may write to the very file that is being read.
    pub(super) fn own_writers(&self) {
        if let Some(writers) = self.source.permissions().writers() {
            self.written_by(writers, At::NOWHERE, "", "is a file to which", "");
        }
    }

    /// `file` leads to who it is, and `more` says of how many other files the same is true.
    pub(super) fn written_by(&self, writers: Writers, at: At, key: &str, file: &str, more: &str) {
        let why = "and whoever does decides what the broker sends or whom it trusts: take that away";
        match writers {
            Writers::Everyone => {
                let message = format!(
                    "{file} every user of this machine may write{more}, {why} (chmod o-w), and look whether what it says is still yours"
                );
                self.fault(at, key, message);
            }
            Writers::Group => {
                self.warn(
                    at,
                    key,
                    format!("{file} its group, which is not made for the broker, may write{more}, {why} (chmod g-w)"),
                );
            }
        }
    }

    /// Says that a file which is named here has a certificate that has ended, or does within a week.
    pub(super) fn end_of(&self, at: At, key: &str, not_after: Option<SystemTime>) {
        if let Some(message) = not_after.and_then(|end| ending(end, SystemClock.now().wall)) {
            self.warn(at, key, message);
        }
    }

    /// What was found, and what was asked for.
    pub(super) fn into_recorded(self) -> (Report, Vec<Asked>) {
        (self.report.into_inner(), self.record.map(RefCell::into_inner).unwrap_or_default().into_asked())
    }

    /// What was found.
    pub(super) fn into_report(self) -> Report {
        self.report.into_inner()
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, at: At) -> Option<usize> {
        at.0.map(|offset| self.source.line(offset))
    }

    fn place(&self, at: At, key: String, message: String) -> Fault {
        Fault { file: Arc::clone(self.source.path()), line: self.line(at), key, message }
    }
}

/// What is to be said of a certificate that ends then.
fn ending(not_after: SystemTime, now: SystemTime) -> Option<String> {
    let ends = match not_after.duration_since(now) {
        Ok(left) if left > ENDING_WITHIN => return None,
        Ok(_) => "ends within a week",
        Err(_past) => "has ended",
    };
    let at = timestamp::rfc3339(not_after).map(|at| format!(" ({at})")).unwrap_or_default();
    Some(format!(
        "names a file with a certificate that {ends}{at}: put the next one there, or take it out if others have replaced it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_of_a_week_before_and_from_then_on() {
        let (day, end) = (Duration::from_secs(24 * 3_600), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        for (now, words) in [
            (end - 8 * day, None),
            (end - 7 * day, Some("ends within a week (2027-01-15T08:00:00Z)")),
            (end, Some("ends within a week")),
            (end + Duration::from_secs(1), Some("has ended (2027-01-15T08:00:00Z)")),
        ] {
            let said = ending(end, now);
            assert!(
                said.as_deref().is_some_and(|said| words.is_some_and(|words| said.contains(words)))
                    || said.is_none() && words.is_none(),
                "{said:?}"
            );
        }
    }
}
