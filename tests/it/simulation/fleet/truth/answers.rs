//! Whether what a replica answers is what it ought to know of.

use token_broker::{clock::Moment, user::UserKey};
use tokio::time::Instant;

use super::{Facts, HEARD, Issued, SURELY, SURELY_LIED_TO, State, Truth, acts, is_patient};

impl Truth {
    /// A replica answered a token to a call that came at `called`. By its clocks it is `now`.
    pub(crate) fn answered(&self, replica: u64, user: &UserKey, text: &str, called: Instant, now: Moment, is_shared: bool) {
        let mut state = self.state();
        state.counts.shared += u64::from(is_shared);
        let is_lied_to = state.has_lied;
        // By a former entry and a clock that is behind, who signed in without others can be fooled: nothing tells the order any more.
        let is_fooled = is_lied_to && state.set_back > 0;
        let State { users, killed, .. } = &mut *state;
        let facts = users.entry(user.clone()).or_default();
        let issued = facts.tokens.iter().find(|issued| issued.text == text).cloned();
        // It looks what is new at the end of a sign-in of its own, however late that is.
        let is_late = facts.sign_ins.iter().any(|by| by.replica == replica && by.is_late() && called <= by.done + HEARD);
        let heard = facts.tokens.iter().rev().find(|issued| !issued.by.is_late() && issued.at + HEARD <= called);
        let is_told = |heard: &&Issued| is_patient(&facts.sign_ins, heard.by.began, killed);
        let heard = heard.filter(is_told).filter(|heard| !facts.is_replaced(heard, called, now)).cloned();
        let Some(issued) = issued else {
            drop(state);
            return self.check(false, || format!("{user} got a token that is not its own: {text}"));
        };
        let mut found = Vec::new();
        // Who puts a former entry back also says how long it lasts yet; then this machine's wall clock alone knows better.
        let is_expired = issued.end.left_at(now).is_zero() && (!is_lied_to || issued.end.wall <= now.wall);
        if is_expired {
            found.push(format!("replica {replica} answered an expired token of {user}'s"));
        }
        found.extend(acts::answered_though_dropped(&state, (replica, user), &issued, (called, is_late)));
        let own = state.own.entry((replica, user.clone())).or_default();
        let surely = if is_lied_to { SURELY_LIED_TO } else { SURELY };
        if !is_fooled && own.answered.is_some_and(|former| issued.by.began + surely < former) {
            found.push(format!("replica {replica} went back to a former token of {user}'s"));
        }
        own.answered = own.answered.max(Some(issued.by.began));
        if let Some(heard) = heard
            && !is_late
            && heard.by.began > issued.by.began
            && !state.killed.contains_key(&heard.by.replica)
            && state.keeps_its_word(issued.by.began.min(heard.by.began))
            && heard.end.left_at(now) > HEARD
            // What had ended by its clocks as it was told, nobody looks at again.
            && state.clocks_set.get(&replica).is_none_or(|set| *set < heard.at)
        {
            found.push(format!("replica {replica} answered {user}'s former token {:?} after the next", called - heard.at));
        }
        state.counts.judged += 1;
        drop(state);
        found.into_iter().for_each(|what| self.check(false, || what));
    }
}

impl Facts {
    /// By one that has ended by this machine's clock: the first nobody finds any more.
    fn is_replaced(&self, token: &Issued, called: Instant, now: Moment) -> bool {
        self.tokens.iter().any(|next| next.at > token.at && next.at <= called && next.end.left_at(now) <= HEARD)
    }
}
