//! Whose token: the merchant and the number.
//!
//! Must never hold a value that was not checked, nor show a number in clear.

use std::{fmt, sync::Arc};

use crate::plain;

/// Longest merchant id, in characters: the contract's; the vault's are UUIDs of 36.
pub const MERCHANT_ID_MAX: usize = 128;
/// Fewest and most digits of a number: E.164 allows 15, and no subscriber's is shorter than 7.
const NUMBER_DIGITS: std::ops::RangeInclusive<usize> = 7..=NUMBER_BYTES - 1;
/// The longest number, with its `+`.
const NUMBER_BYTES: usize = 16;

/// A merchant as the vault's `X-Merchant-ID` names it: 1 to 128 visible ASCII characters, compared exactly. Clones share the text: a
/// merchant has many users.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MerchantId(Arc<str>);

impl MerchantId {
    /// Checks and takes over a merchant id.
    ///
    /// # Errors
    /// Says what is wrong with the value, in words that fit behind its field's name.
    pub fn parse(value: String) -> Result<Self, &'static str> {
        if value.is_empty() {
            Err("is missing: give the merchant's id, as the vault's X-Merchant-ID")
        } else if value.len() > MERCHANT_ID_MAX {
            Err("is too long: at most 128 characters")
        } else if !plain::all_bytes(&value, |byte| byte.is_ascii_graphic()) {
            Err("has a character that is not visible ASCII: a space, a control character or a letter outside ASCII")
        } else {
            Ok(Self(value.into()))
        }
    }

    /// The id as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MerchantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MerchantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A phone number in E.164, `^\+[1-9][0-9]{6,14}$`. Whoever prints it prints it masked.
/// Kept where it stands, with zeros behind it: it takes as much room as a pointer to it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number([u8; NUMBER_BYTES]);

impl Number {
    /// Checks and takes over a number.
    ///
    /// # Errors
    /// Says what is wrong with the value, in words that fit behind its field's name and don't repeat the value.
    pub fn parse(value: String) -> Result<Self, &'static str> {
        let Some(digits) = value.strip_prefix('+') else {
            return Err(if value.is_empty() {
                "is missing: give the user's phone number in E.164, such as +447871239999"
            } else {
                "does not begin with `+`: write it in E.164, such as +447871239999"
            });
        };
        if !plain::all_bytes(digits, |byte| byte.is_ascii_digit()) {
            Err("has something other than digits after the `+`: write it without spaces, dashes or brackets")
        } else if digits.starts_with('0') {
            Err("begins with 0 after the `+`: a country code comes first")
        } else if !NUMBER_DIGITS.contains(&digits.len()) {
            Err("is not 7 to 15 digits long")
        } else {
            let mut text = [0; NUMBER_BYTES];
            text.iter_mut().zip(value.bytes()).for_each(|(to, from)| *to = from);
            Ok(Self(text))
        }
    }

    /// What a person may see of it, in parts: the audit trail shows one in every line.
    #[must_use]
    pub fn masked(&self) -> [&str; 3] {
        let number = self.expose();
        let tail = if number.len() >= 11 { 4 } else { 2 };
        let head = number.get(..3).unwrap_or_default();
        [head, "…", number.get(number.len().saturating_sub(tail)..).unwrap_or_default()]
    }

    /// The number in clear, for the vault and for comparing; never for a person's eyes.
    #[must_use]
    pub fn expose(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        // Digits, as was checked.
        str::from_utf8(text).unwrap_or_default()
    }
}

/// Masked: `+44…9999`; short numbers keep fewer digits, so that at least three are hidden.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.masked().into_iter().try_for_each(|part| f.write_str(part))
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Whose token it is: the two fields apart, so that no pair can be mistaken for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey {
    /// The merchant.
    pub merchant: MerchantId,
    /// The user's number.
    pub number: Number,
}

/// For people: the merchant, and the number masked.
impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of merchant {}", self.number, self.merchant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_and_masked() {
        for (number, masked) in
            [("+447871239999", "+44…9999"), ("+1234567", "+12…67"), ("+1234567890", "+12…7890"), ("+123456789012345", "+12…2345")]
        {
            let number = Number::parse(number.to_owned()).expect("is E.164");
            assert_eq!(number.to_string(), masked);
            assert_eq!(format!("{number:?}"), format!("\"{masked}\""));
        }
        for bad in [
            "",
            "+",
            "447871239999",
            "+0123456789",
            "+123456",
            "+1234567890123456",
            "+44 7871239999",
            "+44787123999٩",
            " +447871239999",
        ] {
            assert!(Number::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn merchants_are_checked() {
        for good in ["a", "bece038f-2e46-49f4-b25e-89cd38d6dc16", &"x".repeat(128)] {
            assert_eq!(MerchantId::parse(good.to_owned()).expect("is visible ASCII").as_str(), good);
        }
        for bad in ["", " ", "a b", "a\n", "ä", &"x".repeat(129)] {
            assert!(MerchantId::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
