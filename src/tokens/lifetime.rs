//! How long a new token lives, from what the vault said about it.
//!
//! Must never answer more than the vault said, nor nothing or less, nor more than seven days.

use std::time::Duration;

/// No token is believed to live longer, whatever is said: the contract's bound on every duration. It keeps a nonsensical
/// `expires_in` from pinning a token that the vault has long forgotten.
pub const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A new token's lifetime, counted from the instant its request was sent: whole seconds where the vault said something.
///
/// `expires_in` is the reply's, `jwt` the token's own `exp − iat`, both in seconds as said: negative, fractional and infinite
/// values are welcome, and NaN counts as nothing said. The smaller one counts; `assumed` does where there is neither. `None`
/// where that leaves nothing: such a token was dead when it was issued.
#[must_use]
pub fn lifetime(expires_in: Option<f64>, jwt: Option<f64>, assumed: Duration) -> Option<Duration> {
    let said = [expires_in, jwt].into_iter().flatten().filter(|seconds| !seconds.is_nan()).reduce(f64::min);
    let lifetime = match said {
        // Below one second the whole seconds are zero; clamped, the conversion can't fail.
        Some(seconds) => Duration::from_secs_f64(seconds.trunc().clamp(0.0, LIFETIME_MAX.as_secs_f64())),
        None => assumed.min(LIFETIME_MAX),
    };
    (!lifetime.is_zero()).then_some(lifetime)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASSUMED: Duration = Duration::from_secs(300);

    #[test]
    fn the_smaller_of_what_is_said_counts() {
        let week = 604_800;
        for (expires_in, jwt, seconds) in [
            (None, None, Some(300)),
            (Some(86_399.0), None, Some(86_399)),
            (Some(86_399.0), Some(86_400.0), Some(86_399)),
            (Some(86_400.0), Some(3_600.0), Some(3_600)),
            (None, Some(3_600.0), Some(3_600)),
            (Some(1.999), None, Some(1)),
            (Some(0.999), None, None),
            (Some(0.0), None, None),
            (Some(-0.0), None, None),
            (Some(-1.0), None, None),
            (Some(86_400.0), Some(0.0), None),
            (Some(86_400.0), Some(-5.0), None),
            (Some(f64::NEG_INFINITY), None, None),
            (Some(f64::INFINITY), None, Some(week)),
            (Some(604_801.0), None, Some(week)),
            (Some(f64::INFINITY), Some(60.0), Some(60)),
            (Some(f64::NAN), None, Some(300)),
            (Some(f64::NAN), Some(60.0), Some(60)),
        ] {
            assert_eq!(lifetime(expires_in, jwt, ASSUMED), seconds.map(Duration::from_secs), "{expires_in:?} {jwt:?}");
        }
        assert_eq!(lifetime(None, None, Duration::ZERO), None);
        assert_eq!(lifetime(None, None, Duration::MAX), Some(LIFETIME_MAX));
    }

    proptest! {
        #[test]
        fn it_is_within_what_is_said_and_seven_days(
            expires_in in proptest::option::of(any::<f64>()), jwt in proptest::option::of(any::<f64>()), assumed in any::<Duration>(),
        ) {
            if let Some(lifetime) = lifetime(expires_in, jwt, assumed) {
                prop_assert!(lifetime > Duration::ZERO && lifetime <= LIFETIME_MAX);
                for said in [expires_in, jwt].into_iter().flatten().filter(|said| !said.is_nan()) {
                    prop_assert!(lifetime.as_secs_f64() <= said);
                }
            }
        }
    }
}
