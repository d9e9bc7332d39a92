//! What a flight has to do with other replicas: it takes the token that one of them signed in for, obeys what the vault told one of them,
//! and has its turn to sign in when none of them does.
//!
//! Must never keep a flight from signing in because nobody can be asked; nor take a token that is older than one that is known, that has
//! ended, or that whoever waits was refused with.

use std::{
    future::pending,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    held::Held,
    shared::{FlightContext, Shared, configured, stopped},
};
use crate::{
    telemetry::metrics::SharedEntry,
    tier::{Known, Leasing, Name, StopEntry, Subject, TokenEntry, Waiter, lease_of},
    tokens::{
        cached_token::CachedToken,
        token::{Token, TokenId},
        version::Version,
    },
    users::{
        KnownUser, Record,
        holds::{SavedHold, Stop},
    },
    vault::{Failure, Scope},
};

/// While another replica signs in, it is looked at this often whether it is done, should its news be lost, or its holder.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Others may have their turn for so many times as long as a lock lasts; then it says nothing any more.
const PATIENCE: u32 = 2;
/// One sign-in surely began before another if it did by so much: that one's beginning is known to a round trip.
const SURELY: Duration = Duration::from_secs(1);
/// A token's generation is no less than the server's clock when the lock was taken for its sign-in, in whole seconds; and that began so
/// soon afterwards.
const SURELY_BY_GENERATION: Duration = Duration::from_secs(3);
/// Two pauses that end within so much of one another are the same: what is left of one is known to a round trip.
const SAME_PAUSE: Duration = Duration::from_millis(100);
/// What people are told of a failure of another replica's.
const ELSEWHERE: &str = "it could not be used by another replica just now";

/// What another replica's sign-in was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theirs {
    generation: u32,
    began: Instant,
    /// The same, but no later than its generation says: what was refused since then is not over.
    granted: Instant,
    gave: Duration,
    doublings: u32,
}

impl Theirs {
    /// Notes that its token is taken.
    pub(super) fn note(&self, record: &mut Record, version: Version) {
        record.knows(self.generation);
        record.holds.succeeded_elsewhere(version, (self.began, self.granted), self.gave, self.doublings);
    }

    /// Whether the user has a newer one, or this one was dropped.
    pub(super) fn is_former(&self, record: &Record) -> bool {
        self.generation < record.generation || self.generation == record.generation && record.is_dropped
    }
}

/// What was found at other replicas.
pub(super) enum Found {
    /// A token that does, which is not stored yet.
    Token(Arc<CachedToken>, Theirs),
    /// The user may not sign in, which is noted.
    Stopped(Stop),
    /// Another replica signs in just now.
    TheirTurn,
    /// Nothing that changes anything.
    Nothing,
}

/// What is wanted of them.
pub(super) struct Wanted<'a> {
    pub(super) user: &'a Arc<KnownUser>,
    /// What was asked for.
    pub(super) version: Version,
    pub(super) min_remaining: Duration,
    /// Ids that are of no use.
    pub(super) rejected: &'a [String],
}

/// Whose turn it is to sign in.
pub(super) enum Turn {
    /// Ours: with the lock, or without where nobody can be asked.
    Ours(Option<Held>),
    /// Another's, or nobody's any more.
    Found(Found),
}

/// A flight's dealings with other replicas.
#[derive(Default)]
pub(super) struct Others {
    waiter: Option<(Name, Waiter)>,
    /// Since when it waits for others.
    waits_since: Option<Instant>,
}

impl Others {
    /// Looks what they know.
    pub(super) async fn look(&mut self, flight: &FlightContext, version: Version) -> Found {
        let FlightContext { shared, user, .. } = flight;
        let Some(subject) = self.subject(flight, version) else { return Found::Nothing };
        shared.parts.tier.follow(&subject, user);
        let known = shared.parts.tier.look(&subject).await;
        let found = known.as_ref().map_or(Found::Nothing, |known| judged(flight, version, known));
        if !known.is_some_and(|known| known.is_locked) {
            self.waits_since = None;
            return found;
        }
        if matches!(found, Found::Nothing) && self.has_patience(flight) { Found::TheirTurn } else { found }
    }

    /// Whether others may still have their turn, from the first time that they are found to have it.
    fn has_patience(&mut self, FlightContext { shared, .. }: &FlightContext) -> bool {
        let (now, timeout) = (shared.parts.clock.now().mono, shared.live.load().settings.timeout);
        let since = *self.waits_since.get_or_insert(now);
        now.saturating_duration_since(since) <= lease_of(timeout).saturating_mul(PATIENCE)
    }

