//! What an operator's acts make of what is true.

use token_broker::user::UserKey;
use tokio::time::Instant;

use super::{HEARD, Issued, SLACK, State, Truth};

/// Tokens of a user were dropped, in a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drop {
    replica: u64,
    began: Instant,
    done: Instant,
    /// The others can know.
    is_known: bool,
}

impl Truth {
    /// A replica was told at `began` to drop a user's token, and has.
    pub(crate) fn dropped(&self, replica: u64, user: &UserKey, began: Instant, is_known: bool) {
        let drop = Drop { replica, began, done: Instant::now(), is_known };
        self.state().users.entry(user.clone()).or_default().drops.push(drop);
    }

    /// An operator lifts at `began` what stops these users for such a reason: whoever hears of it may sign them in, and what comes later
    /// stands.
    pub(crate) fn lifted(&self, is_meant: impl Fn(&UserKey) -> bool, whys: &[&str], began: Instant) {
        let mut state = self.state();
        let State { users, own, .. } = &mut *state;
        let theirs = users.iter_mut().filter(|(user, _)| is_meant(user)).map(|(_, facts)| &mut facts.stops);
        let own = own.iter_mut().filter(|((_, user), _)| is_meant(user)).map(|(_, own)| &mut own.stops);
        theirs.chain(own).for_each(|stops| stops.retain(|stop| !whys.contains(&stop.why) || stop.at > began + SLACK));
    }
}

/// Whether a replica answered a call with a token that was dropped, as it knew: by itself, or by a tier that keeps its word.
pub(super) fn answered_though_dropped(
    state: &State,
    (replica, user): (u64, &UserKey),
    issued: &Issued,
    (called, is_late): (Instant, bool),
) -> Option<String> {
    // Whose token had ended by its clock as it was told, and has not any more, is not told again.
    let set = state.clocks_set.get(&replica);
    let is_known = |drop: &&Drop| {
        let is_own = drop.replica == replica && issued.by.replica == replica && issued.at <= drop.began && called >= drop.done;
        let is_heard = drop.is_known && state.keeps_its_word(drop.began) && called >= drop.done + HEARD && !is_late;
        let is_heard = is_heard && set.is_none_or(|set| *set < drop.began);
        is_own || is_heard && issued.at + SLACK <= drop.began
    };
    let facts = state.users.get(user)?;
    // Where the next one came while the drop waited for it, it takes the place of what is dropped, and is judged by itself.
    let was_replaced = |drop: &&Drop| facts.tokens.iter().any(|next| (drop.began..=drop.done).contains(&next.at));
    let drop = facts.drops.iter().filter(|drop| !was_replaced(drop)).find(is_known)?;
    let by = drop.replica;
    Some(format!("replica {replica} answered a token of {user}'s that replica {by} had dropped {:?} before", called - drop.done))
}
