//! One call of `GetToken` from its headers to its end, and the one place where its end is told: metrics, audit trail, log and span.
//!
//! Must never tell of a call twice, nor of none, whatever ends it: an answer, a refusal, the deadline, a panic, the library below, or
//! a caller that went away.

use std::{fmt, sync::Arc, time::SystemTime};

use http::{HeaderMap, Response, Uri};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tracing::{debug, error, info};

use super::{
    get_token::{Call, End, Notes},
    status,
    strangers::{Kind, Strangers},
};
use crate::{
    broker::{Broker, BrokerError, NoToken, Outcome},
    caller::CallerId,
    clock::{Clock, Moment},
    live::{Serving, Snapshot},
    net::Session,
    reason::Reason,
    request_id::{self, RequestId},
    signin::Parts,
    telemetry::{
        audit::{Audit, Decision, Verdict},
        metrics::{CallEnd, Metrics},
        traces::{Context, Span, SpanRole, TraceId, Traces},
    },
    user::UserKey,
};

/// As OpenTelemetry names spans of calls, and their method.
const METHOD: &str = "tokenbroker.v1.TokenBrokerService/GetToken";
/// In the place of a method that there is none of, whose name is the caller's, and how its span is named.
const OTHER_METHOD: (&str, &str) = ("_OTHER", "grpc");
/// Longest host that a span has: no name in the DNS is longer.
const HOST_MAX: usize = 253;

/// Where calls are told of.
pub struct Observer {
    /// Tells how long they took.
    pub clock: Arc<dyn Clock>,
    /// Counts them.
    pub metrics: Arc<Metrics>,
    /// Traces them.
    pub traces: Traces,
    /// Keeps a record of them.
    pub audit: Audit,
    /// Counts those of strangers.
    pub strangers: Strangers,
}

