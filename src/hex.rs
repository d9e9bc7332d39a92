//! 128 bits as 32 hex digits, lower case: ids that are made for every call or token, too often for `write!`.
//!
//! Must never allocate.

/// The digits of 16 bytes.
pub(crate) fn of(bytes: [u8; 16]) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    digits
}

/// The digit of a value below 16.
fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' - 10 + value }
}

/// What [`of`] made, as text.
pub(crate) fn text(digits: &[u8]) -> &str {
    // Hex digits are always UTF-8.
    std::str::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_as_the_standard_library_does() {
        for byte in 0..=u8::MAX {
            assert_eq!(text(&of([byte; 16])), format!("{byte:02x}").repeat(16));
        }
    }
}
