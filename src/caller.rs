//! Who asks, and whom an entry of `[[callers]]` means: the names of callers and the patterns for them, parsed and matched here alone.
//!
//! Must never hold the name of somebody who has not proven it, nor let a pattern mean more callers than it says: names are compared
//! exactly, and a wildcard stands for one whole segment, never for a trust domain.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{fmt, ops::Deref, sync::Arc};

/// Stands for one whole segment of a caller's name.
pub const WILDCARD: &str = "*";

/// Longest name: the longest SPIFFE id (SPIFFE-ID, 2.3).
const NAME_MAX: usize = 2_048;
/// Longest label of a DNS name, and longest namespace (RFC 1123).
const LABEL_MAX: usize = 63;
/// Longest name of a service account, whatever its labels: a subdomain of DNS, as Kubernetes has it.
const ACCOUNT_MAX: usize = 253;
const SPIFFE: &str = "spiffe://";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CallerId {
    /// The listener asks for no identity.
    Anonymous,
    /// Somebody who has proven this name.
    Named(CallerName),
}

impl fmt::Display for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// The kinds of names. Which one a name is, its beginning says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// `spiffe://<trust domain>/<path>`
    Spiffe,
    /// `system:serviceaccount:<namespace>:<name>`
    ServiceAccount,
    /// A DNS name: everything else.
    Dns,
}

impl NameKind {
    fn of(text: &str) -> Self {
        if text.starts_with(SPIFFE) {
            Self::Spiffe
        } else if text.starts_with(SERVICE_ACCOUNT) {
            Self::ServiceAccount
        } else {
            Self::Dns
        }
    }

    /// What stands between two segments.
    fn separator(self) -> char {
        match self {
            Self::Spiffe => '/',
            Self::ServiceAccount => ':',
            Self::Dns => '.',
        }
    }
}

/// The name of one caller; clones share its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallerName {
    kind: NameKind,
    text: Arc<str>,
}

impl CallerName {
    /// A name as `[[callers]]` would take it, without a wildcard.
    ///
    /// # Errors
    /// Why it is none, in words that fit behind what it was given as.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let CallerPattern { name, wild } = CallerPattern::parse(text)?;
        if wild.is_some() { Err("has a wildcard, which names nobody in particular") } else { Ok(name) }
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> NameKind {
        self.kind
    }
}

/// Takes a name as it was proven, unchecked: one that [`CallerName::parse`] refuses is what no exact entry can mean.
impl From<&str> for CallerName {
    fn from(text: &str) -> Self {
        Self { kind: NameKind::of(text), text: Arc::from(text) }
    }
}

impl From<String> for CallerName {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl Deref for CallerName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// Which callers an entry means: one, or by wildcards all whose names differ in those segments alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerPattern {
    name: CallerName,
    /// Its segments where one of them is a wildcard, for which there is none here.
    wild: Option<Arc<[Option<Box<str>>]>>,
}

impl CallerPattern {
    /// Parses a name in which segments may be wildcards.
    ///
    /// # Errors
    /// Why it is none, in words that fit behind its key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let name = CallerName::from(text);
        check(&name)?;
        let segments = || text.split(name.kind.separator());
        let segment = |segment| if segment == WILDCARD { None } else { Some(Box::from(segment)) };
        let wild = segments().any(|segment| segment == WILDCARD).then(|| segments().map(segment).collect());
        Ok(Self { name, wild })
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The only name that it means, where it has no wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<&CallerName> {
        if self.wild.is_none() { Some(&self.name) } else { None }
    }

    /// Whether it means the caller of this name.
    #[must_use]
    pub fn matches(&self, name: &CallerName) -> bool {
        let Some(wild) = &self.wild else { return self.name == *name };
        let mut segments = name.split(name.kind.separator());
        self.name.kind == name.kind
            && wild.iter().all(|expected| {
                segments.next().is_some_and(|segment| expected.as_deref().is_none_or(|expected| expected == segment))
            })
            && segments.next().is_none()
    }
}

/// Whether it is a name of its kind, but for wildcards.
fn check(name: &CallerName) -> Result<(), &'static str> {
    if name.len() > NAME_MAX {
        return Err("is longer than 2,048 characters, which no id is");
    }
    match name.kind {
        NameKind::Spiffe => check_spiffe(name.strip_prefix(SPIFFE).unwrap_or_default()),
        NameKind::ServiceAccount => {
            let parts = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
            let is_name = |name: &str| name.len() <= ACCOUNT_MAX && name.split('.').all(is_label);
            let good = parts.is_some_and(|(namespace, name)| {
                let is_namespace = is_label(namespace) && namespace.len() <= LABEL_MAX;
                (namespace == WILDCARD || is_namespace) && (name == WILDCARD || is_name(name))
            });
            if good { Ok(()) } else { Err("is not a service account: write system:serviceaccount:NAMESPACE:NAME") }
        }
        NameKind::Dns if name.split('.').all(|segment| segment == WILDCARD) => {
            Err("names nobody in particular: give a SPIFFE id, system:serviceaccount:NAMESPACE:NAME, or a DNS name")
        }
        NameKind::Dns => {
            let good = |segment: &str| segment == WILDCARD || is_label(segment) && segment.len() <= LABEL_MAX;
            if name.split('.').all(good) {
                Ok(())
            } else {
                Err(
                    "is neither a SPIFFE id (spiffe://…), nor system:serviceaccount:NAMESPACE:NAME, nor a DNS name in lower case; `*` \
                     stands for one whole segment",
                )
            }
        }
    }
}

