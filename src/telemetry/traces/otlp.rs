//! Spans as OpenTelemetry has them, sent over OTLP by a thread of their own.
//!
//! Must never record what the caller's trace does not (parent-based), nor wait for the collector, nor pay for a span that is not
//! recorded.

use std::{borrow::Cow, fmt, time::Duration};

use opentelemetry::{
    KeyValue,
    trace::{
        SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanLimits},
};
use tonic::transport::{ClientTlsConfig, Endpoint};
use tracing::warn;

use super::{Context, SpanRole, TracesError};
use crate::config;

/// Whose spans these are.
const SERVICE: &str = "token-broker";
/// Most spans that wait to be sent: about 2 MiB. What comes on top is dropped, and the library says so once.
const QUEUE_MAX: usize = 4_096;
/// Most of them in one message.
const BATCH_MAX: usize = 512;
/// How often they are sent.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// How long a message to the collector may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Most links of a span: the waiters of a flight beyond that find it by their own link.
const LINKS_MAX: u32 = 128;
/// Most attributes of a span: none of ours has more than fifteen.
const ATTRIBUTES_MAX: u32 = 32;

/// Where spans begin.
#[derive(Clone, Default)]
pub struct Traces(Option<Sending>);

#[derive(Clone)]
struct Sending {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    sample_ratio: f64,
}

/// A span; clones are the same one.
#[derive(Clone, Default)]
pub struct Span(Inner);

#[derive(Clone, Default)]
enum Inner {
    /// Of a broker that sends no traces.
    #[default]
    Off,
    /// Not recorded; what is below it isn't either. In the trace of whoever asked, if there is one.
    Unrecorded(Option<Context>),
    Recorded(opentelemetry::Context),
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("sent", &self.0.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.context()).finish()
    }
}

impl Traces {
    /// Sends traces where the configuration says. To be called on the runtime that will send them; connects to nothing yet.
    ///
    /// # Errors
    /// Says which setting can't be used.
    pub fn new(settings: Option<&config::TracesConfig>) -> Result<Self, TracesError> {
        let Some(settings) = settings else { return Ok(Self(None)) };
        let fault = |error: &dyn fmt::Display| TracesError(error.to_string());
        let mut endpoint = Endpoint::from_shared(settings.endpoint.as_str().to_owned())
            .map_err(|error| fault(&error))?
            .connect_timeout(SEND_TIMEOUT)
            .timeout(SEND_TIMEOUT);
        // The dot is for the look-up alone.
        let dotless = settings.endpoint.absolute();
        if dotless.is_some() {
            let url = settings.endpoint.url().as_str();
            endpoint = endpoint.origin(url.parse().map_err(|error: http::uri::InvalidUri| fault(&error))?);
        }
        if let Some(ca) = &settings.ca_file {
            let mut tls = ClientTlsConfig::new().trust_anchors(ca.roots.roots.clone());
            if let Some(name) = dotless {
                tls = tls.domain_name(name);
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| fault(&error))?;
        }
        let exporter = SpanExporter::builder().with_tonic().with_channel(endpoint.connect_lazy()).with_timeout(SEND_TIMEOUT);
        let exporter = exporter.build().map_err(|error| fault(&error))?;
        // All of it by hand, since the environment is no configuration.
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let limits = SpanLimits {
            max_links_per_span: LINKS_MAX,
            max_attributes_per_span: ATTRIBUTES_MAX,
            max_events_per_span: 0,
            max_attributes_per_event: 0,
            max_attributes_per_link: 0,
        };
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder_empty().with_service_name(SERVICE).with_attribute(version);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            // What is not to be recorded never gets here.
            .with_sampler(Sampler::AlwaysOn)
            .with_span_limits(limits)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer(SERVICE);
        Ok(Self(Some(Sending { provider, tracer, sample_ratio: settings.sample_ratio })))
    }

