//! Any answer of a vault.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{Asked, Failure, Reply, Unreadable, classify, fields, plain, wait};

const NUMBER: &str = "+447871239999";
/// Its plain characters are no word of ours.
const PASSWORD: &str = "kt7%Zq wR2";
const DAY: Duration = Duration::from_secs(86_400);
/// 2026-11-22T12:00:00Z.
const NOW: Duration = Duration::from_secs(1_795_348_800);
/// More names than an object's fields are kept of are read in part.
const NAMES_MAX: usize = 200;

/// A line with the status, and behind it how the body was cut short, if so; one with `Retry-After`; one with the seconds by which the vault's
/// clock is ahead; and the body.
pub(crate) fn reply(input: &[u8]) {
    let mut parts = input.splitn(4, |byte| *byte == b'\n');
    let [head, retry_after, ahead, body] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let (status, unreadable) = head_of(&String::from_utf8_lossy(head));
    let retry_after = str::from_utf8(retry_after).ok().filter(|text| !text.is_empty());
    let now = SystemTime::UNIX_EPOCH + NOW;
    let ahead = str::from_utf8(ahead).ok().and_then(|text| text.parse::<u32>().ok());
    let reply = Reply {
        status,
        retry_after: retry_after.as_slice(),
        date: ahead.map(|seconds| now + Duration::from_secs(seconds.into())),
        body,
        unreadable,
        now,
    };
    let asked = Asked { number: NUMBER, password: PASSWORD, assumed_lifetime: Duration::from_secs(300), at: now };
    let result = classify(&reply, &asked);
    shows_nothing(&format!("{result:?}"));
    // As another reader sees it, where it is JSON to the letter.
    let json: Option<Value> =
        serde_json::from_slice(body).ok().filter(|_| body.iter().filter(|b| **b == b':').count() < NAMES_MAX);
    let json = json.unwrap_or_default();
    match result {
        Ok(granted) => {
            let grant = granted.grant;
            assert!((200..300).contains(&status), "a token of what was not answered well");
            assert!(grant.lifetime > Duration::ZERO && grant.lifetime <= 7 * DAY, "{:?}", grant.lifetime);
            let token = grant.access_token.expose();
            assert!((1..=16_384).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!(!grant.scope.contains(token));
            if let Some(expected) = json.get("access_token").and_then(Value::as_str) {
                assert_eq!(token, expected, "another token than was given");
            }
            if let Some(most) = json.get("expires_in").and_then(Value::as_f64) {
                assert!(grant.lifetime.as_secs_f64() <= most, "longer than was said");
            }
        }
        Err(failure) => {
            let documented_no = json.get("errorId").is_some_and(|id| id == 11) && !(200..300).contains(&status);
            assert!(!documented_no || matches!(failure, Failure::Refused { .. }), "a documented no is {failure:?}");
            judge(&failure, json.get("access_token").and_then(Value::as_str).unwrap_or_default());
        }
    }
}

fn head_of(head: &str) -> (u16, Option<Unreadable>) {
    let (status, ending) = head.split_once(' ').unwrap_or((head, ""));
    let unreadable = match ending {
        "cut" => Some(Unreadable::CutOff),
        "long" => Some(Unreadable::TooLong),
        "encoded" => Some(Unreadable::Encoded),
        _ => None,
    };
    (status.parse().unwrap_or(200), unreadable)
}

/// Nothing that was sent comes out again.
fn shows_nothing(shown: &str) {
    let plain_secret: String = plain(PASSWORD).collect();
    let shown = shown.to_ascii_lowercase();
    for secret in [PASSWORD, &plain_secret, NUMBER.trim_start_matches('+')] {
        assert!(!shown.contains(&secret.to_ascii_lowercase()), "{shown}");
    }
}

fn judge(failure: &Failure, token: &str) {
    let (vault_error, wait) = match failure {
        Failure::Refused { vault_error, .. } => (vault_error.as_str(), None),
        Failure::Throttled { wait, vault_error, .. } => (vault_error.as_str(), Some(*wait)),
        Failure::Undocumented { wait, vault_error, .. } | Failure::Unavailable { wait, vault_error, .. } => {
            (vault_error.as_str(), *wait)
        }
        Failure::Invalid { .. } => ("", None),
        Failure::Broken => {
            assert!(!matches!(failure, Failure::Broken), "nothing broke");
            ("", None)
        }
    };
    assert!(vault_error.len() <= 64 && plain(vault_error).count() == vault_error.len(), "{vault_error}");
    assert!(token.is_empty() || !vault_error.contains(token), "the token stands in {vault_error}");
    assert!(wait.is_none_or(is_a_wait), "{wait:?}");
}

fn is_a_wait(wait: Duration) -> bool {
    wait > Duration::ZERO && wait <= DAY
}

/// Any words: a wait that is announced behind them is found, and nothing shorter than what they announce.
pub(crate) fn worded_wait(input: &[u8]) {
    let text = fields::readable(input);
    let found = wait::worded(&text);
    assert!(found.is_none_or(is_a_wait), "{found:?}");
    assert!(found.is_none() || text.chars().any(|char| char.is_ascii_digit()), "a wait of no number");
    let longer = wait::worded(&format!("{}. Please wait 30 minutes", *text));
    assert_eq!(longer, found.max(Some(Duration::from_secs(1_800))), "{}", *text);
}

/// Any `Retry-After`.
pub(crate) fn retry_after(input: &[u8]) {
    let Ok(header) = str::from_utf8(input) else { return };
    let found = wait::retry_after(header, SystemTime::UNIX_EPOCH + NOW);
    assert!(found.is_none_or(is_a_wait), "{found:?}");
    // As the standard has it, it says one thing only.
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = header.parse::<u64>().unwrap_or(u64::MAX).min(DAY.as_secs());
        assert_eq!(found, (seconds > 0).then(|| Duration::from_secs(seconds)), "{header}");
    }
}
