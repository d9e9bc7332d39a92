//! Pure: what stands in a token's place once an operator dropped it.
//!
//! Must never let the next sign-in begin sooner than the token would have, nor be read as a token.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Known, Sealer, TokenEntry, act_stands, millis};
use crate::tokens::lifetime::LIFETIME_MAX;

/// The user's tokens up to a generation were dropped. It stands as long as the token that stood there would have (where none did, for a
/// moment), for those who hear of it late, or until the next token takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DroppedEntry {
    /// How long the server was told to keep it.
    kept_ms: u64,
    /// The server's clock then, in seconds since 1970.
    clock: u32,
    /// The newest generation that was dropped.
    generation: u32,
    /// The sign-in that the token came of, whose floor goes on.
    sign_in: Option<PastSignIn>,
}

/// What counts of a sign-in once its token is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastSignIn {
    /// How long before the entry was written it began.
    age_ms: u64,
    /// What was left of the token's life when it arrived.
    gave_ms: u64,
    /// How often the floor has doubled.
    doublings: u32,
}

impl PastSignIn {
    /// How long ago it began, where this was written so long ago.
    #[must_use]
    pub fn began_ago(&self, written_ago: Duration) -> Duration {
        Duration::from_millis(self.age_ms).saturating_add(written_ago)
    }

    /// What was left of the token's life when it arrived: no token lives longer than the longest.
    #[must_use]
    pub fn gave(&self) -> Duration {
        Duration::from_millis(self.gave_ms).min(LIFETIME_MAX)
    }

    /// How often the floor has doubled.
    #[must_use]
    pub fn doublings(&self) -> u32 {
        self.doublings
    }
}

impl DroppedEntry {
    /// In the place of what is known to stand there, and how long the server is to keep it: for `least`, should that be a moment.
    #[must_use]
    pub fn new(generation: u32, least: Duration, known: &Known) -> (Self, Duration) {
        let of_token = |(token, kept): &(TokenEntry, Duration)| {
            let (age_ms, gave_ms) = (millis(token.began_ago(*kept)), millis(token.gave));
            // Whoever keeps it for longer than it was written for makes no drop last longer.
            (PastSignIn { age_ms, gave_ms, doublings: token.doublings }, token.left.min(*kept))
        };
        let of_former = |(former, kept): &(Self, Duration)| {
            let sign_in = former.sign_in.clone()?;
            Some((PastSignIn { age_ms: millis(sign_in.began_ago(former.age(*kept))), ..sign_in }, *kept))
        };
        let standing = known.token.as_ref().map(of_token).or_else(|| known.dropped.as_ref().and_then(of_former));
        let (sign_in, kept) = standing.map_or((None, least), |(sign_in, kept)| (Some(sign_in), kept.max(least)));
        let generation = known.dropped.as_ref().map_or(generation, |(former, _)| generation.max(former.generation));
        (Self { kept_ms: millis(kept), clock: known.clock, generation, sign_in }, kept)
    }

    /// The newest generation that was dropped.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The sign-in that the token came of, if that was known.
    #[must_use]
    pub fn sign_in(&self) -> Option<&PastSignIn> {
        self.sign_in.as_ref()
    }

    /// How long ago it was written, where the server keeps it for `kept` yet.
    #[must_use]
    pub fn age(&self, kept: Duration) -> Duration {
        Duration::from_millis(self.kept_ms).saturating_sub(kept)
    }

    /// How long it stands yet, where the server keeps it for `kept` and its clock is this: no longer than it was told to.
    pub(in crate::tier) fn stands(&self, kept: Duration, clock: u32) -> Duration {
        act_stands(Duration::from_millis(self.kept_ms), self.clock, kept, clock)
    }

    /// As bytes that are to be sealed.
    pub(in crate::tier) fn write(&self) -> Option<Zeroizing<Vec<u8>>> {
        let text = Zeroizing::new(serde_json::to_vec(self).ok()?);
        let mut bytes = Sealer::room(text.len());
        bytes.extend_from_slice(&text);
        Some(bytes)
    }

    /// What was written. Of a token it is none: those begin with a zero, since no generation needs all of its eight bytes.
    pub(in crate::tier) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
