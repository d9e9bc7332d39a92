//! `[traces]`: where spans go, and how many of them.
//!
//! Must never take the table in silence where the broker was built without traces.

use super::{
    addresses::address,
    reader::{Found, Reader},
    values::TracesConfig,
    vault_table::ca_file,
};

/// Whether this broker can send traces at all.
const BUILT_IN: bool = cfg!(feature = "traces");

/// Of the calls whose callers don't say: one in a hundred shows what is slow, and costs next to nothing.
const SAMPLE_RATIO: f64 = 0.01;

/// Reads the table; none where it is at fault.
pub(super) fn read(mut table: Reader<'_, '_>) -> Option<TracesConfig> {
    if !BUILT_IN {
        table.fault(
            table.at(),
            "endpoint",
            "can't be used by this broker, which was built without traces: build it with --features traces",
        );
    }
    if !table.has("endpoint") {
        table.fault(
            table.at(),
            "endpoint",
            "is missing: give the collector's OTLP address, such as \"http://otel-collector:4317\"",
        );
    }
    let endpoint = table.string("endpoint").and_then(|Found { value, at }| {
        // A collector beside the broker often speaks plaintext, and spans hold no secret.
        let endpoint = address(&value, true).map_err(|why| table.fault(at, "endpoint", why)).ok()?;
        Some(Found { value: endpoint, at })
    });
    let names_ca = table.has("ca_file");
    let ca = table.string("ca_file").and_then(|path| ca_file(&table, path));
    let sample_ratio = table.fraction("sample_ratio", SAMPLE_RATIO);
    if let Some(Found { value, at }) = &endpoint {
        match (value.as_str().starts_with("https://"), names_ca) {
            (true, false) => {
                table.fault(*at, "endpoint", "is https:// without a ca_file: name the CA of the collector's certificate")
            }
            (false, true) => table.fault(*at, "endpoint", "is http:// beside a ca_file: write https://, or remove ca_file"),
            (true, true) | (false, false) => {}
        }
    }
    table.finish();
    Some(TracesConfig { endpoint: endpoint?.value, ca_file: ca, sample_ratio })
}
