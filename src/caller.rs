//! Who asks, and whom an entry of `[[callers]]` means: the names of callers and the patterns for them, parsed and matched here alone.
//!
//! Must never hold the name of somebody who has not proven it, nor one that `[[callers]]` would not take, whoever vouches for it; nor let
//! a pattern mean more callers than it says: names are compared exactly, and a wildcard stands for one whole segment, never for a trust
//! domain.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{fmt, ops::Deref, sync::Arc};

#[cfg(test)]
mod tests;

/// Stands for one whole segment of a caller's name.
pub const WILDCARD: &str = "*";

/// Longest name: the longest SPIFFE id (SPIFFE-ID, 2.3).
const NAME_MAX: usize = 2_048;
/// Longest trust domain (SPIFFE-ID, 2.1).
const TRUST_DOMAIN_MAX: usize = 255;
/// Longest label of a DNS name, and longest namespace (RFC 1123).
const LABEL_MAX: usize = 63;
/// Longest DNS name as it is written (RFC 1035); and longest name of a service account, whatever its labels, as Kubernetes has it.
const DNS_MAX: usize = 253;
/// What the last labels of a DNS name must say without a wildcard, so that they belong to somebody: `example.org`.
const OWNED_LABELS: usize = 2;
/// Second labels under which countries let everybody have names, as in `co.uk`.
const COUNTRYS_OWN: [&str; 12] = ["ac", "co", "com", "edu", "gov", "gob", "mil", "ne", "net", "nom", "or", "org"];
/// The service account that Kubernetes makes in each namespace.
const DEFAULT_ACCOUNT: &str = "default";
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

impl CallerId {
    /// The name, where one was proven.
    #[must_use]
    pub fn name(&self) -> Option<&CallerName> {
        match self {
            Self::Anonymous => None,
            Self::Named(name) => Some(name),
        }
    }
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
    /// What a text is, if it is a name at all.
    pub(crate) fn of(text: &str) -> Self {
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

/// Why a text is no name. It holds nothing of that text, which may be a stranger's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// Longer than any name of its kind.
    TooLong,
    /// A SPIFFE id whose trust domain is none.
    TrustDomain,
    /// A SPIFFE id without a path, which is a trust domain's own.
    NoPath,
    /// A SPIFFE id whose path is none.
    Path,
    /// Not as Kubernetes names its service accounts.
    ServiceAccount,
    /// Nor anything else.
    Dns,
    /// Nothing but wildcards.
    Nobody,
    /// A wildcard where one caller is to be named.
    Wildcard,
}

impl fmt::Display for BadName {
    /// In words that fit behind what it was given as.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "is longer than any name: 2,048 characters for a SPIFFE id, 255 for its trust domain, 253 for a DNS name",
            Self::TrustDomain => {
                "has no trust domain that can be: lower case letters, digits, `.`, `-` and `_`, and no wildcard, port or user"
            }
            Self::NoPath => "names a trust domain and nobody in it: give the caller's whole SPIFFE id, spiffe://TRUST-DOMAIN/PATH",
            Self::Path => {
                "has a path with something other than letters, digits, `.`, `-` and `_` between single slashes; `*` stands for one whole \
                 segment"
            }
            Self::ServiceAccount => "is not a service account: write system:serviceaccount:NAMESPACE:NAME",
            Self::Dns => {
                "is neither a SPIFFE id (spiffe://…), nor system:serviceaccount:NAMESPACE:NAME, nor a DNS name in lower case; `*` \
                 stands for one whole segment"
            }
            Self::Nobody => {
                "names nobody in particular: give a SPIFFE id, system:serviceaccount:NAMESPACE:NAME, or a DNS name"
            }
            Self::Wildcard => "has a wildcard, which names nobody in particular",
        })
    }
}

/// The name of one caller, as `[[callers]]` would take it; clones share its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallerName {
    kind: NameKind,
    text: Arc<str>,
}

impl CallerName {
    /// A name as `[[callers]]` would take it, without a wildcard: the only way to one, for configurations, certificates and tokens.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let CallerPattern { name, wild } = CallerPattern::parse(text)?;
        if wild.is_some() { Err(BadName::Wildcard) } else { Ok(name) }
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> NameKind {
        self.kind
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
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let kind = NameKind::of(text);
        check(kind, text)?;
        let name = CallerName { kind, text: Arc::from(text) };
        let segments = || text.split(name.kind.separator());
        let segment = |segment| if segment == WILDCARD { None } else { Some(Box::from(segment)) };
        let wild = segments().any(|segment| segment == WILDCARD).then(|| segments().map(segment).collect());
        Ok(Self { name, wild })
    }

