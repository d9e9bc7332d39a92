//! Pure: what entries hold, byte for byte, and how much of it still counts when it is read.
//!
//! Must never give a token more life than the server, its own entry and this machine's clock all grant it; nor read what no vault gives.

mod dropped;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::dropped::DroppedEntry;
use super::{Known, seal::Sealer};
use crate::{clock::Moment, secret::Secret, tokens::lifetime::LIFETIME_MAX, users::holds::SavedHold};

/// The longest token that is taken, as of the vault.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// The longest scope; the vault's answers are no longer in all.
const SCOPE_BYTES_MAX: usize = 64 << 10;
/// The numbers before the texts: six of eight bytes, one of four, one byte, and the scope's length.
const NUMBERS_BYTES: usize = 6 * 8 + 4 + 1 + 4;
/// What is known of a user's failures is kept for so long beyond their wait: as in memory, where they are counted a day.
const STOP_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A token, as one replica gives it to the others. Its age is told by the server's clock (what is left of the time that the entry was given
/// there), so that no two machines need agree on theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// Which of the user's tokens it is: the next has a higher one, whoever signs in.
    pub generation: u32,
    /// When it ends by the wall clock of who signed in.
    pub expires: SystemTime,
    /// What was left of its life as the entry was written, which is how long the server was told to keep it.
    pub left: Duration,
    /// How long before that the sign-in began.
    pub age: Duration,
    /// How long it was to live when the sign-in began.
    pub lifetime: Duration,
    /// What was left of its life when it arrived.
    pub gave: Duration,
    /// How often the user's floor has doubled.
    pub doublings: u32,
    /// Whether the token itself says how long it lives in all.
    pub bounded: bool,
    /// What it is good for.
    pub scope: String,
    /// The secret itself.
    pub access_token: Secret,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl TokenEntry {
    /// As bytes that are to be sealed.
    pub(super) fn write(&self) -> Zeroizing<Vec<u8>> {
        let token = self.access_token.expose();
        let mut bytes = Sealer::room(NUMBERS_BYTES + self.scope.len() + token.len());
        let expires = self.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for number in [
            u64::from(self.generation),
            millis(expires),
            millis(self.left),
            millis(self.age),
            millis(self.lifetime),
            millis(self.gave),
        ] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.doublings.to_be_bytes());
        bytes.push(u8::from(self.bounded));
        bytes.extend_from_slice(&u32::try_from(self.scope.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(self.scope.as_bytes());
        bytes.extend_from_slice(token.as_bytes());
        bytes
    }

    /// What was written; none where that is no token that a vault gives.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut numbers = [0; 6];
        for number in &mut numbers {
            *number = u64::from_be_bytes(take(&mut rest)?);
        }
        let [generation, expires, left, age, lifetime, gave] = numbers;
        let duration = |millis: u64| Some(Duration::from_millis(millis)).filter(|duration| *duration <= LIFETIME_MAX);
        let doublings = u32::from_be_bytes(take(&mut rest)?);
        let bounded = match take::<1>(&mut rest)? {
            [0] => false,
            [1] => true,
            [_] => return None,
        };
        let scope = usize::try_from(u32::from_be_bytes(take(&mut rest)?)).ok().filter(|length| *length <= SCOPE_BYTES_MAX)?;
        let (scope, token) = rest.split_at_checked(scope)?;
        let (scope, token) = (str::from_utf8(scope).ok()?, str::from_utf8(token).ok()?);
        let fits = (1..=TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then_some(())?;
        Some(Self {
            generation: u32::try_from(generation).ok()?,
            expires: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(expires))?,
            left: duration(left)?,
            age: duration(age)?,
            lifetime: duration(lifetime)?,
            gave: duration(gave)?,
            doublings,
            bounded,
            scope: scope.to_owned(),
            access_token: Secret::from(token),
        })
    }

    /// What is left of it for whoever asked at `asked`, and was told that the server keeps it for `kept` yet: the least that any clock says.
    #[must_use]
    pub fn left_at(&self, kept: Duration, asked: Moment) -> Duration {
        let by_wall = self.expires.duration_since(asked.wall).unwrap_or_default();
        kept.min(self.left).min(by_wall)
    }

    /// How long ago the sign-in began, by the server's clock.
    #[must_use]
    pub fn began_ago(&self, kept: Duration) -> Duration {
        self.age + self.left.saturating_sub(kept)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

/// The server's clock so long before.
fn before(clock: u32, ago: Duration) -> u32 {
    clock.saturating_sub(u32::try_from(ago.as_secs()).unwrap_or(u32::MAX))
}

/// How long an operator's act stands yet that was to be kept for `told` as the server's clock was `then`, where it is kept for `kept` and that
/// clock is `now`. By the clock too, since it undoes what was before it: whoever puts a former entry back says how long it is kept, and so
/// how old it is, but not what the time was.
fn act_stands(told: Duration, then: u32, kept: Duration, now: u32) -> Duration {
    // A second that had begun then, or begins now, is not over.
    let ago = Duration::from_secs(u64::from(now.saturating_sub(then).saturating_sub(1)));
    kept.min(told.saturating_sub(ago))
}

/// Why nobody is to sign in for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StopEntry {
    /// The vault's answer counts against this version of the credential.
    Hold {
        /// How long the server was told to keep it.
        kept_ms: u64,
        /// How long before that it began.
        age_ms: u64,
        /// The answer, and what was counted.
        hold: Box<SavedHold>,
    },
    /// A transient failure.
    Pause {
        /// How long it lasts; the server was told to keep it for as long.
        kept_ms: u64,
    },
    /// The vault lets no user of the merchant in.
    Merchant {
        /// How long it lasts; the server was told to keep it for as long.
        kept_ms: u64,
        /// How long before that it began.
        age_ms: u64,
        /// The vault's name for it.
        vault_error: String,
    },
    /// An operator lifted what stood here.
    Lifted {
        /// How long the server was told to keep it.
        kept_ms: u64,
        /// The server's clock then, in seconds since 1970.
        clock: u32,
    },
    /// An operator lifted a wait that the vault asked for. What was counted against the credential stays.
    WaitLifted {
        /// How long the server was told to keep it.
        kept_ms: u64,
        /// The server's clock then, in seconds since 1970.
        clock: u32,
        /// How long before that the wait began.
        age_ms: u64,
        /// Without the wait.
        hold: Box<SavedHold>,
    },
}

impl StopEntry {
    /// What counts against a credential, and how long the server is to keep it: `wait` is what is left of the pause.
    #[must_use]
    pub fn hold(hold: SavedHold, wait: Duration, now: Moment) -> (Self, Duration) {
        let kept = wait.saturating_add(STOP_KEPT);
        (Self::Hold { kept_ms: millis(kept), age_ms: millis(hold.age(now)), hold: Box::new(hold) }, kept)
    }

    /// A transient failure, and how long the server is to keep it.
    #[must_use]
    pub fn pause(left: Duration) -> (Self, Duration) {
        (Self::Pause { kept_ms: millis(left) }, left)
    }

    /// The vault lets no user of the merchant in, since it said so that long ago; and how long the server is to keep that.
    #[must_use]
    pub fn merchant(vault_error: String, left: Duration, ago: Duration) -> (Self, Duration) {
        (Self::Merchant { kept_ms: millis(left), age_ms: millis(ago), vault_error }, left)
    }

    /// An operator lifted what stood there, so long before the server's clock was this; told for `kept` from now on.
    #[must_use]
    pub fn lifted(kept: Duration, ago: Duration, clock: u32) -> (Self, Duration) {
        // Written as if it had been then.
        (Self::Lifted { kept_ms: millis(kept.saturating_add(ago)), clock: before(clock, ago) }, kept)
    }

    /// An operator lifted this wait, so long before now, when the server's clock is this; what is left of it is kept for `kept`.
    #[must_use]
    pub fn wait_lifted(hold: SavedHold, kept: Duration, ago: Duration, (now, clock): (Moment, u32)) -> (Self, Duration) {
        let (kept_ms, age_ms) = (millis(kept.saturating_add(ago)), millis(hold.age(now).saturating_sub(ago)));
        (Self::WaitLifted { kept_ms, clock: before(clock, ago), age_ms, hold: Box::new(hold.lifted()) }, kept)
    }

    /// What it says against the credential.
    #[must_use]
    pub fn hold_of(&self) -> Option<&SavedHold> {
        match self {
            Self::Hold { hold, .. } | Self::WaitLifted { hold, .. } => Some(hold),
            Self::Pause { .. } | Self::Merchant { .. } | Self::Lifted { .. } => None,
        }
    }

    /// How long ago it was written, where the server keeps it for `kept` yet.
    #[must_use]
    pub fn age(&self, kept: Duration) -> Duration {
        Duration::from_millis(self.kept_ms()).saturating_sub(kept)
    }

    /// How long ago what it tells began, where the server keeps it for `kept` yet.
    #[must_use]
    pub fn began_ago(&self, kept: Duration) -> Duration {
        let before = match self {
            Self::Hold { age_ms, .. } | Self::Merchant { age_ms, .. } | Self::WaitLifted { age_ms, .. } => *age_ms,
            Self::Pause { .. } | Self::Lifted { .. } => 0,
        };
        self.age(kept).saturating_add(Duration::from_millis(before))
    }

    fn kept_ms(&self) -> u64 {
        match self {
            Self::Hold { kept_ms, .. }
            | Self::Pause { kept_ms }
            | Self::Merchant { kept_ms, .. }
            | Self::Lifted { kept_ms, .. }
            | Self::WaitLifted { kept_ms, .. } => *kept_ms,
        }
    }

    /// How long it stands yet, where the server keeps it for `kept` and its clock is this: no longer than it was told to.
    pub(super) fn stands(&self, kept: Duration, clock: u32) -> Duration {
        let told = Duration::from_millis(self.kept_ms());
        match self {
            Self::Lifted { clock: then, .. } | Self::WaitLifted { clock: then, .. } => act_stands(told, *then, kept, clock),
            Self::Hold { .. } | Self::Pause { .. } | Self::Merchant { .. } => kept.min(told),
        }
    }

    /// The hold as it is now by this machine's clock, where the server keeps it for `kept` yet.
    pub(super) fn aged(self, kept: Duration, now: Moment) -> Self {
        let age = self.age(kept);
        let begun = |age_ms: u64, hold: SavedHold| {
            let age = Duration::from_millis(age_ms).saturating_add(age);
            Box::new(hold.begun(now.wall.checked_sub(age).unwrap_or(now.wall)))
        };
        match self {
            Self::Hold { kept_ms, age_ms, hold } => Self::Hold { kept_ms, age_ms, hold: begun(age_ms, *hold) },
            Self::WaitLifted { kept_ms, clock, age_ms, hold } => {
                Self::WaitLifted { kept_ms, clock, age_ms, hold: begun(age_ms, *hold) }
            }
            Self::Pause { .. } | Self::Merchant { .. } | Self::Lifted { .. } => self,
        }
    }

    pub(super) fn write(&self) -> Option<Zeroizing<Vec<u8>>> {
        let text = Zeroizing::new(serde_json::to_vec(self).ok()?);
        let mut bytes = Sealer::room(text.len());
        bytes.extend_from_slice(&text);
        Some(bytes)
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
