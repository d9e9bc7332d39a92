//! What is counted, for Prometheus: typed, made once, and passed to whoever counts.
//!
//! Must never carry a number, a token or a password in a label, nor a label with values without bound: what callers or a
//! configuration may name in any number gets a label of its own up to a limit, and shares one beyond it.

use std::{
    collections::HashSet,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode_eof, text::encode_registry},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
    },
    registry::{Registry, Unit},
};

pub mod gauges;
mod histogram;
mod rpc_calls;
mod shared_tier;
#[cfg(test)]
mod tests;
mod text_format;
mod would_deny;

pub use self::shared_tier::{SharedEntry, SharedOperation};
use self::{gauges::Gauges, histogram::Histogram, rpc_calls::RpcCalls, shared_tier::SharedTier, would_deny::WouldDeny};

/// Before every name of ours.
const PREFIX: &str = "token_broker";

/// Bounds of durations, in seconds: a hit takes some 50 µs, and nobody waits longer than 30 s for anything.
const DURATIONS: [f64; 18] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of what is left of a token's life, in seconds: from a second to a day.
const LIVES: [f64; 12] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 86_400.0];

/// Most merchants with a label of their own: with each come about 15 series.
pub const MERCHANTS_MAX: usize = 200;
/// Most callers with a label of their own.
pub const CALLERS_MAX: usize = 256;
/// The label that all others share. (A merchant or caller of this name shares it too.)
pub const OTHERS: &str = "_other";

/// How the exposition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, for whoever asks for it: Prometheus does.
    OpenMetrics,
    /// Prometheus' own text format, 0.0.4, for everybody else.
    Classic,
}

impl Format {
    /// What a scraper with this `Accept` header reads.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    /// How it is announced.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallEnd {
    /// gRPC's name for it.
    pub code: &'static str,
    /// The contract's reason; empty where there is none.
    pub reason: &'static str,
    /// How far it got.
    pub outcome: &'static str,
}

/// A call that is answered with a token held.
const HIT: CallEnd = CallEnd { code: "OK", reason: "", outcome: super::HIT };

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCaller {
    caller: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMerchant {
    merchant_id: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

/// What became of a renewal that nobody waited for when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalResult {
    /// The next token was here before the former ended.
    Ahead,
    /// It was not.
    Late,
    /// There is no next token.
    Failed,
}

/// What became of a TLS handshake with a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    /// There is a connection.
    Completed,
    /// There is one, but no CA vouches for the client's certificate: it proves nothing.
    Untrusted,
    /// The two could not agree.
    Refused,
    /// The client did not say enough in time.
    TimedOut,
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// All of it is in force.
    Taken,
    /// Some credentials files were at fault, and their last good versions stay.
    Kept,
    /// All of it was at fault.
    Refused,
}

type Durations<L> = Family<L, Histogram, ByDuration>;

/// Makes histograms of durations.
#[derive(Clone, Debug)]
struct ByDuration;

impl MetricConstructor<Histogram> for ByDuration {
    fn new_metric(&self) -> Histogram {
        Histogram::new(&DURATIONS)
    }
}

