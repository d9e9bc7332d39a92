//! What is so at the moment of a scrape: gauges, made anew each time, so that none is left over from what is gone.
//!
//! Must never have more series than merchants and certificates bound.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{LabelValues, PREFIX};

/// The gauges' values.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Whether the process answers callers.
    pub ready: bool,
    /// Whether the vault counts as reachable.
    pub vault_up: bool,
    /// Whether the tier that replicas share can be used; none where there is none.
    pub shared_up: Option<bool>,
    /// Sign-ins under way or queued.
    pub flights: usize,
    /// Calls that wait for one.
    pub waiting: usize,
    /// Renewals planned.
    pub renewals_planned: usize,
    /// Those of them that should have begun.
    pub renewals_overdue: usize,
    /// Configured `[[callers]]`.
    pub callers: usize,
    /// Whether the whole policy is on trial.
    pub policy_on_trial: bool,
    /// Those of them that are by themselves.
    pub callers_on_trial: usize,
    /// Of the configuration in force.
    pub generation: u64,
    /// When that was read.
    pub last_good: Option<SystemTime>,
    /// Faults in the files as they are.
    pub faults: usize,
    /// Merchant by merchant.
    pub merchants: Vec<Merchant>,
    /// Until when each kind of certificate holds.
    pub certificates: Vec<(&'static str, SystemTime)>,
    /// None where the system doesn't tell.
    pub process: Option<Process>,
}

