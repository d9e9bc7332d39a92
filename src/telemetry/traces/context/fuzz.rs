//! Any `traceparent`.

use http::{HeaderMap, HeaderValue};

use super::{Context, HEADER, LENGTH};

/// The header's value.
pub(crate) fn header(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let mut headers = HeaderMap::from_iter([(HEADER, value)]);
    if let Some(context) = Context::of(&headers) {
        let written = context.to_string();
        assert!(written.len() == LENGTH && written.starts_with("00-"), "{written}");
        // Trace and span come out as they came in, whatever the version.
        assert_eq!(written.as_bytes().get(3..53), input.get(3..53), "{written}");
        assert!(input.get(..2) != Some(b"00") || input.len() == LENGTH, "more than version 00 says");
        let again = HeaderMap::from_iter(written.parse().map(|value| (HEADER, value)).ok());
        assert_eq!(Context::of(&again), Some(context));
    }
    headers.append(HEADER, HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert_eq!(Context::of(&headers), None, "two of them");
}
