//! The fields of a JSON object, each read by itself.
//!
//! Must never let one field of a wrong type spoil the others, nor turn a large number into another one.

use std::collections::HashMap;

use serde_json::value::RawValue;

/// An object's fields as they were written. Of a name that stands twice the last counts; `null` is no field.
#[derive(Default)]
pub(super) struct Fields<'a>(HashMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    /// The fields of a body; none where it is anything but a JSON object in UTF-8.
    pub(super) fn parse(body: &'a [u8]) -> Self {
        std::str::from_utf8(body).map(Self::parse_text).unwrap_or_default()
    }

    fn parse_text(text: &'a str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_default())
    }

    /// Whether the field is there, of whatever type.
    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The field as it was written.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get()).filter(|text| *text != "null")
    }

    /// The field, if it is a string.
    pub(super) fn string(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.raw(name)?).ok()
    }

    /// The field, if it is a number or a string that holds one. What is beyond the range of `f64` comes out as infinite.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        let text = self.string(name);
        let text = text.as_deref().or(self.raw(name))?.trim();
        // Rust reads "inf" and "nan" as numbers too.
        let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        text.parse().ok().filter(|_| numeric)
    }

    /// The objects of the field, if it is a list; whatever else stands in it is passed over.
    pub(super) fn list(&self, name: &str) -> Vec<Self> {
        let values: Vec<&'a RawValue> = self.raw(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        values.into_iter().map(|value| Self::parse_text(value.get())).collect()
    }
}