impl Observer {
    /// Tells where sign-ins are told of too.
    #[must_use]
    pub fn new(Parts { clock, metrics, traces, audit, .. }: &Parts) -> Self {
        Self {
            clock: Arc::clone(clock),
            metrics: Arc::clone(metrics),
            traces: traces.clone(),
            audit: audit.clone(),
            strangers: Strangers::new(audit.clone(), Arc::clone(clock)),
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// A call under way. Dropped before it was finished, it was cancelled.
pub(super) struct Guard<'s> {
    observer: Arc<Observer>,
    session: &'s Session,
    label_callers: bool,
    rpc_metrics: bool,
    /// As conventions name it.
    method: &'static str,
    pub(super) id: RequestId,
    /// When its headers were here.
    pub(super) received: Moment,
    /// The caller's own span, where it has one.
    parent: Option<Context>,
    span: Span,
    /// What the handler works on, once it is known who calls.
    call: Option<Arc<Call>>,
    finished: bool,
}

impl<'s> Guard<'s> {
    /// A call of this address with these headers begins.
    pub(super) fn begin(
        observer: &Arc<Observer>,
        session: &'s Session,
        serving: &Serving,
        (uri, headers): (&Uri, &HeaderMap),
    ) -> Self {
        let parent = Context::of(headers);
        let (method, span) = if uri.path().get(1..) == Some(METHOD) { (METHOD, METHOD) } else { OTHER_METHOD };
        Self {
            session,
            label_callers: serving.label_callers,
            rpc_metrics: serving.rpc_metrics,
            method,
            id: RequestId::given(headers.get(request_id::KEY)),
            received: observer.clock.now(),
            parent,
            span: observer.traces.begin(span, SpanRole::Server, parent),
            call: None,
            finished: false,
            observer: Arc::clone(observer),
        }
    }

    /// Notes in the span which address the caller uses for the broker, and where it is itself.
    pub(super) fn addressed(&self, uri: &Uri) {
        if !self.span.is_recorded() {
            return;
        }
        self.span.set("network.peer.address", self.session.connection.address().to_string());
        // Whoever calls may write there what it wants to.
        if let Some(authority) = uri.authority().filter(|authority| authority.host().len() <= HOST_MAX) {
            self.span.set("server.address", authority.host().trim_matches(['[', ']']).to_owned());
            if let Some(port) = authority.port_u16() {
                self.span.set_number("server.port", port.into());
            }
        }
    }

    /// It is known who calls, or that it doesn't matter and why it would: what the handler works on from here.
    pub(super) fn identified(
        &mut self,
        broker: &Arc<Broker>,
        snapshot: Arc<Snapshot>,
        (caller, would_deny): (CallerId, Option<Reason>),
        deadline: Instant,
    ) -> Arc<Call> {
        let (id, span, notes) = (self.id, self.span.clone(), Notes::new(snapshot, would_deny));
        let call = Arc::new(Call { broker: Arc::clone(broker), caller, deadline, id, span, notes });
        self.call = Some(Arc::clone(&call));
        call
    }

    /// Ends the call with what the handler noted; or, where it noted nothing, with what the library below said in its place: a message
    /// that is none, another method.
    pub(super) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(end) = self.call.as_ref().and_then(|call| call.notes.take_end()) {
            self.finish(&end);
            return response;
        }
        let response = status::completed(response, || self.id);
        let code = Status::from_header_map(response.headers()).map_or(Code::Unknown, |status| status.code());
        self.finish(&End::RefusedBelow(code));
        response
    }

    /// Ends the call with an error from before or around the handler.
    pub(super) fn refused(mut self, error: BrokerError) -> Response<Body> {
        let response = status::from_error(&error, &self.id).into_http();
        self.finish(&End::Refused(NoToken::from(error)));
        response
    }

    fn finish(&mut self, end: &End) {
        self.finished = true;
        // An answer that is made at once took no time that could be read, and a clock does.
        let now = end.at().unwrap_or_else(|| self.observer.clock.now());
        let metrics = &self.observer.metrics;
        let (code, reason, outcome) = (status::name(end.code()), end.reason().map_or("", Reason::as_str), end.outcome().as_str());
        metrics.call(&CallEnd { code, reason, outcome }, now.mono.saturating_duration_since(self.received.mono));
        let (user, would_deny) = self.call.as_ref().map(|call| call.notes.take_user()).unwrap_or_default();
        if self.rpc_metrics {
            metrics.rpc.count(self.method, code, is_error(code), now.mono.saturating_duration_since(self.received.mono));
        }
        let mut told = true;
        match end {
            End::Answered { left, .. } => metrics.handed_out(*left),
            End::Refused(NoToken { error: BrokerError::Overloaded { why, .. }, .. }) => metrics.shed(why.as_str()),
            End::Refused(_) | End::RefusedBelow(_) | End::Cancelled => {
                let kind = Kind { verdict: end.verdict(), reason, outcome, would_deny, audited: true };
                told = !self.is_a_strangers() || self.observer.strangers.count(self.session.connection.address(), kind, now.wall);
            }
        }
        let caller = self.call.as_ref().map(|call| &call.caller);
        if self.label_callers
            && let Some(CallerId::Named(caller)) = caller
        {
            metrics.caller(caller, code);
        }
        if let Some(reason) = would_deny {
            self.on_trial(reason, end, user.as_deref(), now.wall);
        }
        if told {
            let trace_id = self.trace_id();
            self.observer.audit.decision(Decision {
                at: now.wall,
                caller: caller.cloned(),
                user: user.clone(),
                verdict: end.verdict(),
                reason,
                outcome,
                would_deny,
                token_id: end.token_id(),
                request_id: self.id,
                trace_id,
            });
            self.log(end, caller, user.as_deref(), would_deny, trace_id);
        }
        self.end_span(code, outcome, caller, reason, would_deny);
    }

    /// A call that would have been refused, and was let in. Counted whatever became of it; if it got a token, the log tells of it as of
    /// strangers' calls, since there may be any number of them. (If it got none, it has its line as any other.)
    fn on_trial(&self, would_deny: Reason, end: &End, user: Option<&UserKey>, now: SystemTime) {
        self.observer.metrics.would_deny.count(would_deny);
        let End::Answered { outcome, .. } = end else { return };
        let (verdict, outcome) = (end.verdict(), outcome.as_str());
        let kind = Kind { verdict, reason: "", outcome, would_deny: Some(would_deny), audited: false };
        if self.observer.strangers.count(self.session.connection.address(), kind, now) {
            let (request_id, peer, would_deny) = (&self.id, self.session.connection.address(), would_deny.as_str());
            let caller = self.call.as_ref().map(|call| tracing::field::display(&call.caller));
            let merchant_id = user.map(|user| tracing::field::display(&user.merchant));
            let number = user.map(|user| tracing::field::display(&user.number));
            info!(%request_id, %peer, caller, merchant_id, number, would_deny, outcome, "let in on trial: it would be refused");
        }
    }

    /// Whether it is the call of somebody who is not known, or whom no entry of `[[callers]]` means now: there may be any number of
    /// them.
    fn is_a_strangers(&self) -> bool {
        self.call.as_ref().is_none_or(|call| !call.broker.in_force().policy.means(&call.caller))
    }

    /// One line for a call that got no token; the queue before standard output bounds what a bad day may cost.
    fn log(
        &self,
        end: &End,
        caller: Option<&CallerId>,
        user: Option<&UserKey>,
        would_deny: Option<Reason>,
        trace_id: Option<TraceId>,
    ) {
        let (request_id, outcome, trace_id) = (&self.id, end.outcome().as_str(), trace_id.map(tracing::field::display));
        let caller = caller.map(tracing::field::display);
        let merchant_id = user.map(|user| tracing::field::display(&user.merchant));
        let number = user.map(|user| tracing::field::display(&user.number));
        let (reason, would_deny) = (end.reason().map(Reason::as_str), would_deny.map(Reason::as_str));
        match end {
            End::Answered { token_id, .. } => {
                debug!(%request_id, trace_id, caller, merchant_id, number, would_deny, outcome, %token_id, "answered");
            }
            End::Refused(NoToken { error: BrokerError::Internal, .. }) => {
                error!(%request_id, trace_id, caller, merchant_id, number, would_deny, reason, "no token");
            }
            End::Refused(NoToken { error, .. }) => {
                info!(%request_id, trace_id, caller, merchant_id, number, would_deny, reason, %error, "no token");
            }
            End::RefusedBelow(_) => {
                info!(%request_id, trace_id, caller, would_deny, reason, "no token: no call that could be read")
            }
            End::Cancelled => debug!(%request_id, trace_id, caller, merchant_id, number, would_deny, "the caller went away"),
        }
    }

    fn end_span(
        &self,
        code: &'static str,
        outcome: &'static str,
        caller: Option<&CallerId>,
        reason: &'static str,
        would_deny: Option<Reason>,
    ) {
        if self.span.is_recorded() {
            self.span.set("rpc.system.name", "grpc");
            self.span.set("rpc.method", self.method);
            self.span.set("rpc.response.status_code", code);
            if is_error(code) {
                self.span.set("error.type", code);
            }
            self.span.set("token_broker.outcome", outcome);
            if !reason.is_empty() {
                self.span.set("token_broker.reason", reason);
            }
            self.span.set("token_broker.request_id", self.id.to_string());
            if let Some(caller) = caller {
                self.span.set("token_broker.caller", caller.to_string());
            }
            if let Some(would_deny) = would_deny {
                self.span.set("token_broker.would_deny", would_deny.as_str());
            }
        }
        self.span.end(Some(reason).filter(|reason| !reason.is_empty() && is_error(code)));
    }

    /// The trace by which to search for it, if it is in one.
    fn trace_id(&self) -> Option<TraceId> {
        self.span.context().or(self.parent).map(|context| context.trace)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(&End::Cancelled);
        }
    }
}

