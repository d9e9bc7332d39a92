//! Any certificate, and any names in one.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::{Facts, Names, Peer, name_in};
use crate::caller::{CallerId, CallerName};

/// 2026-11-22T12:00:00Z.
const NOW: Duration = Duration::from_secs(1_795_348_800);

/// In DER. (What is no certificate, the handshake doesn't let in; it reads less than is read here.)
pub(crate) fn certificate(input: &[u8]) {
    let now = SystemTime::UNIX_EPOCH + NOW;
    let facts = Facts::read(input);
    let caller = Peer::over_tls(Some(&CertificateDer::from(input))).caller(now);
    assert!(caller.is_some(), "who shows a certificate is judged by it");
    if let Some(Ok(caller)) = caller {
        assert!(facts.as_ref().is_ok_and(|facts| facts.not_after >= now), "whom it names after its end: {facts:?}");
        let names = facts.ok().and_then(|facts| facts.names.ok()).unwrap_or_default();
        is_proven(&caller, &names);
    }
}

/// A line each: `U` and a URI, or `D` and a DNS name.
pub(crate) fn names(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let of = |kind: char| text.lines().filter_map(move |line| line.strip_prefix(kind)).map(str::to_owned).collect();
    let names = Names { uris: of('U'), dns_names: of('D') };
    if let Ok(caller) = name_in(names.clone()) {
        is_proven(&caller, &names);
    }
}

/// Whoever is named stands in the certificate, as the only one; and could be named by an entry.
fn is_proven(caller: &CallerId, names: &Names) {
    let Names { uris, dns_names } = names;
    let proven = if uris.is_empty() { dns_names } else { uris };
    let CallerId::Named(caller) = caller else {
        assert!(*caller != CallerId::Anonymous, "a certificate makes nobody anonymous");
        return;
    };
    assert!(proven.len() == 1 && proven.first().is_some_and(|name| **name == **caller), "{caller:?} {names:?}");
    assert!(CallerName::parse(caller).is_ok(), "no entry can name {caller:?}");
}