    /// Asks whose turn it is, for a sign-in that takes `timeout` at most.
    pub(super) async fn turn(&mut self, flight: &FlightContext, version: Version, timeout: Duration) -> Turn {
        let shared = &flight.shared;
        let Some(subject) = self.subject(flight, version) else { return Turn::Ours(None) };
        let (lease, known) = match shared.parts.tier.lease(&subject, timeout).await {
            Leasing::Won(lease, known) => (Some(lease), known),
            Leasing::Busy(known) => (None, known),
            Leasing::Alone => return Turn::Ours(None),
        };
        let generation = known.generation();
        match (judged(flight, version, &known), lease) {
            (Found::Nothing, Some(lease)) => Turn::Ours(Some(Held::new(lease, generation.max(known.clock)))),
            // A lock that nobody writes under, nor lets go of, says nothing any more.
            (Found::Nothing, None) if !self.has_patience(flight) => Turn::Ours(None),
            (Found::Nothing, None) => Turn::Found(Found::TheirTurn),
            // The lock, if it was won, is given back.
            (found, _) => Turn::Found(found),
        }
    }

    /// Waits for news of the user.
    pub(super) async fn news(&self) {
        match &self.waiter {
            Some((_, waiter)) => waiter.wait(Duration::MAX).await,
            None => pending().await,
        }
    }

    /// Waits for what comes of another replica's turn.
    pub(super) async fn their_turn(&self) {
        if let Some((_, waiter)) = &self.waiter {
            waiter.wait(LOOK_AGAIN).await;
        }
    }

    /// Who is meant. News of it is listened to before it is looked what there is, so that none falls in between.
    fn subject(&mut self, FlightContext { shared, user, .. }: &FlightContext, version: Version) -> Option<Subject> {
        let subject = shared.parts.tier.subject(&user.key, version)?;
        if self.waiter.as_ref().is_none_or(|(name, _)| *name != subject.name()) {
            self.waiter = shared.parts.tier.waiter(&subject).map(|waiter| (subject.name(), waiter));
        }
        Some(subject)
    }
}

fn judged(flight: &FlightContext, version: Version, known: &Known) -> Found {
    let rejected = flight.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let wanted = Wanted { user: &flight.user, version, min_remaining: flight.min_remaining, rejected: &rejected };
    judge(&flight.shared, &wanted, known)
}

/// What others know, and what it means here; what it says of when the user may sign in is noted.
pub(super) fn judge(shared: &Shared, wanted: &Wanted<'_>, known: &Known) -> Found {
    let now = shared.parts.clock.now();
    let circumstances = shared.circumstances(now.mono);
    let mut record = wanted.user.record();
    let snapshot = shared.live.load();
    let is_current = configured(wanted.user, &mut record, &snapshot, now.mono)
        .is_some_and(|configured| configured.credential.version == wanted.version);
    if !is_current {
        return Found::Nothing;
    }
    let rules = &snapshot.settings.rules;
    if let Some((entry @ StopEntry::Merchant { vault_error, .. }, kept)) = &known.merchant {
        let since = known.ago(entry.began_ago(*kept));
        let failure = Failure::Throttled { scope: Scope::Merchant, wait: *kept, vault_error: vault_error.clone() };
        let stop = Stop { failure: Arc::new(failure), until: known.asked.mono + *kept };
        // Told by a flight that was under way as an operator lifted it.
        if lifted_at(known).is_none_or(|lifted| lifted < since) {
            wanted.user.merchant().stop(wanted.version.upstream, stop, since, now.mono);
        }
    }
    let pauses_until = record.holds.stopped(now.mono, rules).map(|stop| stop.until);
    let hold = known.stop.as_ref().and_then(|(entry, _)| entry.hold_of());
    // One told late, by a replica that could not be heard: its credential has brought a token since.
    if let Some(hold) = hold.filter(|hold| !is_over(hold, wanted, &record, known)) {
        record.holds.told(SavedHold::clone(hold), known.asked, rules);
    }
    match &known.stop {
        // Counted here as well, so that the next pause is longer whoever fails next; but once.
        Some((StopEntry::Pause { .. }, kept))
            if pauses_until.is_none_or(|until| until + SAME_PAUSE < known.asked.mono + *kept) =>
        {
            let failure = Failure::Unavailable { cause: ELSEWHERE, wait: Some(*kept), vault_error: String::new() };
            record.holds.failed(wanted.version, failure, circumstances, rules);
        }
        Some((entry @ StopEntry::Lifted { .. }, kept)) => {
            record.holds.lifted_elsewhere(known.ago(entry.age(*kept)));
        }
        Some((entry @ StopEntry::WaitLifted { .. }, kept)) => {
            record.holds.lift_wait(known.ago(entry.age(*kept)), now.mono, rules);
        }
        Some((StopEntry::Hold { .. } | StopEntry::Pause { .. } | StopEntry::Merchant { .. }, _)) | None => {}
    }
    if let Some((dropped, kept)) = &known.dropped {
        let written_ago = dropped.age(*kept);
        if let Some(sign_in) = dropped.sign_in() {
            record.holds.told_of_sign_in(known.ago(sign_in.began_ago(written_ago)), sign_in.gave(), sign_in.doublings());
        }
        // By time: one that this replica signed in for while nobody could be asked has no generation.
        let is_former = |held: Arc<CachedToken>| held.token.expires.mono <= known.ago(written_ago) + held.token.lifetime;
        if wanted.user.token().is_some_and(is_former) {
            shared.drop_token(wanted.user, &mut record);
        }
        // Should a server that has not heard of it, or somebody else, put that token back.
        record.drops(dropped.generation());
    }
    // A token that is there is taken whatever stops a sign-in.
    let offer = known.token.as_ref().map(|(entry, kept)| Offer { entry, kept: *kept, known });
    let found = offer.and_then(|offer| offer.judge(shared, wanted, &mut record));
    let found = found.filter(|(cached, theirs)| {
        let is_rejected = wanted.rejected.iter().any(|rejected| rejected.eq_ignore_ascii_case(cached.id().as_str()));
        let is_wanted = !is_rejected && cached.left_at(now) >= wanted.min_remaining;
        // To all others it is the user's token from now on.
        if !is_wanted && snapshot.takes(cached) {
            theirs.note(&mut record, wanted.version);
            shared.keep_token(wanted.user, &mut record, &snapshot, cached, now);
        }
        if is_rejected {
            record.holds.rejected(cached.id(), now.mono, rules);
        }
        if !is_wanted {
            shared.parts.tier.count(if is_rejected { SharedEntry::Rejected } else { SharedEntry::Same });
        }
        is_wanted
    });
    let stop = stopped(wanted.user, &record, &snapshot, now.mono);
    // The file's lock comes before a record's.
    drop(record);
    if hold.is_some() {
        shared.parts.hold_file.note(wanted.user);
    } else if matches!(known.stop, Some((StopEntry::Lifted { .. }, _))) {
        shared.parts.hold_file.ease(wanted.user);
    }
    match (found, stop) {
        (Some((cached, theirs)), _) => Found::Token(cached, theirs),
        (None, Some(stop)) => Found::Stopped(stop),
        (None, None) => Found::Nothing,
    }
}