/// Everything that is counted as it happens. What is so at the moment of a scrape is [`Gauges`].
pub struct Metrics {
    calls: Family<CallEnd, Counter>,
    call_durations: Durations<ByOutcome>,
    /// Those of hits, found once: nearly all calls are hits, and looking for two labels would be most of what counting one costs.
    hits: (Counter, Histogram),
    calls_by_caller: Family<ByCaller, Counter>,
    calls_shed: Family<ByReason, Counter>,
    remaining: Histogram,
    sign_ins: Family<ByMerchant, Counter>,
    sign_in_durations: Durations<ByResult>,
    renewals: Family<ByResult, Counter>,
    handshakes: Family<ByResult, Counter>,
    reloads: Family<ByResult, Counter>,
    /// Times that a user's floor between sign-ins doubled, since its tokens are rejected soon after their issue.
    pub floor_doublings: Counter,
    /// Calls that were let in, and would be refused if the policy were not on trial.
    pub would_deny: WouldDeny,
    /// What the tier that replicas share is asked and says.
    pub shared: SharedTier,
    /// Whether `state_directory` is set and can't be used: 1, or 0.
    pub holds_unkept: Gauge,
    /// Lines of the audit trail that were dropped, since whatever takes them is too slow.
    pub audit_lines_lost: Counter,
    /// Lines of the log that were.
    pub log_lines_lost: Counter,
    merchants: LabelValues,
    callers: LabelValues,
    /// Calls by OpenTelemetry's conventions, where that is asked for.
    pub rpc: RpcCalls,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let (calls, call_durations) = (Family::<CallEnd, Counter>::default(), Durations::new_with_constructor(ByDuration));
        let hits = {
            let duration = call_durations.get_or_create(&ByOutcome { outcome: HIT.outcome });
            (calls.get_or_create(&HIT).clone(), duration.clone())
        };
        let metrics = Self {
            calls,
            call_durations,
            hits,
            calls_by_caller: Family::default(),
            calls_shed: Family::default(),
            remaining: Histogram::new(&LIVES),
            sign_ins: Family::default(),
            sign_in_durations: Family::new_with_constructor(ByDuration),
            renewals: Family::default(),
            handshakes: Family::default(),
            reloads: Family::default(),
            floor_doublings: Counter::default(),
            would_deny: WouldDeny::default(),
            shared: SharedTier::default(),
            holds_unkept: Gauge::default(),
            audit_lines_lost: Counter::default(),
            log_lines_lost: Counter::default(),
            merchants: LabelValues::new(MERCHANTS_MAX),
            callers: LabelValues::new(CALLERS_MAX),
            rpc: RpcCalls::default(),
            registry: Registry::with_prefix(PREFIX),
        };
        // There from the start, so that the first of a kind shows as an increase.
        for (family, results) in [
            (&metrics.renewals, &["ahead", "late", "failed"][..]),
            (&metrics.handshakes, &["done", "untrusted", "refused", "timed_out"]),
            (&metrics.reloads, &["taken", "kept", "refused"]),
        ] {
            results.iter().for_each(|result| drop(family.get_or_create(&ByResult { result })));
        }
        ["full", "share", "rate"].iter().for_each(|why| drop(metrics.calls_shed.get_or_create(&ByReason { why })));
        for (code, reason, outcome) in [("INTERNAL", "INTERNAL", "broken"), ("RESOURCE_EXHAUSTED", "BROKER_OVERLOADED", "shed")] {
            drop(metrics.calls.get_or_create(&CallEnd { code, reason, outcome }));
        }
        for result in ["granted", "unavailable", "invalid", "broken"] {
            drop(metrics.sign_in_durations.get_or_create(&ByResult { result }));
        }
        metrics.registered()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let to = &mut self.registry;
        to.register(
            "calls",
            "GetToken calls that ended, by gRPC code, the contract's reason, and how far they got",
            self.calls.clone(),
        );
        let help = "How long GetToken calls took, from their headers to the answer";
        to.register_with_unit("call_duration", help, Unit::Seconds, self.call_durations.clone());
        let help = "GetToken calls by caller, where admin.label_callers is set; callers beyond the first 256 share one label";
        to.register("caller_calls", help, self.calls_by_caller.clone());
        let help = "GetToken calls that were turned away with BROKER_OVERLOADED: all places are taken (full), the rest is for other \
                    callers (share), or the caller began as many sign-ins as it may in a minute (rate)";
        to.register("calls_shed", help, self.calls_shed.clone());
        let help = "What was left of the life of tokens as they were handed out";
        to.register_with_unit("token_remaining", help, Unit::Seconds, self.remaining.clone());
        let help = "Sign-ins at the vault that ended; merchants beyond the first 200 share one label";
        to.register("sign_ins", help, self.sign_ins.clone());
        to.register_with_unit("sign_in_duration", "How long sign-ins took", Unit::Seconds, self.sign_in_durations.clone());
        let help = "Renewals that began with nobody waiting: ended ahead of the former token's end, late, or failed";
        to.register("renewals", help, self.renewals.clone());
        to.register("tls_handshakes", "TLS handshakes with callers", self.handshakes.clone());
        to.register("reloads", "Times that the configuration was read again, by what became of it", self.reloads.clone());
        let help = "Times that a user's floor between sign-ins doubled, since its tokens are rejected soon after their issue: \
                    another replica or system may be revoking them";
        to.register("floor_doublings", help, self.floor_doublings.clone());
        let help = "1 where state_directory is set and can't be used: a restart will forget which users the vault refused";
        to.register("holds_unkept", help, self.holds_unkept.clone());
        self.would_deny.register(to);
        self.shared.register(to);
        let help = "Lines of the audit trail that were lost, since whatever takes them is too slow, or full";
        to.register("audit_lines_lost", help, self.audit_lines_lost.clone());
        let help = "Lines of the log that were dropped, since whatever reads them is too slow";
        to.register("log_lines_lost", help, self.log_lines_lost.clone());
        self
    }

    /// Counts a call that took so long.
    pub fn call(&self, end: &CallEnd, took: Duration) {
        if *end == HIT {
            self.hits.0.inc();
            self.hits.1.observe(took.as_secs_f64());
            return;
        }
        self.calls.get_or_create(end).inc();
        self.call_durations.get_or_create(&ByOutcome { outcome: end.outcome }).observe(took.as_secs_f64());
    }

    /// Counts a call under its caller's name.
    pub fn caller(&self, caller: &str, code: &'static str) {
        let caller = self.callers.label(caller).to_owned();
        self.calls_by_caller.get_or_create(&ByCaller { caller, code }).inc();
    }

    /// Counts a call that was turned away with `BROKER_OVERLOADED`.
    pub fn shed(&self, why: &'static str) {
        self.calls_shed.get_or_create(&ByReason { why }).inc();
    }

    /// Notes what is left of a token that is handed out.
    pub fn handed_out(&self, left: Duration) {
        self.remaining.observe(left.as_secs_f64());
    }

    /// Counts a sign-in that took so long.
    pub fn sign_in(&self, merchant: &str, result: &'static str, took: Duration) {
        let merchant_id = self.merchants.label(merchant).to_owned();
        self.sign_ins.get_or_create(&ByMerchant { merchant_id, result }).inc();
        self.sign_in_durations.get_or_create(&ByResult { result }).observe(took.as_secs_f64());
    }

    /// Counts a renewal.
    pub fn renewal(&self, result: RenewalResult) {
        let result = match result {
            RenewalResult::Ahead => "ahead",
            RenewalResult::Late => "late",
            RenewalResult::Failed => "failed",
        };
        self.renewals.get_or_create(&ByResult { result }).inc();
    }

    /// Counts a handshake.
    pub fn handshake(&self, result: HandshakeResult) {
        let result = match result {
            HandshakeResult::Completed => "done",
            HandshakeResult::Untrusted => "untrusted",
            HandshakeResult::Refused => "refused",
            HandshakeResult::TimedOut => "timed_out",
        };
        self.handshakes.get_or_create(&ByResult { result }).inc();
    }

    /// Counts a reload.
    pub fn reload(&self, result: ReloadResult) {
        let result = match result {
            ReloadResult::Taken => "taken",
            ReloadResult::Kept => "kept",
            ReloadResult::Refused => "refused",
        };
        self.reloads.get_or_create(&ByResult { result }).inc();
    }

    /// All of it, and what is so now, as a scraper reads it.
    ///
    /// # Errors
    /// Never in practice: a string takes everything that is written to it.
    pub fn text(&self, gauges: Gauges, format: Format) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &gauges.registry(&self.merchants))?;
        self.rpc.encode(&mut text)?;
        encode_eof(&mut text)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Classic => text_format::rewritten(&text),
        })
    }
}

/// Names that have a label of their own: those that came first, up to a limit.
#[derive(Debug)]
pub(crate) struct LabelValues {
    known: Mutex<HashSet<Box<str>>>,
    most: usize,
}

impl LabelValues {
    fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most }
    }

    /// The label of a name, the same each time.
    fn label<'n>(&self, name: &'n str) -> &'n str {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return name;
        }
        if known.len() >= self.most {
            return OTHERS;
        }
        known.insert(name.into());
        name
    }
}
