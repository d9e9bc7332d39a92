//! Calls as OpenTelemetry's conventions for RPC have them: `rpc.server.call.duration`, under the name that Prometheus gives it.
//!
//! Must never be there, nor cost anything, where nobody asked for it; nor have a label that callers choose.

use std::{fmt, sync::OnceLock, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode_registry},
    metrics::family::{Family, MetricConstructor},
    registry::{Registry, Unit},
};

use super::histogram::Histogram;

/// Bounds, in seconds: those that the conventions ask for.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// gRPC's own name there.
const SYSTEM: &str = "grpc";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    rpc_system_name: &'static str,
    rpc_method: &'static str,
    rpc_response_status_code: &'static str,
    /// Empty, which to Prometheus is none, where the call has not failed.
    error_type: &'static str,
}

#[derive(Clone, Debug)]
struct Bounded;

impl MetricConstructor<Histogram> for Bounded {
    fn new_metric(&self) -> Histogram {
        Histogram::new(&BOUNDS)
    }
}

/// Calls, by method and end; nothing at all until the first is counted.
#[derive(Debug, Default)]
pub struct RpcCalls(OnceLock<Counted>);

#[derive(Debug)]
struct Counted {
    calls: Family<Call, Histogram, Bounded>,
    /// By itself: its names don't begin as ours do.
    registry: Registry,
}

impl Default for Counted {
    fn default() -> Self {
        let calls = Family::new_with_constructor(Bounded);
        let mut registry = Registry::default();
        let help = "Duration of incoming remote procedure calls, where admin.rpc_metrics is set";
        registry.register_with_unit("rpc_server_call_duration", help, Unit::Seconds, Family::clone(&calls));
        Self { calls, registry }
    }
}

impl RpcCalls {
    /// Counts a call of a method that ended with a code; `failed`: through the broker's fault.
    pub fn count(&self, rpc_method: &'static str, code: &'static str, failed: bool, took: Duration) {
        let error_type = if failed { code } else { "" };
        let call = Call { rpc_system_name: SYSTEM, rpc_method, rpc_response_status_code: code, error_type };
        self.0.get_or_init(Counted::default).calls.get_or_create(&call).observe(took.as_secs_f64());
    }

    pub(super) fn encode(&self, text: &mut String) -> fmt::Result {
        self.0.get().map_or(Ok(()), |counted| encode_registry(text, &counted.registry))
    }
}
