//! Pure: text of others, as it may be shown to people and to what reads lines: nothing in it ends a line, steers a terminal, hides, or
//! turns the direction of writing.
//!
//! Must never change what is plain, nor leave anything out: what isn't plain is shown by its number, `\u001b`, as JSON writes it.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character shows as itself, and as nothing else. By Unicode's kinds, as `Debug` has them: no control character, none for
/// formats and directions, no separator of lines or paragraphs, no space but the plain one, and none that nobody has assigned.
pub fn is_plain(char: char) -> bool {
    match char {
        ' '..='~' => true,
        char if char.is_ascii() => false,
        // One character stands for itself there; what is escaped takes several.
        char => char.escape_debug().len() == 1,
    }
}

/// The text on one line: whatever isn't plain as `\uXXXX`, which is also right within a string of JSON.
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// The same with its lines as they are, for reports of several.
pub fn in_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |char| char == '\n')
}

/// Whether all of a short text's bytes are so: looked at without an end before the last, many at a time.
pub fn all_bytes(text: &str, is: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & is(byte))
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if all_bytes(text, |byte| matches!(byte, b' '..=b'~')) {
        // As nearly all texts are, and each line of the trail has some.
        return Cow::Borrowed(text);
    }
    let shows = |char| is_plain(char) || keep(char);
    if text.chars().all(shows) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len().saturating_mul(2));
    for char in text.chars() {
        if shows(char) {
            line.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            // Memory takes everything that is written to it.
            write!(line, "\\u{unit:04x}").ok();
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_deceive_is_shown_by_its_number() {
        for (text, expected) in [
            ("caller=a \"b\" 'c' \\ …é漢🔑", "caller=a \"b\" 'c' \\ …é漢🔑"),
            ("a\nb\r\tc", "a\\u000ab\\u000d\\u0009c"),
            ("\u{1b}[2J\u{7f}\u{9b}31m", "\\u001b[2J\\u007f\\u009b31m"),
            ("a\u{2028}b\u{2029}c\u{85}", "a\\u2028b\\u2029c\\u0085"),
            ("\u{202e}a\u{2066}b\u{200b}\u{feff}\u{ad}", "\\u202ea\\u2066b\\u200b\\ufeff\\u00ad"),
            ("\u{e0041}", "\\udb40\\udc41"),
            ("", ""),
        ] {
            assert_eq!(on_one_line(text), expected);
        }
        assert_eq!(in_lines("a\nb\u{1b}"), "a\nb\\u001b");
    }

    proptest! {
        #[test]
        fn one_line_is_one_line_and_json_reads_it_back(text in "(\\PC|\\p{C}|[ -~]){0,40}") {
            let line = on_one_line(&text);
            prop_assert!(line.chars().all(is_plain), "{:?}", line);
            let unescaped = text.replace(['"', '\\'], "");
            let json = format!("\"{}\"", on_one_line(&unescaped));
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("is JSON"), unescaped);
        }
    }
}
