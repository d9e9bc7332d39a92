//! Pure: what editors, shells and copying leave in a file that is to hold text, above all one secret: a byte-order mark, another
//! encoding, a NUL, a line too many.
//!
//! Must never mend a secret in silence (a wrong password that is sent costs its user a day), cut off what may belong to it, nor
//! repeat any of it.

use std::fmt;

/// U+FEFF in UTF-8: what some editors begin a file with, and nobody sees.
pub const MARK: &[u8] = b"\xef\xbb\xbf";
/// How much is looked at to tell UTF-16 without a mark: no text begins with so many NULs by chance.
const WIDE_LOOKED_AT: usize = 64;

/// Why a text isn't taken. Its display fits behind "a file that", and ends with the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Two or four bytes a character.
    Wide,
    /// A byte-order mark, at the beginning or, where files were put together, elsewhere.
    Mark,
    /// Not UTF-8, from this line on.
    NotUtf8(usize),
    /// A NUL.
    Nul,
    /// More lines than one.
    Lines,
    /// A control character other than a tab.
    Control,
    /// Nothing.
    Empty,
    /// What no bearer token has.
    NoToken,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wide => "is UTF-16 or UTF-32: save it as UTF-8, without a byte-order mark",
            Self::Mark => "has a byte-order mark, which is seen nowhere and would be sent along: save it as UTF-8 without one",
            Self::NotUtf8(line) => return write!(f, "is not UTF-8 from line {line} on: save it as UTF-8"),
            Self::Nul => "has a NUL, which is in no secret that a person or a generator made: write the secret anew, as plain text",
            Self::Lines => {
                "has more than one line: write the secret on one, with nothing before or behind it (a line break at the end of a file \
                 is no part of it, but one only)"
            }
            Self::Control => "has a control character, which nobody can see or type: write the secret anew, as plain text",
            Self::Empty => "is empty: see that whoever writes the token there is done",
            Self::NoToken => "has something other than one token, which is one line of ASCII: leave that alone in it",
        })
    }
}

/// The text, if it is UTF-8; a mark at its beginning is passed over only by those for whom it means nothing.
pub fn utf8(bytes: &[u8]) -> Result<&str, Flaw> {
    if is_wide(bytes) {
        return Err(Flaw::Wide);
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.iter().take(error.valid_up_to());
        Flaw::NotUtf8(1 + good.filter(|byte| **byte == b'\n').count())
    })
}

/// The secret that a file holds: all of it, but for one line break at its end, which is the file's. Spaces are the secret's.
pub fn secret(bytes: &[u8]) -> Result<&str, Flaw> {
    let text = utf8(bytes)?;
    // Editors and `echo` end a file with a line break.
    let secret = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    is_one_line(secret).map(|()| secret)
}

/// Whether a secret, from wherever, is what somebody meant. Empty is for its owner to judge.
pub fn is_one_line(secret: &str) -> Result<(), Flaw> {
    for char in secret.chars() {
        return Err(match char {
            '\u{feff}' => Flaw::Mark,
            '\0' => Flaw::Nul,
            '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => Flaw::Lines,
            '\t' => continue,
            char if char.is_control() => Flaw::Control,
            _ => continue,
        });
    }
    Ok(())
}

