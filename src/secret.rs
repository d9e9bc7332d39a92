//! Values that cannot print themselves and are wiped when dropped.
//!
//! Must never offer a way to show the value by accident: no `Display`, no serialisation, and a `Debug` that says nothing,
//! not even the length.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// A password, a token, or a header's value that authenticates.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The value itself. Each call is a place to look at when secrets are reviewed.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    /// Takes the value over. A `String` with room to spare is moved into a smaller place, and what it leaves is not wiped: give
    /// one that fits, or wipe it yourself.
    fn from(value: String) -> Self {
        Self(SecretString::from(value))
    }
}

/// For tests and tables; the text given stays where it was.
impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(SecretString::from(value))
    }
}

/// Compares the values, to see whether a credential changed. Both sides come from the operator's files, so its time
/// tells a caller nothing.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_says_nothing_of_the_value() {
        assert_eq!(format!("{:?}", Secret::from("1234Qwerty")), "[redacted]");
        assert_eq!(format!("{:#?}", Some(Secret::from(""))), "Some(\n    [redacted],\n)");
    }
}
