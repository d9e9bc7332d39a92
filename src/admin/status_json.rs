//! What `/status` says: the facts in words, and whether tokens flow.
//!
//! Must never name a user, nor hold a text of the vault's beyond its name for an error.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::overview::{Phase, View};
use crate::{
    broker::{MerchantStats, Stats, Stopped},
    reason::Reason,
    tier::Condition,
    timestamp,
};

/// Most merchants that are listed one by one, those with trouble first.
const MERCHANTS_MAX: usize = 200;
/// A certificate that ends within this time is worth a word.
const CERTIFICATE_SOON: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Whether tokens flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// They do.
    Flowing,
    /// They do, and something wants looking at.
    Attention,
    /// Callers go without.
    Trouble,
}

/// Everything that the page shows.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) verdict: Verdict,
    /// What wants looking at, the worst first; empty where nothing does.
    pub(super) findings: Vec<String>,
    pub(super) version: &'static str,
    pub(super) uptime_seconds: u64,
    pub(super) ready: bool,
    pub(super) phase: &'static str,
    pub(super) vault: Vault,
    /// None where there is none.
    pub(super) shared_tier: Option<SharedTier>,
    pub(super) configuration: Configuration,
    pub(super) sign_ins: SignIns,
    pub(super) renewals: Renewals,
    pub(super) certificates: Vec<Certificate>,
    pub(super) merchants: Vec<Merchant>,
    /// Merchants beyond those that are listed.
    pub(super) merchants_not_listed: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Vault {
    pub(super) reachable: bool,
    pub(super) last_token_at: Option<String>,
    pub(super) last_failure_at: Option<String>,
    pub(super) last_failure: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct SharedTier {
    pub(super) usable: bool,
    /// Why it is not, where that is known.
    pub(super) why: Option<String>,
}

impl SharedTier {
    fn of(condition: Condition) -> Self {
        match condition {
            Condition::Up => Self { usable: true, why: None },
            Condition::Down(why) => Self { usable: false, why: why.map(|why| why.to_string()) },
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Configuration {
    pub(super) generation: u64,
    pub(super) last_good_at: Option<String>,
    pub(super) users: usize,
    pub(super) callers: usize,
    pub(super) faults: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct SignIns {
    pub(super) under_way: usize,
    pub(super) waiting_calls: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Renewals {
    pub(super) planned: usize,
    pub(super) due_within_a_minute: usize,
    pub(super) overdue: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) certificate: &'static str,
    pub(super) not_after: Option<String>,
    pub(super) days_left: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Merchant {
    pub(super) merchant_id: String,
    pub(super) users: usize,
    pub(super) cached: usize,
    pub(super) dry: usize,
    pub(super) held: Vec<Stop>,
    pub(super) failing: Vec<Stop>,
    /// Why none of its users may sign in, if so.
    pub(super) all_held: Option<Stop>,
}

#[derive(Debug, Serialize)]
pub(super) struct Stop {
    pub(super) reason: &'static str,
    /// How many; 0 where it is about the whole merchant.
    pub(super) users: usize,
    pub(super) what: String,
    /// The longest wait that is left.
    pub(super) wait_seconds: u64,
}

impl Stop {
    fn of(reason: &'static str, stopped: &Stopped) -> Self {
        Self { reason, users: stopped.users, what: stopped.failure.to_string(), wait_seconds: stopped.wait.as_secs() }
    }
}

impl Merchant {
    fn of(id: &str, stats: &MerchantStats) -> Self {
        let stops =
            |stops: &BTreeMap<&'static str, Stopped>| stops.iter().map(|(reason, stopped)| Stop::of(reason, stopped)).collect();
        Self {
            merchant_id: id.to_owned(),
            users: stats.users,
            cached: stats.cached,
            dry: stats.dry,
            held: stops(&stats.held),
            failing: stops(&stats.failing),
            all_held: stats.whole.as_ref().map(|stopped| Stop::of(Reason::VaultThrottled.as_str(), stopped)),
        }
    }

    fn has_trouble(&self) -> bool {
        self.dry > 0 || !self.held.is_empty() || !self.failing.is_empty() || self.all_held.is_some()
    }
}

impl Status {
    pub(super) fn of(view: &View) -> Self {
        let stats = &view.stats;
        let mut merchants: Vec<_> = stats.merchants.iter().map(|(id, stats)| Merchant::of(id.as_str(), stats)).collect();
        merchants.sort_by_key(|merchant| (!merchant.has_trouble(), std::cmp::Reverse(merchant.dry)));
        let (verdict, findings) = judge(view, &merchants);
        let merchants_not_listed = merchants.len().saturating_sub(MERCHANTS_MAX);
        merchants.truncate(MERCHANTS_MAX);
        let configuration = &view.configuration;
        let failed = stats.last_answers.failed.as_ref();
        Self {
            verdict,
            findings,
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: view.uptime.as_secs(),
            ready: view.phase == Phase::Ready,
            phase: phase(view.phase),
            vault: Vault {
                reachable: !stats.vault_is_down,
                last_token_at: stats.last_answers.granted.and_then(timestamp::rfc3339),
                last_failure_at: failed.and_then(|(at, _)| timestamp::rfc3339(*at)),
                last_failure: failed.map(|(_, failure)| failure.to_string()),
            },
            shared_tier: stats.tier.map(SharedTier::of),
            configuration: Configuration {
                generation: configuration.generation,
                last_good_at: timestamp::rfc3339(configuration.last_good),
                users: stats.merchants.values().map(|merchant| merchant.users).sum(),
                callers: view.callers,
                faults: configuration.faults.clone(),
            },
            sign_ins: SignIns { under_way: stats.flights, waiting_calls: stats.waiting },
            renewals: Renewals {
                planned: stats.renewals_planned,
                due_within_a_minute: stats.renewals_soon,
                overdue: stats.renewals_overdue,
            },
            certificates: view.certificates.iter().map(|end| certificate(end, view.at.wall)).collect(),
            merchants,
            merchants_not_listed,
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
    }
}

fn certificate((certificate, not_after): &(&'static str, SystemTime), now: SystemTime) -> Certificate {
    const DAY: u64 = 24 * 3_600;
    let days = |time: Duration| i64::try_from(time.as_secs() / DAY).unwrap_or(i64::MAX);
    let days_left = not_after.duration_since(now).map_or_else(|past| -1 - days(past.duration()), days);
    Certificate { certificate, not_after: timestamp::rfc3339(*not_after), days_left }
}

/// Whether tokens flow, and what wants looking at.
fn judge(view: &View, merchants: &[Merchant]) -> (Verdict, Vec<String>) {
    let Stats { vault_is_down, renewals_overdue, .. } = view.stats;
    let (mut trouble, mut attention) = (Vec::new(), Vec::new());
    if view.phase != Phase::Ready {
        attention.push(format!("this process is {}: callers are served by others", phase(view.phase)));
    }
    let sum = |count: fn(&Merchant) -> usize| merchants.iter().map(count).sum::<usize>();
    let dry = sum(|merchant| merchant.dry);
    if dry > 0 {
        let text = format!("{} that callers asked for {} no good token", users(dry), have(dry));
        // All who were asked for lately go without, or nobody knows for how long.
        if vault_is_down || sum(|merchant| merchant.cached) == 0 { &mut trouble } else { &mut attention }.push(text);
    }
    if vault_is_down {
        let text = "the vault is down: one sign-in at a time finds out when it is back, and tokens held are good until they end";
        attention.push(text.to_owned());
    }
    if let Some(Condition::Down(Some(why))) = view.stats.tier {
        attention.push(format!("the shared tier can't be used ({why}): each replica signs in by itself until it can be"));
    }
    for merchant in merchants.iter().filter(|merchant| merchant.all_held.is_some()).take(3) {
        attention.push(format!("the vault lets no user of merchant {} sign in", merchant.merchant_id));
    }
    let stops = |stops: fn(&Merchant) -> &Vec<Stop>| merchants.iter().flat_map(stops).map(|stop| stop.users).sum::<usize>();
    let (held, failing) = (stops(|merchant| &merchant.held), stops(|merchant| &merchant.failing));
    if held > 0 {
        let text = format!("{} {} held: the vault said no, or asked to wait", users(held), are(held));
        if sum(|merchant| merchant.cached) == 0 { &mut trouble } else { &mut attention }.push(text);
    }
    if failing > 0 {
        attention.push(format!("the last sign-in of {} failed, and is tried again", users(failing)));
    }
    if renewals_overdue > 0 {
        attention.push(format!("{} should have been renewed by now", users(renewals_overdue)));
    }
    if view.trials.all {
        let text = "the policy is on trial (auth.enforce = false): whoever calls gets every user's token, and who would be refused is counted";
        attention.push(text.to_owned());
    } else if view.trials.entries > 0 {
        let entries = view.trials.entries;
        let which =
            if entries == 1 { "1 entry of [[callers]] is".to_owned() } else { format!("{entries} entries of [[callers]] are") };
        attention.push(format!("{which} on trial: whom they mean gets every user's token, and what would be refused is counted"));
    }
    let faults = view.configuration.faults.len();
    if faults > 0 {
        attention
            .push(format!("the configuration's files have {faults} fault{}, and the last good one is in force", plural(faults)));
    }
    for (name, not_after) in &view.certificates {
        if not_after.duration_since(view.at.wall).unwrap_or_default() < CERTIFICATE_SOON {
            attention.push(format!("a certificate ({name}) ends soon, or has ended"));
        }
    }
    let verdict = match (trouble.is_empty(), attention.is_empty()) {
        (false, _) => Verdict::Trouble,
        (true, false) => Verdict::Attention,
        (true, true) => Verdict::Flowing,
    };
    trouble.append(&mut attention);
    (verdict, trouble)
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn users(count: usize) -> String {
    format!("{count} user{}", plural(count))
}

fn have(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}

fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}
