//! Any text in PEM, or what looks like it.

use crate::pem::{Chain, Fault, Key, authorities, blocks, write};

/// What every block begins with.
const BEGIN: &[u8] = b"-----BEGIN ";

/// Base64 that is this long is part of a key or of a certificate, and of no text of ours.
const PART: usize = 12;

/// A file's contents.
pub(super) fn text(input: &[u8]) {
    match blocks(input) {
        Ok(found) => {
            assert!(found.windows(2).all(|pair| matches!(pair, [one, next] if one.line <= next.line)), "in order");
            let (mut begins, mut rest) = (0, input);
            while let Some(at) = find(rest, BEGIN) {
                begins += 1;
                rest = rest.get(at + BEGIN.len()..).unwrap_or_default();
            }
            assert_eq!(found.len(), begins, "a block was passed over");
            let again = blocks(&write(&found)).unwrap_or_default();
            let same = found.len() == again.len()
                && found.iter().zip(&again).all(|(one, other)| one.kind == other.kind && one.der == other.der);
            assert!(same, "it is not what it is when it is written anew");
        }
        Err(fault) => judge(fault, input),
    }
    if let Err(fault) = authorities(input) {
        judge(fault, input);
    }
    match (Chain::read(input), Key::read(input)) {
        (Ok(chain), Ok(key)) => {
            assert!(chain.goes_with(&key).is_ok() && key.unused(&chain).is_none(), "one file for both goes together")
        }
        (chain, key) => chain.err().into_iter().chain(key.err()).for_each(|fault| judge(fault, input)),
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// It names a line that is there, and repeats nothing of what may be a key.
fn judge(fault: Fault, input: &[u8]) {
    let lines = 1 + input.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    assert!(fault.line.is_none_or(|line| (1..=lines).contains(&line)), "{fault}");
    let said = fault.to_string();
    let is_code = |part: &&[u8]| part.iter().all(|byte| byte.is_ascii_alphanumeric()) && part.iter().any(u8::is_ascii_digit);
    for part in input.windows(PART).filter(is_code) {
        assert!(find(said.as_bytes(), part).is_none(), "{fault}");
    }
}