    /// What is worth a word to whoever wrote it, where it means more callers than is likely to be known: in words that fit behind its
    /// key.
    #[must_use]
    pub fn too_wide(&self) -> Option<&'static str> {
        const DOMAIN: &str = "means every workload of its trust domain, or nearly: give more of the path";
        const DEFAULT: &str = "means the account that each namespace has from the beginning, and so whatever runs there without one of its \
                               own: name the namespace, or give the caller an account of its own";
        self.wild.as_ref()?;
        let segments: Vec<&str> = self.name.split(self.name.kind.separator()).collect();
        match (self.name.kind, segments.as_slice()) {
            // As SPIRE and the meshes name what runs in Kubernetes.
            (NameKind::Spiffe, [_, _, _, "ns", WILDCARD, "sa", account]) if *account == DEFAULT_ACCOUNT => Some(DEFAULT),
            (NameKind::Spiffe, [_, _, _, "ns", WILDCARD, "sa", WILDCARD]) => Some(DOMAIN),
            (NameKind::Spiffe, [_, _, _, path @ ..]) => path.iter().all(|segment| *segment == WILDCARD).then_some(DOMAIN),
            (NameKind::ServiceAccount, [.., WILDCARD, WILDCARD]) => {
                Some("means every service account of the cluster: name the namespace, the account, or both")
            }
            (NameKind::ServiceAccount, [.., WILDCARD, account]) => (*account == DEFAULT_ACCOUNT).then_some(DEFAULT),
            (NameKind::Dns, labels) if !is_owned(labels) => Some(
                "leaves open whose domain it is, so that it means strangers' names too: give at least the last two labels, as in \
                 *.example.org",
            ),
            (NameKind::Spiffe | NameKind::ServiceAccount | NameKind::Dns, _) => None,
        }
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Which kind of names it means.
    #[must_use]
    pub fn kind(&self) -> NameKind {
        self.name.kind
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

/// Whether what comes behind the last wildcard belongs to somebody: two labels, or three where a country lets everybody have names.
fn is_owned(labels: &[&str]) -> bool {
    let fixed = labels.iter().rev().take_while(|label| **label != WILDCARD).count();
    let of_country = matches!(labels, [.., second, top] if top.len() == 2 && COUNTRYS_OWN.contains(second));
    fixed >= OWNED_LABELS + usize::from(of_country)
}

/// Whether it is a name of its kind, but for wildcards.
fn check(kind: NameKind, name: &str) -> Result<(), BadName> {
    if name.len() > NAME_MAX {
        return Err(BadName::TooLong);
    }
    match kind {
        NameKind::Spiffe => check_spiffe(name.strip_prefix(SPIFFE).unwrap_or_default()),
        NameKind::ServiceAccount => {
            let parts = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
            let is_name = |name: &str| name.len() <= DNS_MAX && name.split('.').all(is_label);
            let good = parts.is_some_and(|(namespace, name)| {
                let is_namespace = is_label(namespace) && namespace.len() <= LABEL_MAX;
                (namespace == WILDCARD || is_namespace) && (name == WILDCARD || is_name(name))
            });
            if good { Ok(()) } else { Err(BadName::ServiceAccount) }
        }
        NameKind::Dns if name.split('.').all(|segment| segment == WILDCARD) => Err(BadName::Nobody),
        NameKind::Dns => {
            let good = |segment: &str| segment == WILDCARD || is_label(segment) && segment.len() <= LABEL_MAX;
            if !name.split('.').all(good) {
                Err(BadName::Dns)
            } else if name.len() > DNS_MAX {
                Err(BadName::TooLong)
            } else {
                Ok(())
            }
        }
    }
}

/// What comes behind `spiffe://` (SPIFFE-ID, 2).
fn check_spiffe(rest: &str) -> Result<(), BadName> {
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !domain.split('.').all(|label| !label.is_empty() && label.bytes().all(in_domain)) {
        return Err(BadName::TrustDomain);
    }
    if domain.len() > TRUST_DOMAIN_MAX {
        return Err(BadName::TooLong);
    }
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let good = |segment: &str| segment == WILDCARD || (!matches!(segment, "" | "." | "..") && segment.bytes().all(in_path));
    if path.ok_or(BadName::NoPath)?.split('/').all(good) { Ok(()) } else { Err(BadName::Path) }
}

/// Whether it is made as a label of a DNS name in lower case is (RFC 1123), however long.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}
