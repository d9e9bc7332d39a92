//! How long does the vault ask to wait?
//!
//! Must never give a wait of zero: that names none, and the caller's own back-off counts.

use std::time::{Duration, SystemTime};

/// The longest wait that is believed. A day is the longest hold that the broker puts on by itself (`refusal_hold`); a larger
/// number is more likely a mistake of the vault's than a plan.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The words that announce a wait. Before them a time belongs to something else, as in "5 attempts within 24 hours".
const ANNOUNCING: [&str; 5] = ["wait", "again", "retry", "after", "for"];

/// The wait of a `Retry-After` header: seconds, with a fraction or several where a proxy has put headers together, or a date. What
/// is between two seconds is rounded up.
pub(super) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim_matches(|char: char| char == '"' || char.is_whitespace());
    if let Ok(date) = httpdate::parse_http_date(header) {
        return believed(date.duration_since(now).ok()?);
    }
    // "300s" and "5 minutes" are no standard, and can mean one thing only.
    header.split(',').filter_map(seconds).max().map_or_else(|| worded(&format!("wait {header}")), believed)
}

/// Seconds in decimal, rounded up.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| decimal)?;
    // More digits than fit are a wait too, a very long one.
    Some(Duration::from_secs_f64(seconds.ceil().min(WAIT_MAX.as_secs_f64())))
}

/// The longest wait that a sentence announces: "try again in 1 minute(s)", "wait 30 minutes", "wait 1 hour and 5 min".
pub(super) fn worded(text: &str) -> Option<Duration> {
    let mut announced = false;
    let mut number: Option<u64> = None;
    let mut sum = Duration::ZERO;
    let mut longest = Duration::ZERO;
    for run in text.split(|char: char| !char.is_alphanumeric()) {
        let (digits, letters) = run.split_at(run.find(|char: char| !char.is_ascii_digit()).unwrap_or(run.len()));
        if !digits.is_empty() {
            number = Some(digits.parse().unwrap_or(u64::MAX));
        }
        let word = letters.to_ascii_lowercase();
        if word.is_empty() {
            continue;
        }
        if let (Some(count), Some(unit)) = (number.take(), unit_seconds(&word)) {
            sum = sum.saturating_add(Duration::from_secs(count.saturating_mul(unit)));
            if announced {
                longest = longest.max(sum);
            }
        } else if !matches!(word.as_str(), "s" | "and") {
            // `minute(s)` and "1 hour and 5 minutes" go on; any other word ends the sum.
            sum = Duration::ZERO;
            announced |= ANNOUNCING.contains(&word.as_str());
        }
    }
    believed(longest)
}

/// A unit of time in seconds.
fn unit_seconds(word: &str) -> Option<u64> {
    Some(match word {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 60 * 60,
        "d" | "day" | "days" => 24 * 60 * 60,
        _ => return None,
    })
}

fn believed(wait: Duration) -> Option<Duration> {
    (!wait.is_zero()).then(|| wait.min(WAIT_MAX))
}
