//! Pure: a pattern for durations as people write them, within a range as far as a pattern can tell.
//!
//! Must never leave out what the reader takes, but for digits with spaces between them: a sum of several parts, or a part with a
//! fraction, is matched whatever it comes to, and the reader judges it.

use std::time::Duration;

use crate::config::limits::Limits;

const MILLI: u128 = 1_000_000;
const SECOND: u128 = 1_000 * MILLI;
/// The units of `humantime`, and how many nanoseconds each has. Of those without any, nobody writes a limit.
const UNITS: [(&str, Option<u128>); 10] = [
    ("(?:nanos|nsec|ns)", None),
    ("(?:usec|us|µs)", None),
    ("(?:millis|msec|ms)", Some(MILLI)),
    ("(?:seconds|second|secs|sec|s)", Some(SECOND)),
    ("(?:minutes|minute|mins|min|m)", Some(60 * SECOND)),
    ("(?:hours|hour|hrs|hr|h)", Some(3_600 * SECOND)),
    ("(?:days|day|d)", Some(86_400 * SECOND)),
    ("(?:weeks|week|wks|wk|w)", Some(7 * 86_400 * SECOND)),
    ("(?:months|month|M)", Some(2_630_016 * SECOND)),
    ("(?:years|year|yrs|yr|y)", Some(31_557_600 * SECOND)),
];

/// The pattern of durations within these limits.
pub(super) fn pattern(limits: &Limits<Duration>) -> String {
    let (least, most) = (limits.least.as_nanos(), limits.most.as_nanos());
    let alone = UNITS.iter().filter_map(|(unit, nanos)| {
        let Some(nanos) = *nanos else { return Some(format!("[0-9]+\\s*{unit}")) };
        let numbers = numbers(least.div_ceil(nanos), most / nanos)?;
        Some(format!("0*(?:{numbers})\\s*{unit}"))
    });
    let alone: Vec<_> = alone.collect();
    let units: Vec<_> = UNITS.iter().map(|(unit, _)| *unit).collect();
    let (alone, unit) = (alone.join("|"), units.join("|"));
    let zero = if least == 0 { "0|" } else { "" };
    let sum = format!("(?:[0-9]+(?:\\.[0-9]+)?\\s*(?:{unit})\\s*){{2,}}");
    format!("^(?:{zero}\\s*(?:{alone}|[0-9]+\\.[0-9]+\\s*(?:{unit})|{sum})\\s*)$")
}

/// A pattern of the numbers from one to another, without zeros before them.
fn numbers(least: u128, most: u128) -> Option<String> {
    if least > most {
        return None;
    }
    let mut patterns = Vec::new();
    let mut from = least;
    while from <= most {
        // The largest block of numbers that begins here and differs in its last digits only.
        let mut size = 1;
        while from.is_multiple_of(size * 10) && from != 0 && from + size * 10 - 1 <= most {
            size *= 10;
        }
        let digit = from / size % 10;
        let steps = (9 - digit).min((most + 1 - from) / size - 1);
        let before = from / size / 10;
        let before = if before == 0 { String::new() } else { before.to_string() };
        let digits = if steps == 0 { digit.to_string() } else { format!("[{digit}-{}]", digit + steps) };
        let behind = size.ilog10();
        let behind = if behind == 0 { String::new() } else { format!("[0-9]{{{behind}}}") };
        patterns.push(format!("{before}{digits}{behind}"));
        from += (steps + 1) * size;
    }
    Some(patterns.join("|"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_taken(text: &str, limits: &Limits<Duration>) -> bool {
        humantime::parse_duration(text).is_ok_and(|value| (limits.least..=limits.most).contains(&value))
    }

    fn matches(text: &str, limits: &Limits<Duration>) -> bool {
        let schema = serde_json::json!({ "pattern": pattern(limits) });
        jsonschema::is_valid(&schema, &serde_json::Value::from(text))
    }

    #[test]
    fn a_pattern_tells_durations_and_their_range() {
        let limits = Limits { default: Duration::ZERO, least: Duration::from_millis(100), most: Duration::from_secs(120) };
        for text in ["100ms", "1s", "120s", "0120 s", "2m", "1.5s", "1m 60s", " 2min ", "120000ms", "1h 0s"] {
            assert!(matches(text, &limits), "{text}");
        }
        for text in ["", "0", "99ms", "0s", "121s", "3m", "1h", "120001ms", "soon", "-1s", "5", "1 fortnight", "1y"] {
            assert!(!matches(text, &limits), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_reader_takes_matches(
            (least, length) in (0_u64..5_000, 0_u64..4_000_000),
            parts in prop::collection::vec((0_u64..5_000, 0_usize..6, any::<bool>()), 1..4),
        ) {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(least + length));
            let limits = Limits { default: least, least, most };
            let unit = |unit: usize| ["ms", "s", "m", "hours", "d", "us"][unit];
            let text: String = parts.iter().map(|(n, u, space)| format!("{n}{}{} ", if *space { " " } else { "" }, unit(*u))).collect();
            let text = text.trim();
            if is_taken(text, &limits) {
                prop_assert!(matches(text, &limits), "{text} {limits:?}");
            } else if parts.len() == 1 && !text.ends_with("us") {
                prop_assert!(!matches(text, &limits), "{text} {limits:?}");
            }
        }
    }
}
