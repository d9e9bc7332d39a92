//! Gathers what is wrong in one file while that is read, and where in it.
//!
//! Must never repeat a value of the file.

use std::{cell::RefCell, sync::Arc};

use super::{
    faults::{Fault, Report},
    source::Source,
};

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
}

impl<'s> Findings<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        Self { source, report: RefCell::default() }
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
