//! Any entries, and any call.

use super::{CallerId, Leave, Listed, Merchants, Policy, UserKey};
use crate::{
    caller::{CallerName, CallerPattern},
    config::CallerConfig,
    user::{MerchantId, Number},
};

/// A line for each entry: its id, its merchants (`*`: all), and its numbers, if only some, separated by commas. The last line is the call: who
/// asks, for which merchant's user of which number.
pub(crate) fn decision(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut lines: Vec<_> = text.lines().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    let call = lines.pop().unwrap_or_default();
    let [caller, merchant, number] = call[..] else { return };
    let (Ok(caller), Some((merchant, number))) = (CallerName::parse(caller), user(merchant, number)) else { return };
    let entries: Vec<_> = lines.iter().enumerate().filter_map(|(line, words)| entry(words, line)).collect();
    let key = UserKey { merchant: merchant.clone(), number: number.clone() };
    let policy = Policy::Listed(Listed::new(&entries, true));
    // Told in another way: entry by entry.
    let gives = |entry: &&CallerConfig| {
        let merchants = match &entry.merchants {
            Merchants::All => true,
            Merchants::Only(some) => some.contains(&merchant),
        };
        entry.id.matches(&caller) && merchants && entry.numbers.as_ref().is_none_or(|some| some.contains(&number))
    };
    match policy.decide(&CallerId::Named(caller.clone()), &key) {
        Ok(Leave::Entry { id, line }) => {
            let named = entries.iter().find(|entry| entry.line == line);
            assert!(named.is_some_and(|entry| entry.id.as_str() == id && gives(&entry)), "line {line} does not give it");
        }
        Ok(Leave::Everyone) => assert!(matches!(policy, Policy::Everyone), "everybody may, though callers are listed"),
        Err(denial) => assert!(!entries.iter().any(|entry| gives(&entry)), "{denial:?}"),
    }
    assert!(policy.decide(&CallerId::Anonymous, &key).is_err(), "nobody in particular is listed");
}

fn user(merchant: &str, number: &str) -> Option<(MerchantId, Number)> {
    Some((MerchantId::parse(merchant.to_owned()).ok()?, Number::parse(number.to_owned()).ok()?))
}

fn entry(words: &[&str], line: usize) -> Option<CallerConfig> {
    let (id, merchants, numbers) = match *words {
        [id, merchants] => (id, merchants, None),
        [id, merchants, numbers] => (id, merchants, Some(numbers)),
        _ => return None,
    };
    let merchants = match merchants {
        "*" => Merchants::All,
        some => Merchants::Only(some.split(',').filter_map(|id| MerchantId::parse(id.to_owned()).ok()).collect()),
    };
    let numbers = numbers.map(|some| some.split(',').filter_map(|number| Number::parse(number.to_owned()).ok()).collect());
    Some(CallerConfig { id: CallerPattern::parse(id).ok()?, merchants, numbers, trial: false, line })
}
