//! The audit trail: who asked for whose token and what became of it, each sign-in, each change of what is in force.
//!
//! Whoever has something to record puts it into a bounded queue, and a thread of the trail's own writes the lines. Must never hold a
//! token, a password or a number in clear, format or wait where a call is answered, nor lose a record without counting it.

mod line;
mod queue;
mod sums;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use thiserror::Error;

use self::{queue::Queue, sums::Sums, writer::Writer};
use super::{lines::Sink, output::Stdout, traces::TraceId, trail::Trail};
use crate::{
    caller::CallerId,
    clock::{Clock, SystemClock},
    config,
    reason::Reason,
    request_id::RequestId,
    tokens::token::TokenId,
    user::{MerchantId, UserKey},
};

/// Most records that wait to be written: a second of calls as fast as they come. Each takes 224 bytes, and up to 600 with the
/// names of its user and its caller: 14 to 50 MiB, while nobody takes the lines, and next to nothing otherwise.
const RECORDS_MAX: usize = 65_536;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A token was handed out.
    Allowed,
    /// The policy says no.
    Denied,
    /// Who called is not known.
    Unauthenticated,
    /// The caller might, but there was no token.
    Failed,
}

impl Verdict {
    /// Its name in the trail.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Failed => "failed",
        }
    }
}

/// One call, and what became of it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// When it ended.
    pub at: SystemTime,
    /// Who asked; none where that is not known.
    pub caller: Option<CallerId>,
    /// For whom; none where the request could not be read.
    pub user: Option<Arc<UserKey>>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why not, as on the wire; empty where a token was handed out.
    pub reason: &'static str,
    /// How far the call got.
    pub outcome: &'static str,
    /// Why it would have been refused, if the policy were not on trial.
    pub would_deny: Option<Reason>,
    /// Which token.
    pub token_id: Option<TokenId>,
    /// The call's id, as in its error.
    pub request_id: RequestId,
    /// The trace that it is in, if it is in one.
    pub trace_id: Option<TraceId>,
}

impl Decision {
    /// Whether it was answered from the cache at once, as nearly all calls are.
    fn is_hit(&self) -> bool {
        self.verdict == Verdict::Allowed && self.outcome == super::HIT
    }
}

/// Calls that are told of in one line, since nobody who is known made them.
#[derive(Clone, Debug)]
pub struct SummedCalls {
    /// When they are told of.
    pub at: SystemTime,
    /// The address that they came from, or that they came from several.
    pub peer: String,
    /// What became of each.
    pub verdict: Verdict,
    /// Why, as on the wire.
    pub reason: &'static str,
    /// How far each got.
    pub outcome: &'static str,
    /// Why they would have been refused, if the policy were not on trial.
    pub would_deny: Option<Reason>,
    /// How many.
    pub count: u64,
    /// When the first of them ended …
    pub first: SystemTime,
    /// … and the last.
    pub last: SystemTime,
}

/// A sign-in at the vault that ended.
#[derive(Clone, Debug)]
pub struct SignInResult {
    /// When it ended.
    pub at: SystemTime,
    /// Whose.
    pub user: Arc<UserKey>,
    /// Which token it brought, or why none.
    pub result: Result<TokenId, String>,
    /// How long it took.
    pub took: Duration,
    /// The trace that it is in, if it is in one.
    pub trace_id: Option<TraceId>,
}

/// A token that was to be ended at the vault.
#[derive(Clone, Debug)]
pub struct SignOutResult {
    /// When it was done, or not.
    pub at: SystemTime,
    /// Whose.
    pub user: Arc<UserKey>,
    /// Which.
    pub token_id: TokenId,
    /// Why it is not known to be ended, if so.
    pub result: Result<(), &'static str>,
}

/// What an operator did, or tried to.
#[derive(Clone, Debug)]
pub struct OperatorAct {
    /// When it ended.
    pub at: SystemTime,
    /// Whose process asked for it, and which.
    pub uid: u32,
    /// 0 where it is in another namespace of processes.
    pub pid: i32,
    /// What.
    pub act: &'static str,
    /// To all users of this merchant, or those of all …
    pub merchant: Option<MerchantId>,
    /// … or to this user.
    pub user: Option<UserKey>,
    /// Whether numbers were shown in clear.
    pub revealed: bool,
    /// Whether it was done.
    pub verdict: Verdict,
    /// Why not, as on the wire; empty where it was.
    pub reason: &'static str,
    /// Which token was dropped.
    pub token_id: Option<TokenId>,
    /// How many the line stands for: those of strangers share one a minute.
    pub count: u64,
}

/// How many users and callers a configuration that is in force has, and what it changed.
#[derive(Clone, Copy, Debug)]
pub struct Reconfigured {
    /// Users in all.
    pub users: usize,
    /// New ones.
    pub added: usize,
    /// With another credential.
    pub changed: usize,
    /// Configured no more.
    pub removed: usize,
    /// Entries of `[[callers]]`.
    pub callers: usize,
    /// The policy is on trial.
    pub on_trial: bool,
    /// Entries that are by themselves.
    pub callers_on_trial: usize,
}

