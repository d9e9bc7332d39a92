//! Tells of a policy on trial for as long as it is: once a minute, and how many calls it would have refused since.
//!
//! Must never be silent while anybody is let in whom the policy denies.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{live::Live, policy::Trials, telemetry::metrics::Metrics};

/// It is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Tells every minute until `closing`, and once it is over. (That it begins, the configuration's own warning says.)
pub async fn tell_every_minute(live: Live, metrics: Arc<Metrics>, closing: CancellationToken) {
    let mut changes = live.changes();
    let (mut trials, mut told) = (live.load().policy.trials(), metrics.would_deny.so_far());
    let mut minute = interval(TOLD_EVERY);
    minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
    minute.reset();
    let mut since = || {
        let so_far = metrics.would_deny.so_far();
        so_far.saturating_sub(std::mem::replace(&mut told, so_far))
    };
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => {
                let rest = since();
                if trials.any() && rest > 0 {
                    tell(trials, rest);
                }
                return;
            }
            _ = minute.tick() => if trials.any() { tell(trials, since()) },
            // What is in force lives as long as this does.
            _ = changes.changed() => {
                let now = live.load().policy.trials();
                match (trials.any(), now.any()) {
                    (true, false) => info!(would_deny = since(), "the policy is enforced: nothing of it is on trial any more"),
                    (false, true) => minute.reset(),
                    (true, true) | (false, false) => {}
                }
                trials = now;
            }
        }
    }
}

fn tell(trials: Trials, would_deny: u64) {
    if trials.all {
        warn!(would_deny, "the policy is on trial (auth.enforce = false): who would be refused is let in");
    } else {
        let entries = trials.entries;
        warn!(would_deny, entries, "entries of [[callers]] are on trial: whom they mean is let in for every user");
    }
}
