//! Arguments of the form `key=value`, such as `connections=4`.
//!
//! A key that the program didn't ask for is an error: a measurement must never run with another setting than was meant.

use std::{collections::BTreeMap, str::FromStr};

/// What stood on the command line and was not asked for yet.
#[derive(Debug)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// Takes arguments apart.
    ///
    /// # Errors
    ///
    /// Where one has no `=`.
    pub fn new(arguments: &[String]) -> Result<Self, String> {
        let pair = |argument: &String| argument.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        arguments
            .iter()
            .map(|argument| pair(argument).ok_or(format!("{argument}: not key=value")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Takes out a value, if it was given.
    ///
    /// # Errors
    ///
    /// Where it can't be read as what is wanted.
    pub fn find<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("{key}={value}: not such a value"))
    }

    /// Takes out a value, or takes this one.
    ///
    /// # Errors
    ///
    /// As [`Options::find`].
    pub fn get<T: FromStr>(&mut self, key: &str, default: T) -> Result<T, String> {
        Ok(self.find(key)?.unwrap_or(default))
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// Where something is left that nobody asked for.
    pub fn end(self) -> Result<(), String> {
        self.0.keys().next().map_or(Ok(()), |key| Err(format!("{key}=…: unknown")))
    }
}