/// What comes behind `spiffe://` (SPIFFE-ID, 2).
fn check_spiffe(rest: &str) -> Result<(), &'static str> {
    let mut segments = rest.split('/');
    let domain = segments.next().unwrap_or_default();
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if domain.is_empty() || !domain.bytes().all(in_domain) {
        return Err("has no trust domain that can be: lower case letters, digits, `.`, `-` and `_`, and no wildcard");
    }
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let good = |segment: &str| segment == WILDCARD || (!matches!(segment, "" | "." | "..") && segment.bytes().all(in_path));
    if segments.all(good) {
        Ok(())
    } else {
        Err(
            "has a path with something other than letters, digits, `.`, `-` and `_` between single slashes; `*` stands for one whole \
             segment",
        )
    }
}

/// Whether it is made as a label of a DNS name in lower case is (RFC 1123), however long.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_name_a_caller_or_a_whole_segment() {
        let (label, account) = ("n".repeat(63), "a".repeat(253));
        for (good, kind) in [
            ("spiffe://example.org/ns/cards/sa/cards", NameKind::Spiffe),
            ("spiffe://example.org/ns/*/sa/cards", NameKind::Spiffe),
            ("spiffe://example.org", NameKind::Spiffe),
            ("system:serviceaccount:cards:cards", NameKind::ServiceAccount),
            ("system:serviceaccount:*:cards.v2", NameKind::ServiceAccount),
            (&format!("system:serviceaccount:{label}:{account}"), NameKind::ServiceAccount),
            ("cards.example.org", NameKind::Dns),
            ("*.example.org", NameKind::Dns),
            ("localhost", NameKind::Dns),
            (&label, NameKind::Dns),
        ] {
            let pattern = CallerPattern::parse(good).expect(good);
            let is_wild = good.contains('*');
            assert_eq!((pattern.as_str(), pattern.exact().is_none(), CallerName::parse(good).is_err()), (good, is_wild, is_wild));
            assert_eq!(CallerName::from(good).kind(), kind, "{good}");
        }
        for bad in [
            "",
            "*",
            "*.*",
            "spiffe://",
            "spiffe://*/ns/cards",
            "spiffe://Example.org/x",
            "spiffe://example.org/",
            "spiffe://example.org//x",
            "spiffe://example.org/x*",
            "spiffe://example.org/../x",
            "spiffe://example.org:8443/x",
            "spiffe://user@example.org/x",
            "https://example.org/x",
            "system:serviceaccount:cards",
            "system:serviceaccount:cards:cards:more",
            "system:serviceaccount:Cards:cards",
            "system:serviceaccount:ca*:cards",
            &format!("system:serviceaccount:{label}n:cards"),
            &format!("system:serviceaccount:cards:{account}a"),
            "system:node:worker",
            "Cards.example.org",
            "cards*.example.org",
            "cards..example.org",
            "cards example",
            &format!("{label}n.example.org"),
        ] {
            assert!(CallerPattern::parse(bad).is_err() && CallerName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wildcard_is_one_whole_segment() {
        for (pattern, name, expected) in [
            ("spiffe://example.org/ns/*/sa/cards", "spiffe://example.org/ns/a/sa/cards", true),
            ("spiffe://example.org/ns/*/sa/cards", "spiffe://example.org/ns/a/b/sa/cards", false),
            ("spiffe://example.org/ns/*/sa/cards", "spiffe://other.org/ns/a/sa/cards", false),
            ("spiffe://example.org/*", "spiffe://example.org", false),
            ("system:serviceaccount:*:cards", "system:serviceaccount:a:cards", true),
            ("system:serviceaccount:*:cards", "system:serviceaccount:a:card", false),
            ("system:serviceaccount:cards:*", "system:serviceaccount:cards:a.b", true),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "a.b.example.org", false),
            ("*.example.org", "example.org", false),
            // Another kind of name is never meant.
            ("*.org", "spiffe://example.org", false),
            ("cards.example.org", "cards.example.org", true),
            ("cards.example.org", "cards.example.org.", false),
        ] {
            let found = CallerPattern::parse(pattern).expect(pattern).matches(&CallerName::from(name));
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_meant_by_itself_and_by_its_wildcards(segments in prop::collection::vec("[a-z0-9]{1,3}", 1..5), wild in any::<[bool; 5]>()) {
            let write = |segments: &[String]| [
                format!("spiffe://example.org/{}", segments.join("/")),
                format!("system:serviceaccount:a:{}", segments.join(".")),
                segments.join("."),
            ];
            let wildcards: Vec<_> = segments.iter().zip(wild).map(|(segment, wild)| if wild { "*".to_owned() } else { segment.clone() }).collect();
            for (text, pattern) in write(&segments).iter().zip(write(&wildcards)) {
                let name = CallerName::parse(text).expect("is a name");
                prop_assert!(CallerPattern::parse(text).expect("is one").matches(&name));
                if let Ok(pattern) = CallerPattern::parse(&pattern) {
                    let longer = CallerName::from(format!("{text}{}more", name.kind().separator()));
                    prop_assert!(pattern.matches(&name) && !pattern.matches(&longer));
                }
            }
        }
    }
}
