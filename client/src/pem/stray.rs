//! Pure: lines between blocks that look like a block, or a part of one: markers with another number of dashes, in small letters,
//! behind a comment sign, with the long dashes of a word processor, and the base64 of a block that lost its marker.
//!
//! Must never take a comment for one lightly: text between blocks is allowed.

use super::{BEGIN, END, Words};

pub(super) const BEGINS: Words = (
    "begins a block otherwise than PEM does",
    "write -----BEGIN CERTIFICATE-----, or what else it is, in capitals between five dashes, with nothing before it on its line",
);
const ENDS: Words = ("ends a block that no line before it begins", "give each block whole, from BEGIN to END");
const BARE: Words = ("is base64 outside of a block", "give each block whole, from BEGIN to END, or take it out");

/// What may be meant by a marker that isn't written as PEM has it.
const LABELS: [&[u8]; 11] = [
    b"CERTIFICATE",
    b"X509 CERTIFICATE",
    b"TRUSTED CERTIFICATE",
    b"CERTIFICATE REQUEST",
    b"PRIVATE KEY",
    b"RSA PRIVATE KEY",
    b"EC PRIVATE KEY",
    b"ENCRYPTED PRIVATE KEY",
    b"PUBLIC KEY",
    b"X509 CRL",
    b"PKCS7",
];
/// How the base64 of certificates and keys begins: a SEQUENCE of 128 bytes or more.
const SEQUENCES: [&[u8]; 3] = [b"MII", b"MIG", b"MIH"];
/// Base64 that is as long is no word of a text.
const BARE_LEAST: usize = 40;

/// Whether this was meant for one of the labels, in whatever letters and with whatever spaces.
pub(super) fn is_label(written: &[u8]) -> bool {
    let words = |label: &[u8]| -> Vec<Vec<u8>> {
        label.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(<[u8]>::to_ascii_uppercase).collect()
    };
    let written = words(written);
    LABELS.iter().any(|label| words(label) == written)
}

/// What is wrong with a line that is in no block.
pub(super) fn find(line: &[u8]) -> Option<Words> {
    const WORD: &[u8] = b"BEGIN";
    if super::find(line, BEGIN).is_some() {
        return Some(BEGINS);
    }
    if super::find(line, END).is_some() {
        return Some(ENDS);
    }
    let places = line.windows(WORD.len()).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(WORD));
    let is_marker = |(at, _)| {
        let (before, from) = line.split_at_checked(at).unwrap_or((line, &[]));
        has_dashes(before) && is_label(until_dash(from.get(WORD.len()..).unwrap_or_default()))
    };
    if places.into_iter().any(is_marker) {
        return Some(BEGINS);
    }
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let mut tokens = line.split(|byte| !is_base64(byte));
    tokens.any(|token| token.len() >= BARE_LEAST && SEQUENCES.iter().any(|begins| token.starts_with(begins))).then_some(BARE)
}

/// Whether a text ends in two dashes or more, or in a long one, which some programs make of two.
fn has_dashes(before: &[u8]) -> bool {
    let before = before.trim_ascii_end();
    before.ends_with(b"--") || ends_long(before) || before.strip_suffix(b"-").is_some_and(ends_long)
}

/// Whether the last character is a long dash: U+2010 to U+2015, or the sign for minus.
fn ends_long(text: &[u8]) -> bool {
    matches!(text, [.., 0xe2, 0x80, 0x90..=0x95] | [.., 0xe2, 0x88, 0x92])
}

fn until_dash(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'-' || *byte == 0xe2).next().unwrap_or_default()
}