/// Whether a secret has a character that nobody sees, as copying from a page leaves it; some write such passwords, so it may be meant.
pub fn has_unseen(secret: &str) -> bool {
    let at_an_end = |char: char| char.is_whitespace() && !char.is_ascii();
    let is_unseen = |char: char| {
        // The soft hyphen, spaces of no width, and signs for the direction of writing; but not the joiner, which some letters need.
        matches!(char, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
    };
    secret.contains(is_unseen) || secret.starts_with(at_an_end) || secret.ends_with(at_an_end)
}

/// The bearer token that a file holds. White space around it is no part of it, since none is in any token; whether it is one at all,
/// its reader judges.
pub fn token(bytes: &[u8]) -> Result<&str, Flaw> {
    let text = utf8(bytes)?.trim_ascii();
    if text.is_empty() {
        return Err(Flaw::Empty);
    }
    match text.bytes().find(|byte| !matches!(byte, b' '..=b'~')) {
        None => Ok(text),
        Some(0) => Err(Flaw::Nul),
        Some(_) if text.contains('\u{feff}') => Err(Flaw::Mark),
        Some(_) => Err(Flaw::NoToken),
    }
}

/// Whether this is text with two or four bytes a character: by its mark, or since every other byte is NUL and the rest isn't.
pub fn is_wide(bytes: &[u8]) -> bool {
    let looked_at = bytes.get(..WIDE_LOOKED_AT).unwrap_or(bytes);
    let mut pairs = looked_at.chunks_exact(2).peekable();
    let Some(first_is_nul) = pairs.peek().map(|pair| pair.starts_with(&[0])) else { return false };
    let alternates = pairs.all(|pair| pair.starts_with(&[0]) == first_is_nul && pair.ends_with(&[0]) != first_is_nul);
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || alternates
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `iconv -t UTF-16LE` or `UTF-16BE` writes it.
    fn wide(text: &str, encode: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(encode).collect()
    }

    #[test]
    fn a_secret_is_taken_exactly_or_not_at_all() {
        for (bytes, expected) in [
            (&b"1234Qwerty"[..], Ok("1234Qwerty")),
            (b"1234Qwerty\n", Ok("1234Qwerty")),
            (b"1234Qwerty\r\n", Ok("1234Qwerty")),
            (b" 1234 \t Qwerty \n", Ok(" 1234 \t Qwerty ")),
            ("p\u{e4}\u{df}\u{a0}\u{1f511}".as_bytes(), Ok("p\u{e4}\u{df}\u{a0}\u{1f511}")),
            (b"", Ok("")),
            (b"\n", Ok("")),
            (b"\xef\xbb\xbf1234Qwerty\n", Err(Flaw::Mark)),
            (b"\xef\xbb\xbf", Err(Flaw::Mark)),
            (b"1234\xef\xbb\xbfQwerty\n", Err(Flaw::Mark)),
            (b"\xff\xfe1\x002\x00", Err(Flaw::Wide)),
            (b"\xfe\xff\x001\x002", Err(Flaw::Wide)),
            (b"\xff\xfe\0\x001\0\0\0", Err(Flaw::Wide)),
            (b"1234Qwerty\n\n", Err(Flaw::Lines)),
            (b"1234Qwerty\r\n\r\n", Err(Flaw::Lines)),
            (b"1234Qwerty\r\r\n", Err(Flaw::Lines)),
            (b"1234Qwerty\r", Err(Flaw::Lines)),
            (b"\n1234Qwerty", Err(Flaw::Lines)),
            (b"\n\n", Err(Flaw::Lines)),
            (b"1234\nQwerty\n", Err(Flaw::Lines)),
            ("1234\u{2028}Qwerty".as_bytes(), Err(Flaw::Lines)),
            (b"1234Qwerty\0", Err(Flaw::Nul)),
            (b"1234\0Qwerty\n", Err(Flaw::Nul)),
            (b"1234Qwerty\x1a", Err(Flaw::Control)),
            (b"\x1b[200~1234Qwerty", Err(Flaw::Control)),
            ("1234\u{9b}Qwerty".as_bytes(), Err(Flaw::Control)),
            (b"1\n2\xff", Err(Flaw::NotUtf8(2))),
        ] {
            assert_eq!(secret(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_copying_leaves_is_seen() {
        for (secret, expected) in [
            ("1234Qwerty", false),
            (" 1234Qwerty\t", false),
            ("p\u{e4}ss\u{a0}wort", false),
            ("\u{1f469}\u{200d}\u{1f680}", false),
            ("1234Qwerty\u{200b}", true),
            ("\u{200e}1234Qwerty", true),
            ("1234\u{ad}Qwerty", true),
            ("1234Qwerty\u{a0}", true),
            ("\u{3000}1234Qwerty", true),
        ] {
            assert_eq!(has_unseen(secret), expected, "{secret:?}");
        }
    }

    #[test]
    fn a_token_stands_alone() {
        for (bytes, expected) in [
            (&b"a.b-c_d"[..], Ok("a.b-c_d")),
            (b" \r\na.b\n\n", Ok("a.b")),
            (b"", Err(Flaw::Empty)),
            (b" \n", Err(Flaw::Empty)),
            (b"\xef\xbb\xbfa.b\n", Err(Flaw::Mark)),
            (b"a.b\nc.d\n", Err(Flaw::NoToken)),
            (b"no token\n", Ok("no token")),
            ("a.\u{e4}".as_bytes(), Err(Flaw::NoToken)),
            (b"abc.\0", Err(Flaw::Nul)),
            (b"a\0.\0b\0", Err(Flaw::Wide)),
            (b"\xff", Err(Flaw::NotUtf8(1))),
        ] {
            assert_eq!(token(bytes), expected, "{bytes:?}");
        }
    }

    proptest! {
        /// However another program encodes it: what is taken is what was meant.
        #[test]
        fn no_encoding_makes_another_secret(meant in "[ -~]{1,30}", ending in prop::sample::select(vec!["", "\n", "\r\n"])) {
            let text = format!("{meant}{ending}");
            prop_assert_eq!(secret(text.as_bytes()), Ok(meant.as_str()));
            let marked = format!("\u{feff}{text}");
            prop_assert_eq!(secret(marked.as_bytes()), Err(Flaw::Mark));
            for text in [&text, &marked] {
                for encode in [u16::to_le_bytes, u16::to_be_bytes] {
                    prop_assert!(secret(&wide(text, encode)) == Err(Flaw::Wide));
                }
            }
            let twice = format!("{meant}\n{text}");
            prop_assert_eq!(secret(twice.as_bytes()), Err(Flaw::Lines));
        }

        #[test]
        fn no_bytes_panic_and_what_is_taken_is_there(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(secret) = secret(&bytes) {
                prop_assert!(bytes.starts_with(secret.as_bytes()) && bytes.len() <= secret.len() + 2);
            }
            if let Ok(token) = token(&bytes) {
                prop_assert!(token.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !token.is_empty());
            }
        }
    }
}
