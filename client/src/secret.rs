//! Values that cannot print themselves, are in memory once, and are wiped when the last holder lets go of them.
//!
//! Must never offer a way to show the value by accident: no `Display`, no serialisation, and a `Debug` that says nothing,
//! not even the length. Must never copy the value: a clone holds the same bytes.

use std::{fmt, sync::Arc};

use zeroize::{Zeroize as _, Zeroizing};

/// A password, or a token.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Box<str>>>);

impl Secret {
    /// The value itself. Each call is a place to look at when secrets are reviewed.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    /// Takes the value over where it stands. Where there is room behind it, it is copied instead and wiped there: to give the room
    /// back may move it, and would leave it behind.
    fn from(mut value: String) -> Self {
        if value.capacity() == value.len() {
            return Self(Arc::new(Zeroizing::new(value.into_boxed_str())));
        }
        let secret = Self(Arc::new(Zeroizing::new(Box::from(value.as_str()))));
        value.zeroize();
        secret
    }
}

/// Copies the text; the one given stays where it was, for its owner to wipe.
impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(Arc::new(Zeroizing::new(Box::from(value))))
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
    use zeroize::ZeroizeOnDrop;

    use super::*;

    #[test]
    fn debug_says_nothing_of_the_value() {
        assert_eq!(format!("{:?}", Secret::from("1234Qwerty")), "[redacted]");
        assert_eq!(format!("{:#?}", Some(Secret::from(""))), "Some(\n    [redacted],\n)");
    }

    #[test]
    fn a_value_is_in_memory_once_and_goes_with_its_last_holder() {
        let given = "1234Qwerty".to_owned();
        let place = given.as_ptr();
        let secret = Secret::from(given);
        let clone = secret.clone();
        assert_eq!((secret.expose().as_ptr(), clone.expose().as_ptr()), (place, place), "neither moved nor copied");

        let mut roomy = String::with_capacity(100);
        roomy.push_str("1234Qwerty");
        assert_eq!(Secret::from(roomy), secret, "it may stand elsewhere, but is the same");

        let value = Arc::downgrade(&secret.0);
        drop(secret);
        assert!(value.upgrade().is_some(), "somebody holds it still");
        drop(clone);
        assert!(value.upgrade().is_none());
        // That memory can't be looked at without `unsafe`; the type says what becomes of it.
        fn is_wiped<T: ZeroizeOnDrop>(_: Option<&T>) {}
        is_wiped::<Zeroizing<Box<str>>>(value.upgrade().as_deref());
    }
}
