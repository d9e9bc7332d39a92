//! Says in the log that callers' tokens come of an issuer that is not configured: most likely it is the configuration that is wrong, since
//! each managed cluster has an issuer of its own.
//!
//! Must never say it more often than once a minute, whoever sends what, nor show more of a token than who it says issued it, cut short: that
//! is a stranger's text.

use std::{sync::Mutex, time::Duration};

use tracing::warn;

use super::lock;
use crate::clock::Moment;

/// How often it is said: whoever mends it looks at the log, and strangers must not fill it.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Most characters shown of an issuer's name. Those of managed clusters, URLs with a region and an id, have 60 to 120.
const SHOWN_MAX: usize = 256;

/// Counts such tokens.
#[derive(Default)]
pub(super) struct OtherIssuers(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    /// When it was said last.
    told: Option<Moment>,
    untold: u64,
}

impl OtherIssuers {
    /// A token came that says that `came` issued it.
    pub(super) fn seen<'a>(&self, came: &str, configured: impl Iterator<Item = &'a str>, now: Moment) {
        if let Some(tokens) = self.count(now) {
            let configured = configured.collect::<Vec<_>>().join(", ");
            warn!(
                came = shown(came),
                configured,
                tokens,
                "callers' tokens are of an issuer that is not configured: if it is the cluster's (kubectl get --raw \
                 /.well-known/openid-configuration), set auth.service_accounts.issuer to it"
            );
        }
    }

    /// How many came since it was said last, if it is to be said now.
    fn count(&self, now: Moment) -> Option<u64> {
        let mut counted = lock(&self.0);
        counted.untold += 1;
        if counted.told.is_some_and(|told| told.age_at(now) < TOLD_EVERY) {
            return None;
        }
        counted.told = Some(now);
        Some(std::mem::take(&mut counted.untold))
    }
}

/// As much of it as is shown: each cluster's is a URL, and what is none helps nobody.
fn shown(issuer: &str) -> &str {
    if !["https://", "http://"].iter().any(|scheme| issuer.starts_with(scheme)) {
        return "no URL";
    }
    issuer.char_indices().nth(SHOWN_MAX).map_or(issuer, |(end, _)| issuer.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    #[test]
    fn it_is_said_at_once_and_then_once_a_minute_with_how_many_there_were() {
        let (start, others) = (SystemClock.now(), OtherIssuers::default());
        let after = |seconds| others.count(start.plus(Duration::from_secs(seconds)));
        assert_eq!(after(0), Some(1));
        assert_eq!([after(1), after(30), after(59)], [None, None, None]);
        assert_eq!(after(60), Some(4));
        assert_eq!(after(119), None);
        assert_eq!(after(1_000), Some(2));
    }

    #[test]
    fn a_strangers_text_is_cut_between_characters() {
        assert_eq!(shown("https://a"), "https://a");
        let long = format!("https://{}", "ä".repeat(SHOWN_MAX));
        assert_eq!(shown(&long), format!("https://{}", "ä".repeat(SHOWN_MAX - 8)));
        assert_eq!((shown(""), shown("a\nforged")), ("no URL", "no URL"));
    }
}