/// The users of one merchant.
#[derive(Debug, Default)]
pub struct Merchant {
    /// Which.
    pub id: String,
    /// Configured users.
    pub users: usize,
    /// Those with a token that is good.
    pub cached: usize,
    /// Those that are asked for and have none.
    pub dry: usize,
    /// Those for whom no sign-in is tried, by reason.
    pub held: Vec<(&'static str, usize)>,
    /// Those whose last sign-in failed for no lasting reason.
    pub failing: Vec<(&'static str, usize)>,
    /// The vault lets none of them sign in for so long.
    pub wait: Option<Duration>,
}

/// What the system says of the process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// CPU used since its start, in seconds.
    pub cpu: f64,
    /// Since 1970, in seconds.
    pub started: f64,
    /// In bytes.
    pub resident: u64,
    /// In bytes.
    pub virtual_memory: u64,
    /// How many there are.
    pub threads: u64,
    /// How many are open.
    pub descriptors: u64,
    /// How many may be.
    pub descriptors_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMerchant {
    merchant_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    merchant_id: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCertificate {
    certificate: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

impl Gauges {
    pub(super) fn registry(self, names: &LabelValues) -> Registry {
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix(PREFIX);
        ours.register("build", "Which broker this is", Info::new(Build { version: env!("CARGO_PKG_VERSION") }));
        self.register_state(ours);
        self.register_merchants(ours, names);
        if let Some(process) = self.process {
            process.register(registry.sub_registry_with_prefix("process"));
        }
        registry
    }

    fn register_state(&self, to: &mut Registry) {
        let mut gauge = |name: &str, help: &str, value: usize| to.register(name, help, constant(value));
        gauge("ready", "1 while this process answers callers, which says nothing of the vault", usize::from(self.ready));
        let help = "0 while the vault counts as down: the last sign-ins of three users found none, or none that makes sense";
        gauge("vault_up", help, usize::from(self.vault_up));
        if let Some(up) = self.shared_up {
            gauge("shared_up", "0 while the shared tier can't be used, and each replica signs in by itself", usize::from(up));
        }
        gauge("flights", "Sign-ins under way or queued", self.flights);
        gauge("waiting_calls", "Calls that wait for a sign-in", self.waiting);
        gauge("renewals_planned", "Users whose next renewal has its time", self.renewals_planned);
        gauge("renewals_overdue", "Those of them whose time passed more than 5 s ago", self.renewals_overdue);
        gauge("callers", "Configured [[callers]]", self.callers);
        let help = "1 while the policy refuses nobody (auth.enforce = false): who would be refused is let in";
        gauge("policy_on_trial", help, usize::from(self.policy_on_trial));
        let help = "Entries of [[callers]] on trial (trial = true): whom they mean is let in for every user";
        gauge("callers_on_trial", help, self.callers_on_trial);
        gauge(
            "configured_users",
            "Configured users, of all merchants",
            self.merchants.iter().map(|merchant| merchant.users).sum(),
        );
        gauge("configuration_faults", "Faults in the configuration's files as they are; none while all is in force", self.faults);
        let help = "1 for the configuration of the start, one more for each that was put in force since then";
        to.register("configuration_generation", help, constant(self.generation));
        if let Some(last_good) = self.last_good {
            let help = "When the configuration in force was read";
            to.register_with_unit(
                "configuration_last_good_timestamp",
                help,
                Unit::Seconds,
                ConstGauge::new(since_1970(last_good)),
            );
        }
        let ends = Family::<ByCertificate, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for (certificate, not_after) in &self.certificates {
            ends.get_or_create(&ByCertificate { certificate }).set(since_1970(*not_after));
        }
        let help = "When the first certificate of each kind ends: the broker's own, its callers' CAs, the vault's CAs";
        to.register_with_unit("certificate_not_after_timestamp", help, Unit::Seconds, ends);
    }

    fn register_merchants(&self, to: &mut Registry, names: &LabelValues) {
        let [users, cached, dry] = std::array::from_fn(|_| Family::<ByMerchant, Gauge>::default());
        let [held, failing] = std::array::from_fn(|_| Family::<ByReason, Gauge>::default());
        let waits = Family::<ByMerchant, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for merchant in &self.merchants {
            let merchant_id = names.label(&merchant.id).to_owned();
            let label = ByMerchant { merchant_id: merchant_id.clone() };
            // Added, since several may share a label.
            for (family, count) in [(&users, merchant.users), (&cached, merchant.cached), (&dry, merchant.dry)] {
                family.get_or_create(&label).inc_by(whole(count));
            }
            for (family, counts) in [(&held, &merchant.held), (&failing, &merchant.failing)] {
                for (reason, count) in counts {
                    let label = ByReason { merchant_id: merchant_id.clone(), reason };
                    family.get_or_create(&label).inc_by(whole(*count));
                }
            }
            if let Some(wait) = merchant.wait {
                let longest = waits.get_or_create(&label).get().max(wait.as_secs_f64());
                waits.get_or_create(&label).set(longest);
            }
        }
        to.register("users", "Configured users", users);
        to.register("cached_tokens", "Users with a token that is good now", cached);
        let help = "Users that were asked for lately, have no token that is good now, and are not held";
        to.register("dry_users", help, dry);
        let help = "Users whom no sign-in is tried for, after a definite refusal or a wait that the vault asked for";
        to.register("held_users", help, held);
        to.register("failing_users", "Users whose last sign-in failed for no lasting reason", failing);
        let help = "How long the vault lets no user of the merchant sign in";
        to.register_with_unit("merchant_wait", help, Unit::Seconds, waits);
    }
}

impl Process {
    /// What the system says now; none where it doesn't.
    #[must_use]
    pub fn now() -> Option<Self> {
        let process = procfs::process::Process::myself().ok()?;
        let stat = process.stat().ok()?;
        #[allow(clippy::cast_precision_loss, reason = "ticks since the start of the system are far below 2⁵²")]
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 too")]
        let booted = procfs::boot_time_secs().ok()? as f64;
        let descriptors_max = match process.limits().ok()?.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(most) => most,
            procfs::process::LimitValue::Unlimited => u64::MAX,
        };
        Some(Self {
            cpu: seconds(stat.utime.saturating_add(stat.stime)),
            started: booted + seconds(stat.starttime),
            resident: stat.rss.saturating_mul(procfs::page_size()),
            virtual_memory: stat.vsize,
            threads: u64::try_from(stat.num_threads).unwrap_or_default(),
            descriptors: process.fd_count().ok().and_then(|count| u64::try_from(count).ok())?,
            descriptors_max,
        })
    }

    /// By the names that all of Prometheus' own libraries use.
    fn register(self, to: &mut Registry) {
        let help = "User and system CPU time used";
        to.register_with_unit("cpu", help, Unit::Seconds, ConstCounter::new(self.cpu));
        let help = "When the process began, since the Unix epoch";
        to.register_with_unit("start_time", help, Unit::Seconds, ConstGauge::new(self.started));
        to.register_with_unit("resident_memory", "Resident memory", Unit::Bytes, constant(self.resident));
        to.register_with_unit("virtual_memory", "Virtual memory", Unit::Bytes, constant(self.virtual_memory));
        to.register("threads", "Threads", constant(self.threads));
        to.register("open_fds", "Open file descriptors", constant(self.descriptors));
        to.register("max_fds", "Most file descriptors that may be open", constant(self.descriptors_max));
    }
}

fn constant(count: impl TryInto<i64>) -> ConstGauge<i64> {
    ConstGauge::new(whole(count))
}

fn whole(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Format, MERCHANTS_MAX, Metrics};

    #[test]
    fn a_merchant_that_is_gone_leaves_nothing_behind_and_many_share_a_label() {
        let metrics = Metrics::default();
        let merchant = |id: String| Merchant { id, users: 2, dry: 1, wait: Some(Duration::from_secs(9)), ..Merchant::default() };
        let now = |merchants| Gauges { merchants, ..Gauges::default() };
        let text = |now| metrics.text(now, Format::OpenMetrics).expect("can be written");
        let many = text(now((0..MERCHANTS_MAX + 5).map(|n| merchant(format!("m{n}"))).collect()));
        assert!(many.contains("token_broker_users{merchant_id=\"_other\"} 10\n"), "{many}");
        assert!(many.contains("token_broker_merchant_wait_seconds{merchant_id=\"_other\"} 9.0\n"), "{many}");
        let one = text(now(vec![merchant("m1".to_owned())]));
        assert_eq!(one.matches("token_broker_users{").count(), 1);
    }

    #[test]
    fn the_process_is_described_by_the_usual_names() {
        let process = Process::now().expect("this is Linux");
        assert!(process.resident > 100_000 && process.descriptors > 2 && process.descriptors_max > 2, "{process:?}");
        let text = Metrics::default().text(Gauges { process: Some(process), ..Gauges::default() }, Format::Classic);
        let text = text.expect("can be written");
        for name in ["cpu_seconds_total", "start_time_seconds", "resident_memory_bytes", "open_fds", "max_fds"] {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name}");
        }
    }
}