/// What the trail is told of: of one size, whichever it is, so that the queue need not allocate for a call.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all records are of the large one, which is not to be allocated")]
enum Record {
    Decision(Decision),
    Rare(Box<Rare>),
}

/// What happens too rarely for its size to matter.
#[derive(Debug)]
enum Rare {
    SignIn(SignInResult),
    Summed(SummedCalls),
    InForce { at: SystemTime, configured: Reconfigured },
    Refused { at: SystemTime, faults: usize },
    Certificate { at: SystemTime, not_after: Option<String> },
    Operator(OperatorAct),
    SignOut(SignOutResult),
}

/// Where to record what the trail is to tell; clones are the same trail. By default it is nowhere.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Queue>>);

/// The audit trail can't be written.
#[derive(Debug, Error)]
pub enum AuditError {
    /// There is no thread to write.
    #[error("no thread can be started to write the audit trail: {0}")]
    Thread(#[source] io::Error),
    /// Its file can't be written to.
    #[error("audit.file: {} can't be added to: {source}: mend its permissions, or name another file", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Audit {
    /// Starts the trail that `[audit]` asks for, on `stdout` where it names no file.
    pub(super) fn start(config: &config::AuditConfig, stdout: Stdout) -> Result<Self, AuditError> {
        match &config.file {
            None => Self::to(stdout, config.hits, Arc::new(SystemClock)),
            Some(path) => Self::in_file(path, config.hits),
        }
    }

    /// Starts a trail in a file of its own.
    ///
    /// # Errors
    /// Where it can't be opened, or there is no thread to write it.
    pub fn in_file(path: &Path, hits: config::Hits) -> Result<Self, AuditError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let file = Trail::open(path, Arc::clone(&clock));
        let file = file.map_err(|source| AuditError::File { path: path.to_owned(), source })?;
        Self::to(file, hits, clock)
    }

    fn to(sink: impl Sink, hits: config::Hits, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        let queue = Arc::new(Queue::new(RECORDS_MAX));
        let sums = match hits {
            config::Hits::Each => None,
            config::Hits::Summed => Some(Sums::default()),
        };
        let writer = Writer::new(Arc::clone(&queue), sink, sums, clock);
        thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run()).map_err(AuditError::Thread)?;
        Ok(Self(Some(queue)))
    }

    fn record(&self, record: impl FnOnce() -> Record) {
        if let Some(queue) = &self.0 {
            queue.push(record());
        }
    }

    fn rare(&self, rare: impl FnOnce() -> Rare) {
        self.record(|| Record::Rare(Box::new(rare())));
    }

    /// Records a call.
    pub fn decision(&self, call: Decision) {
        self.record(|| Record::Decision(call));
    }

    /// Records calls that have no record of their own.
    pub fn summed(&self, calls: SummedCalls) {
        self.rare(|| Rare::Summed(calls));
    }

    /// Records a sign-in at the vault.
    pub fn sign_in(&self, sign_in: SignInResult) {
        self.rare(|| Rare::SignIn(sign_in));
    }

    /// Records that another configuration is in force.
    pub fn configuration(&self, at: SystemTime, configured: Reconfigured) {
        self.rare(|| Rare::InForce { at, configured });
    }

    /// Records that a configuration, or some of its files, was not taken.
    pub fn configuration_refused(&self, at: SystemTime, faults: usize) {
        self.rare(|| Rare::Refused { at, faults });
    }

    /// Records that another certificate of the broker's, or other CAs of callers, are in force.
    pub fn certificate(&self, at: SystemTime, not_after: Option<String>) {
        self.rare(|| Rare::Certificate { at, not_after });
    }

    /// Records that a token was ended at the vault, or may not have been.
    pub fn sign_out(&self, sign_out: SignOutResult) {
        self.rare(|| Rare::SignOut(sign_out));
    }

    /// Records what an operator did.
    pub fn operator(&self, act: OperatorAct) {
        self.rare(|| Rare::Operator(act));
    }

    /// Has the hits that were only counted so far told at once: who knows how the process ends.
    pub fn flush(&self) {
        self.0.iter().for_each(|queue| queue.order(|orders| orders.flush = true));
    }

    /// Looks whether the trail's file is still the one that its path names, and opens that if it is not.
    pub(super) fn look(&self) {
        self.0.iter().for_each(|queue| queue.order(|orders| orders.look = true));
    }

    /// How many lines were lost so far, to a full queue or a sink that failed.
    pub(super) fn lost(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.lost())
    }

    /// How many lines wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.waiting())
    }

    /// Waits until what was recorded before is written, and the trail's thread has ended. As long as that takes.
    pub(super) fn end(&self) {
        self.0.iter().for_each(|queue| queue.end());
    }
}
