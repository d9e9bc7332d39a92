//! What is counted of the tier that replicas share.
//!
//! Must never name a user or a merchant: what is asked and what is found is all that is told.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};

use super::{ByDuration, Durations};

/// What the shared tier is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedOperation {
    /// What stands of a user.
    Look,
    /// The lock.
    Lease,
    /// To keep what came of a sign-in.
    Write,
    /// To take a lock back that nothing came of.
    Release,
}

impl SharedOperation {
    const ALL: [Self; 4] = [Self::Look, Self::Lease, Self::Write, Self::Release];

    fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Lease => "lease",
            Self::Write => "write",
            Self::Release => "release",
        }
    }
}

/// What becomes of an entry of the shared tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedEntry {
    /// Its token is answered from now on.
    Taken,
    /// There is none.
    None,
    /// It is the token that is held already, and another one is wanted.
    Same,
    /// A caller was refused with it.
    Rejected,
    /// Nothing of its life is left, by one clock or another.
    Expired,
    /// It is older than one that is known here.
    Replayed,
    /// It was changed, or stands in another one's place.
    Tampered,
    /// It is sealed under a key that isn't known here.
    Foreign,
    /// It was not written, since the lock was not held any more.
    Late,
}

impl SharedEntry {
    const ALL: [Self; 9] = [
        Self::Taken,
        Self::None,
        Self::Same,
        Self::Rejected,
        Self::Expired,
        Self::Replayed,
        Self::Tampered,
        Self::Foreign,
        Self::Late,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::None => "none",
            Self::Same => "same",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::Tampered => "tampered",
            Self::Foreign => "foreign",
            Self::Late => "late",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperationAndResult {
    operation: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEntry {
    result: &'static str,
}

/// The counters.
pub struct SharedTier {
    operations: Family<ByOperationAndResult, Counter>,
    durations: Durations<ByOperation>,
    entries: Family<ByEntry, Counter>,
}

impl fmt::Debug for SharedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTier").finish_non_exhaustive()
    }
}

impl Default for SharedTier {
    fn default() -> Self {
        let (operations, entries) = (Family::<ByOperationAndResult, Counter>::default(), Family::<ByEntry, Counter>::default());
        let durations = Durations::<ByOperation>::new_with_constructor(ByDuration);
        // There from the start, so that the first of a kind shows as an increase.
        for operation in SharedOperation::ALL.map(SharedOperation::as_str) {
            for result in ["done", "failed", "off"] {
                drop(operations.get_or_create(&ByOperationAndResult { operation, result }));
            }
            drop(durations.get_or_create(&ByOperation { operation }));
        }
        SharedEntry::ALL.iter().for_each(|entry| drop(entries.get_or_create(&ByEntry { result: entry.as_str() })));
        Self { operations, durations, entries }
    }
}

impl SharedTier {
    pub(super) fn register(&self, to: &mut Registry) {
        let help = "What the shared tier was asked: done, failed or late, or not asked at all, since it is off";
        to.register("shared_operations", help, self.operations.clone());
        let help = "How long the shared tier took to answer";
        to.register_with_unit("shared_operation_duration", help, Unit::Seconds, self.durations.clone());
        let help = "Entries of the shared tier that were looked for, by what became of them";
        to.register("shared_entries", help, self.entries.clone());
    }

    /// Counts what was asked, and took so long.
    pub fn operation(&self, operation: SharedOperation, is_done: bool, took: Duration) {
        let (operation, result) = (operation.as_str(), if is_done { "done" } else { "failed" });
        self.operations.get_or_create(&ByOperationAndResult { operation, result }).inc();
        self.durations.get_or_create(&ByOperation { operation }).observe(took.as_secs_f64());
    }

    /// Counts what was not asked.
    pub fn off(&self, operation: SharedOperation) {
        self.operations.get_or_create(&ByOperationAndResult { operation: operation.as_str(), result: "off" }).inc();
    }

    /// Counts what became of an entry.
    pub fn entry(&self, entry: SharedEntry) {
        self.entries.get_or_create(&ByEntry { result: entry.as_str() }).inc();
    }
}
