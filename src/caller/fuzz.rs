//! Any pattern, and any name.

use super::{CallerName, CallerPattern, NameKind, WILDCARD};

/// A line with a pattern, and one with a name.
pub(crate) fn pattern_and_name(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (given, asking) = text.split_once('\n').unwrap_or((text, text));
    let name = CallerName::parse(asking).ok();
    if let Some(name) = &name {
        assert!(&**name == asking && asking.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*'), "{asking:?}");
        let itself = CallerPattern::parse(asking);
        assert!(itself.is_ok_and(|itself| itself.matches(name) && itself.exact() == Some(name)), "{asking:?}");
    }
    let Ok(pattern) = CallerPattern::parse(given) else { return };
    assert_eq!(pattern.as_str(), given);
    assert_eq!(pattern.exact().is_none(), given.contains(WILDCARD), "{given:?}");
    if let Some(name) = name {
        assert_eq!(pattern.matches(&name), means(given, &name), "{given:?} {asking:?}");
    }
}

/// Whether a pattern means a name, told in another way: segment by segment of the text, of which a wildcard is one and no trust domain.
fn means(pattern: &str, name: &CallerName) -> bool {
    let (separator, fixed) = match name.kind() {
        NameKind::Spiffe => ('/', 3),
        NameKind::ServiceAccount => (':', 2),
        NameKind::Dns => ('.', 0),
    };
    let (wanted, given): (Vec<_>, Vec<_>) = (pattern.split(separator).collect(), name.split(separator).collect());
    let is_meant = |(at, (wanted, given)): (usize, (&&str, &&str))| wanted == given || at >= fixed && *wanted == WILDCARD;
    let of_a_kind = (CallerName::parse(&pattern.replace(WILDCARD, "x"))).is_ok_and(|one| one.kind() == name.kind());
    of_a_kind && wanted.len() == given.len() && wanted.iter().zip(&given).enumerate().all(is_meant)
}
