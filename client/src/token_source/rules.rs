//! Pure: when a token ends and is renewed, and how long to pause after a failure.
//!
//! Must never have a token live longer than the broker said, nor name an instant that lets a call follow the last one at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::{backoff::Backoff, client::ClientError, proto::v1};

/// No token lives longer: the contract's.
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Of its life so much passes before a token is renewed, where the broker does not say when …
const SHARE_LEAST: f64 = 0.75;
/// … and up to so much more, by chance, so that callers who began together do not come at once. What is left, 15 % at least, is more
/// than the broker's margin, in which a call may have to wait.
const SHARE_SPREAD: f64 = 0.1;
/// After an answer, the next call for the same user comes no sooner, unless the token was complained of: whatever a broker says of
/// its tokens' lives, it is not asked in a loop.
pub(super) const REST: Duration = Duration::from_secs(1);
/// After a failure while there is no token: soon, since somebody waits; and no later than this, since a broker that is back is back.
const WITHOUT_TOKEN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
/// After a failed renewal: the token at hand is good, and all callers lost the same broker.
const WITH_TOKEN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// After an answer that no repeat helps against: somebody may have mended its cause, which nobody tells.
const REFUSED: Duration = Duration::from_secs(10);
/// A wait that the broker names is kept, but it is asked again after this long: whoever mended the cause may have ended the wait.
const PUSHBACK_MAX: Duration = Duration::from_secs(10 * 60);
/// Such a part of it is added by chance.
const PUSHBACK_SPREAD: f64 = 0.1;

/// The two instants of a token's life that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// From here on it is not handed out.
    pub(super) ends: Instant,
    /// From here on it is renewed: not later than its end.
    pub(super) renew: Instant,
}

/// The life of a token that a call brought which began at `sent`: counted from there, since nobody knows how long the answer was on
/// its way. `jitter` is 0 to 1.
pub(super) fn life(sent: Instant, token: &v1::Token, jitter: f64) -> Life {
    let duration = |wire: Option<prost_types::Duration>| wire.and_then(|wire| Duration::try_from(wire).ok());
    let lives = duration(token.expires_in).unwrap_or_default().min(LIFETIME_MAX);
    let share = SHARE_LEAST + SHARE_SPREAD * jitter.clamp(0.0, 1.0);
    let renew = duration(token.renew_in).map_or_else(|| lives.mul_f64(share), |named| named.min(lives));
    Life { ends: sent + lives, renew: sent + renew }
}

/// How long the source asks nothing for a user after this failure, the first of `before` + 1 in a row.
pub(super) fn pause(error: &ClientError, before: u32, has_token: bool, jitter: f64) -> Duration {
    let backoff = if has_token { WITH_TOKEN } else { WITHOUT_TOKEN };
    let ours = if error.is_permanent() { REFUSED } else { backoff.pause(before, jitter) };
    let named = error.retry_after().map(|wait| wait.min(PUSHBACK_MAX).mul_f64(1.0 + PUSHBACK_SPREAD * jitter.clamp(0.0, 1.0)));
    named.unwrap_or_default().max(ours)
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;
    use crate::token_source::now;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_is_counted_from_when_the_call_began() {
        let sent = now();
        let lives = |expires_in, renew_in, jitter| {
            let token = v1::Token { expires_in, renew_in, ..v1::Token::default() };
            let life = life(sent, &token, jitter);
            ((life.ends - sent).as_secs(), (life.renew - sent).as_secs())
        };
        assert_eq!(lives(seconds(1_000), None, 0.0), (1_000, 750));
        assert_eq!(lives(seconds(1_000), None, 1.0), (1_000, 850));
        assert_eq!(lives(seconds(1_000), None, 99.0), (1_000, 850), "whatever the jitter");
        assert_eq!(lives(seconds(-1), None, 1.0), (0, 0));
        assert_eq!(lives(None, None, 1.0), (0, 0));
        assert_eq!(lives(seconds(i64::MAX), None, 1.0).0, 7 * 24 * 3_600);
        // The broker has drawn its own lot.
        for jitter in [0.0, 1.0] {
            assert_eq!(lives(seconds(1_000), seconds(900), jitter), (1_000, 900));
            assert_eq!(lives(seconds(1_000), seconds(2_000), jitter), (1_000, 1_000), "not past its end");
        }
    }

    #[test]
    fn a_pause_is_the_brokers_or_doubles_and_is_never_none() {
        let status = |code, wait: Option<u64>| {
            let details = ErrorDetails::with_retry_info(wait.map(Duration::from_secs));
            ClientError::Status(Box::new(Status::with_error_details(code, "no", details)))
        };
        let none = |code| ClientError::Status(Box::new(Status::new(code, "no")));
        let secs = Duration::from_secs_f64;
        for (error, before, has_token, jitter, wanted) in [
            (none(Code::Unavailable), 0, false, 1.0, secs(0.2)),
            (none(Code::Unavailable), 30, false, 1.0, secs(2.0)),
            (none(Code::Unavailable), 0, false, 0.0, secs(0.01)),
            (none(Code::Unavailable), 0, true, 1.0, secs(1.0)),
            (none(Code::DeadlineExceeded), 30, true, 1.0, secs(30.0)),
            (none(Code::NotFound), 0, false, 0.0, REFUSED),
            (status(Code::Unavailable, Some(7)), 0, false, 0.0, secs(7.0)),
            (status(Code::Unavailable, Some(7)), 0, true, 1.0, secs(7.7)),
            (status(Code::Unavailable, Some(0)), 0, false, 0.0, secs(0.01)),
            (status(Code::ResourceExhausted, Some(86_400)), 0, true, 0.0, PUSHBACK_MAX),
        ] {
            assert_eq!(pause(&error, before, has_token, jitter), wanted, "{error:?} {before} {has_token} {jitter}");
        }
    }
}
