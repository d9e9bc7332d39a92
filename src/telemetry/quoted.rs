//! The fields of a line of the log that is text: `name=value`, in quotes where the value could be read as more than one.
//!
//! Must never let a value look like another field.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

use crate::plain::is_plain;

/// The field that is the line's own text.
const MESSAGE: &str = "message";

/// Writes fields.
#[derive(Debug)]
pub(super) struct Quoted;

impl<'w> FormatFields<'w> for Quoted {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut written = Written { writer, any: false, result: Ok(()) };
        fields.record(&mut written);
        written.result
    }
}

struct Written<'w> {
    writer: Writer<'w>,
    any: bool,
    result: fmt::Result,
}

impl Written<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let space = if self.any { " " } else { "" };
        self.any = true;
        let writer = &mut self.writer;
        self.result = self.result.and_then(|()| match field.name() {
            MESSAGE => write!(writer, "{space}{value}"),
            name => write!(writer, "{space}{name}={value}"),
        });
    }
}

impl Visit for Written<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.put(field, format_args!("{value}"))
        } else {
            self.put(field, format_args!("{value:?}"))
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        let bare = |char| is_plain(char) && !matches!(char, ' ' | '"' | '\'' | '\\' | '=');
        if field.name() == MESSAGE || !text.is_empty() && text.chars().all(bare) {
            self.put(field, format_args!("{text}"));
        } else {
            self.put(field, format_args!("{text:?}"));
        }
    }
}
