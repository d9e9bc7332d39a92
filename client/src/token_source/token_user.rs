//! Whose token: a user's two names, with their hash worked out once.
//!
//! Must never print a number in full.

use std::{
    collections::hash_map::DefaultHasher,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// Digits of a number that are shown, at its end: as in the broker's log.
const SHOWN: usize = 4;

/// A user of the vault, at one merchant. Make one and keep it: clones are cheap, and so is looking its token up.
#[derive(Clone)]
pub struct User(Arc<Names>);

struct Names {
    hash: u64,
    merchant_id: Box<str>,
    number: Box<str>,
}

impl User {
    /// The user with this number, such as `+447871239999`, at this merchant. Whether there is such a user, the broker says.
    #[must_use]
    pub fn new(merchant_id: &str, number: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (merchant_id, number).hash(&mut hasher);
        Self(Arc::new(Names { hash: hasher.finish(), merchant_id: merchant_id.into(), number: number.into() }))
    }

    /// The merchant.
    #[must_use]
    pub fn merchant_id(&self) -> &str {
        &self.0.merchant_id
    }

    /// The number: not for logs.
    #[must_use]
    pub fn number(&self) -> &str {
        &self.0.number
    }

    pub(super) fn digest(&self) -> u64 {
        self.0.hash
    }
}

impl PartialEq for User {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash && self.0.number == other.0.number && self.0.merchant_id == other.0.merchant_id)
    }
}

impl Eq for User {}

impl Hash for User {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

/// With the number masked.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .0
            .number
            .char_indices()
            .rev()
            .nth(SHOWN - 1)
            .filter(|(at, _)| *at > 0)
            .map_or("", |(at, _)| self.0.number.get(at..).unwrap_or_default());
        f.debug_struct("User").field("merchant_id", &self.0.merchant_id).field("number", &format_args!("…{shown}")).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_its_two_names_and_shows_no_number() {
        let user = User::new("m", "+447871239999");
        assert!(
            user == User::new("m", "+447871239999") && user != User::new("n", "+447871239999") && user != User::new("m", "+1")
        );
        assert_eq!(format!("{user:?}"), r#"User { merchant_id: "m", number: …9999 }"#);
        for short in ["+12", "+123"] {
            assert_eq!(format!("{:?}", User::new("m", short)), r#"User { merchant_id: "m", number: … }"#);
        }
    }
}