/// Whether a server's span has failed that ends with this code (OpenTelemetry's conventions for gRPC: of the others the caller is the cause).
fn is_error(code: &str) -> bool {
    matches!(code, "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS")
}

impl End {
    fn code(&self) -> Code {
        match self {
            Self::Answered { .. } => Code::Ok,
            Self::Refused(why) => status::code(&why.error),
            Self::RefusedBelow(code) => *code,
            Self::Cancelled => Code::Cancelled,
        }
    }

    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Answered { .. } | Self::Cancelled => None,
            Self::Refused(why) => Some(why.error.reason()),
            Self::RefusedBelow(_) => Some(Reason::InvalidRequest),
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Answered { outcome, .. } => *outcome,
            Self::Refused(why) => why.outcome,
            Self::RefusedBelow(_) => Outcome::TurnedAway,
            Self::Cancelled => Outcome::Cancelled,
        }
    }

    fn verdict(&self) -> Verdict {
        match self {
            Self::Answered { .. } => Verdict::Allowed,
            Self::Refused(NoToken { error: BrokerError::NotAllowed { .. }, .. }) => Verdict::Denied,
            Self::Refused(NoToken {
                error: BrokerError::Unauthenticated { .. } | BrokerError::IdentityUnavailable { .. },
                ..
            }) => Verdict::Unauthenticated,
            Self::Refused(_) | Self::RefusedBelow(_) | Self::Cancelled => Verdict::Failed,
        }
    }
}
