//! What the vault said of credentials in a simulation, and what an operator made of it.
//!
//! Must never forgive what the broker may not: a password that a vault refused stays known as such.

use token_broker::{
    secret::Secret,
    user::{MerchantId, UserKey},
};
use tokio::time::Instant;

use super::world::World;

/// What the vault said of one credential.
#[derive(Debug, Default, Clone)]
pub(super) struct Judged {
    /// When it was refused: it is not sent while the hold in force lasts.
    pub(super) refused: Option<Instant>,
    /// When it got an undocumented answer: it is not sent for a minute. But the broker may count more of them than this does, since it
    /// counts until the user's own grant: then the hold in force lasts, which may be shorter.
    pub(super) undocumented: Option<Instant>,
    /// Answers that may have judged it since the vault last gave anybody a token.
    pub(super) ungranted: u32,
}

impl World {
    /// The vault refused a credential.
    pub(crate) fn refused(&self, upstream: u64, user: &UserKey, password: &Secret) {
        let now = Instant::now();
        let of = (upstream, password.expose().to_owned());
        self.with(user, |facts| facts.judged.entry(of).or_default().refused = Some(now));
    }

    /// It gave an answer that may have judged the credential. The third that is undocumented while nobody gets a token is the last.
    pub(crate) fn may_have_judged(&self, upstream: u64, user: &UserKey, password: &Secret, undocumented: bool) {
        let now = Instant::now();
        let of = (upstream, password.expose().to_owned());
        self.with(user, |facts| {
            let judged = facts.judged.entry(of).or_default();
            judged.ungranted += 1;
            if undocumented && judged.ungranted < 3 {
                judged.undocumented = Some(now);
            } else if undocumented {
                judged.refused = Some(now);
            }
        });
    }

    /// It gave somebody a token: whatever it refuses from now on, it is not everybody. What was counted may be forgotten.
    pub(crate) fn granted(&self, upstream: u64, user: &UserKey, password: &Secret) {
        // Nothing stands against what was let in.
        let of = (upstream, password.expose().to_owned());
        self.with(user, |facts| facts.judged.remove(&of));
        let mut state = self.state();
        // A former vault's word says nothing of the one that counts, and those who were counted then are not waiting for it.
        if state.force.upstream != upstream {
            return;
        }
        for judged in state.users.values_mut().flat_map(|facts| facts.judged.values_mut()) {
            if std::mem::take(&mut judged.ungranted) > 0 {
                (judged.undocumented, judged.refused) = (None, None);
            }
        }
    }

    /// An operator drops the user's token.
    pub(crate) fn dropped(&self, user: &UserKey) {
        let now = Instant::now();
        self.with(user, |facts| {
            let tokens: Vec<_> = facts.tokens.iter().map(|(token, _)| (token.clone(), now)).collect();
            facts.dropped.extend(tokens);
            // What it showed counts while it is there.
            facts.shown = None;
        });
    }

    /// An operator lifts whatever stops the user by itself: the next sign-in is as with another credential.
    pub(crate) fn lifted(&self, user: &UserKey) {
        let mut state = self.state();
        let of = (state.force.upstream, state.attempts.get(user).map(u64::to_string).unwrap_or_default());
        let facts = state.users.entry(user.clone()).or_default();
        facts.not_before = None;
        facts.judged.remove(&of);
    }

    /// An operator lifts the waits of a merchant and its users; what was refused stays so.
    pub(crate) fn lifted_waits(&self, merchant: &MerchantId) {
        let mut state = self.state();
        for (_, facts) in state.users.iter_mut().filter(|(user, _)| user.merchant == *merchant) {
            (facts.not_before, facts.merchant_not_before) = (None, None);
            // Where undocumented answers became a refusal, the next token that the vault gives forgives it as before.
            for judged in facts.judged.values_mut().filter(|judged| judged.refused.is_none()) {
                (judged.undocumented, judged.ungranted) = (None, 0);
            }
        }
    }
}
