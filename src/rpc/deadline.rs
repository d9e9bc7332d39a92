//! When a caller stops waiting.
//!
//! Must never leave a call without an end: where the caller names none, or one in years, the configuration's counts.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use http::{HeaderMap, HeaderName};
use tokio::time::{Instant, error::Elapsed, timeout_at};

/// The header of gRPC over HTTP/2: at most 8 digits and a unit.
const HEADER: HeaderName = HeaderName::from_static("grpc-timeout");
/// Longest deadline honoured, in seconds: a caller that waits longer holds its place for nothing.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// `grpc-timeout` is there, but is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The time a call with these headers may take.
///
/// # Errors
/// [`Malformed`], where the header is not 1 to 8 digits and one of `H M S m u n` (gRPC over HTTP/2, "Requests").
pub fn timeout(headers: &HeaderMap, default: Duration) -> Result<Duration, Malformed> {
    let Some(value) = headers.get(HEADER) else { return Ok(default) };
    let (unit, digits) = value.as_bytes().split_last().ok_or(Malformed)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let count = digits.iter().fold(0u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(Malformed),
    };
    Ok(timeout.min(TIMEOUT_MAX))
}

/// As [`timeout_at`], and without a timer for what need not be waited for: identity and message of nearly all calls. To be given what is
/// pinned where it is made, since each place that it was moved through would stay a part of the call.
///
/// # Errors
/// Where the deadline passes first.
pub async fn by<T>(deadline: Instant, mut future: Pin<&mut impl Future<Output = T>>) -> Result<T, Elapsed> {
    match poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => timeout_at(deadline, future).await,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "time is paused")]
    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_taken_however_late_and_what_is_not_is_waited_for_until_the_deadline() {
        let began = Instant::now();
        assert!(by(began, pin!(async { 1 })).await.is_ok());
        assert!(by(began + Duration::from_secs(2), pin!(tokio::time::sleep(Duration::from_secs(1)))).await.is_ok());
        assert!(by(began + Duration::from_secs(2), pin!(std::future::pending::<()>())).await.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }

    fn parsed(value: &'static str) -> Result<Duration, Malformed> {
        timeout(&HeaderMap::from_iter([(HEADER, http::HeaderValue::from_static(value))]), Duration::MAX)
    }

    #[test]
    fn every_unit_is_read() {
        assert_eq!(timeout(&HeaderMap::new(), Duration::from_secs(30)), Ok(Duration::from_secs(30)));
        for (value, expected) in [
            ("1H", TIMEOUT_MAX),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("1n", Duration::from_nanos(1)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parsed(value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for value in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1 S", "٣S"] {
            let Ok(value) = http::HeaderValue::from_bytes(value.as_bytes()) else { continue };
            let headers = HeaderMap::from_iter([(HEADER, value)]);
            assert_eq!(timeout(&headers, Duration::MAX), Err(Malformed), "{headers:?}");
        }
    }
}
