//! One call, from its headers to its end: how long it may take, who makes it, its place in a trace, and the count of it.
//!
//! Must never be counted twice, nor go uncounted, whatever ends it.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Code;

use super::{
    request_id::{self, RequestId},
    status,
};
use crate::{
    broker::{Answer, NoToken, Outcome},
    caller::CallerId,
    clock::Clock,
    telemetry::{
        metrics::{Ended, Metrics},
        traces::{Context, Kind, Span, TraceId, Traces},
    },
};

/// Where calls are counted and traced.
pub struct Watch {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    traces: Traces,
    /// Whether callers get a label of their own.
    label_callers: AtomicBool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Counts in `metrics`, and traces in `traces`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, metrics: Arc<Metrics>, traces: Traces) -> Self {
        Self { clock, metrics, traces, label_callers: AtomicBool::new(false) }
    }

    /// From now on callers get a label of their own, or not.
    pub fn label_callers(&self, label: bool) {
        self.label_callers.store(label, Ordering::Relaxed);
    }
}

/// A call under way. Dropped before it ended, it was cancelled.
pub(super) struct Call {
    pub(super) id: RequestId,
    /// When its headers were here.
    pub(super) received: Instant,
    /// The caller's own span, where it has one.
    parent: Option<Context>,
    pub(super) span: Span,
    /// When the caller stops waiting, and who it is: known before the broker is asked.
    known: OnceLock<(Instant, CallerId)>,
    ended: AtomicBool,
    watch: Arc<Watch>,
}

impl Call {
    /// A call with these headers begins.
    pub(super) fn begin(watch: &Arc<Watch>, headers: &HeaderMap) -> Arc<Self> {
        let parent = Context::of(headers);
        let span = watch.traces.begin("tokenbroker.v1.TokenBrokerService/GetToken", Kind::Server, parent);
        Arc::new(Self {
            id: RequestId::given(headers.get(request_id::KEY)),
            received: watch.clock.now().mono,
            parent,
            span,
            known: OnceLock::new(),
            ended: AtomicBool::new(false),
            watch: Arc::clone(watch),
        })
    }

    /// Notes until when the caller waits, and who it is.
    pub(super) fn is_known(&self, deadline: Instant, caller: CallerId) {
        // Once: there is one place that finds out.
        self.known.get_or_init(|| (deadline, caller));
    }

    pub(super) fn known(&self) -> Option<(Instant, &CallerId)> {
        self.known.get().map(|(deadline, caller)| (*deadline, caller))
    }

    /// The trace by which to search for it, if it is in one.
    pub(super) fn trace_id(&self) -> Option<TraceId> {
        self.span.context().or(self.parent).map(|context| context.trace)
    }

    /// It ended with a token.
    pub(super) fn answered(&self, answer: &Answer) {
        self.watch.metrics.handed_out(answer.cached.left_at(answer.at));
        self.end(Code::Ok, "", answer.outcome);
    }

    /// It ended without one.
    pub(super) fn refused(&self, why: &NoToken) {
        self.end(status::code(&why.error), why.error.reason(), why.outcome);
    }

    /// It ended like this; only the first end counts.
    pub(super) fn end(&self, code: Code, reason: &'static str, outcome: Outcome) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let Watch { clock, metrics, label_callers, .. } = &*self.watch;
        let (code, outcome) = (status::name(code), outcome.as_str());
        metrics.call(&Ended { code, reason, outcome }, clock.now().mono.saturating_duration_since(self.received));
        if label_callers.load(Ordering::Relaxed)
            && let Some((_, CallerId::Named(caller))) = self.known()
        {
            metrics.caller(caller, code);
        }
        if self.span.is_recorded() {
            self.span.set("rpc.system", "grpc");
            self.span.set("rpc.response.status_code", code);
            self.span.set("token_broker.outcome", outcome);
            self.span.set("token_broker.request_id", self.id.as_str().to_owned());
            if let Some((_, caller)) = self.known() {
                self.span.set("token_broker.caller", caller.to_string());
            }
        }
        self.span.end(Some(reason).filter(|reason| !reason.is_empty()));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled, "", Outcome::Cancelled);
    }
}