/// When an operator last lifted the merchant's waits, if that was lately.
pub(super) fn lifted_at(known: &Known) -> Option<Instant> {
    let (entry, kept) = known.lifted.as_ref().filter(|(entry, _)| matches!(entry, StopEntry::Lifted { .. }))?;
    Some(known.ago(entry.age(*kept)))
}

/// Whether the token that is held was signed in for with the same credential after that was refused.
fn is_over(hold: &SavedHold, wanted: &Wanted<'_>, record: &Record, known: &Known) -> bool {
    let is_granted = wanted.user.token().is_some_and(|held| held.version == wanted.version);
    let since = known.ago(hold.age(known.asked));
    is_granted && record.holds.began().is_some_and(|began| since < began)
}

/// A token that another replica signed in for.
struct Offer<'a> {
    entry: &'a TokenEntry,
    /// How long the server keeps it yet.
    kept: Duration,
    /// What stands beside it.
    known: &'a Known,
}

impl Offer<'_> {
    /// The token, if it does; counts what becomes of it, and notes that somebody signed in, since the floor counts for all.
    fn judge(self, shared: &Shared, wanted: &Wanted<'_>, record: &mut Record) -> Option<(Arc<CachedToken>, Theirs)> {
        let Self { entry, kept, known } = self;
        let (asked, left) = (known.asked, entry.left_at(kept, known.asked));
        let id = TokenId::of(entry.access_token.expose());
        let former = wanted.user.token();
        let is_held = former.as_ref().is_some_and(|former| former.id() == id);
        let is_newer = entry.generation > record.generation;
        let began = known.ago(entry.began_ago(kept));
        // Whoever puts a former entry back says how long it is kept as well, and so how old it is; of its generation nobody does.
        let latest = known.ago(Duration::from_secs(u64::from(known.clock.saturating_sub(entry.generation))));
        // That is higher than the clock was as the lock was taken, and what was refused before this was so before the lock.
        let granted = began.min(latest);
        let theirs = Theirs { generation: entry.generation, began, granted, gave: entry.gave, doublings: entry.doublings };
        let why = if left.is_zero() {
            SharedEntry::Expired
        // One that was signed in for without others, who could not be asked, has no generation.
        } else if theirs.is_former(record)
            || !is_held && record.holds.began().is_some_and(|last| began + SURELY < last || latest + SURELY_BY_GENERATION < last)
        {
            SharedEntry::Replayed
        } else if is_held && !is_newer {
            SharedEntry::Same
        } else {
            let due_left = shared.quiet_due_left(began, entry.lifetime, shared.lead(Duration::ZERO));
            let token = Token {
                access_token: entry.access_token.clone(),
                id,
                scope: shared.scope(entry.scope.clone()),
                expires: asked.plus(left),
                lifetime: entry.lifetime,
            };
            let cached = CachedToken::new(token, wanted.version, entry.bounded, former.as_deref(), due_left, asked);
            return Some((Arc::new(cached), theirs));
        };
        shared.parts.tier.count(why);
        if is_newer && !kept.is_zero() && why != SharedEntry::Replayed {
            record.holds.told_of_sign_in(theirs.began, theirs.gave, theirs.doublings);
            // Should it be given again, that is news.
            record.knows(entry.generation);
        }
        None
    }
}