    /// A span below the one of whoever asked, or at the top of a trace of its own.
    #[must_use]
    pub fn begin(&self, name: &'static str, kind: SpanRole, parent: Option<Context>) -> Span {
        let Some(Sending { tracer, sample_ratio, .. }) = &self.0 else { return Span(Inner::Off) };
        if !parent.map_or_else(|| fastrand::f64() < *sample_ratio, |parent| parent.sampled) {
            return Span(Inner::Unrecorded(parent));
        }
        let parent = parent.map_or_else(opentelemetry::Context::new, |parent| {
            let (trace, span) = (TraceId::from(parent.trace.0), SpanId::from(parent.span));
            let remote = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE);
            opentelemetry::Context::new().with_remote_span_context(remote)
        });
        recorded(tracer, name, kind, &parent)
    }

    /// A span below another of ours; at the top of a trace of its own where there is none.
    #[must_use]
    pub fn within(&self, parent: Option<&Span>, name: &'static str, kind: SpanRole) -> Span {
        let Some(Sending { tracer, .. }) = &self.0 else { return Span(Inner::Off) };
        match parent.map(|parent| &parent.0) {
            Some(Inner::Recorded(parent)) => recorded(tracer, name, kind, parent),
            Some(Inner::Unrecorded(parent)) => Span(Inner::Unrecorded(*parent)),
            Some(Inner::Off) | None => self.begin(name, kind, None),
        }
    }

    /// Sends what waits, and ends. Blocks for `patience` at most.
    pub fn end(&self, patience: Duration) {
        if let Some(Sending { provider, .. }) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(patience)
        {
            warn!(%error, "the last traces could not be sent");
        }
    }
}

fn recorded(tracer: &SdkTracer, name: &'static str, kind: SpanRole, parent: &opentelemetry::Context) -> Span {
    let kind = match kind {
        SpanRole::Server => SpanKind::Server,
        SpanRole::Internal => SpanKind::Internal,
        SpanRole::Client => SpanKind::Client,
    };
    let span = tracer.build_with_context(tracer.span_builder(name).with_kind(kind), parent);
    Span(Inner::Recorded(parent.with_span(span)))
}

impl Span {
    fn recording(&self) -> Option<&opentelemetry::Context> {
        match &self.0 {
            Inner::Recorded(context) => Some(context),
            Inner::Off | Inner::Unrecorded(_) => None,
        }
    }

    /// Where it is in its trace: where it is not recorded, the place of whoever asked.
    #[must_use]
    pub fn context(&self) -> Option<Context> {
        if let Inner::Unrecorded(parent) = &self.0 {
            return *parent;
        }
        let context = self.recording()?.span().span_context().clone();
        let trace = super::TraceId(u128::from_be_bytes(context.trace_id().to_bytes()));
        let span = u64::from_be_bytes(context.span_id().to_bytes());
        context.is_valid().then_some(Context { trace, span, sampled: context.is_sampled() })
    }

    /// Whether anything that is set is recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recording().is_some()
    }

    /// Adds an attribute.
    pub fn set(&self, key: &'static str, value: impl Into<Cow<'static, str>>) {
        if let Some(context) = self.recording() {
            context.span().set_attribute(KeyValue::new(key, value.into()));
        }
    }

    /// Adds an attribute that is a number.
    pub fn set_number(&self, key: &'static str, value: i64) {
        if let Some(context) = self.recording() {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says that another span bears on this one.
    pub fn link(&self, other: &Self) {
        if let (Some(context), Some(other)) = (self.recording(), other.recording()) {
            context.span().add_link(other.span().span_context().clone(), Vec::new());
        }
    }

    /// Ends it; `failure` says, in fixed words, what went wrong. Only the first end counts.
    pub fn end(&self, failure: Option<&'static str>) {
        if let Some(context) = self.recording() {
            if let Some(failure) = failure {
                context.span().set_status(Status::error(failure));
            }
            context.span().end();
        }
    }
}
