//! Turn files into valid types; report the faults with file and line.
//!
//! Must never read the environment, let a faulty value become the default, or ignore a key it doesn't know. What it returns
//! has been checked whole, and nobody has to parse any of it again; what it reports holds no secret.

use std::path::Path;

mod addresses;
mod asked;
mod audit_table;
mod auth_table;
mod callers_overlap;
mod client_ca;
mod conflicts;
mod credentials;
mod described;
mod faults;
mod file_set;
mod files;
mod findings;
mod fingerprint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod glob_walk;
mod grpc_tls;
mod in_force;
mod key_names;
mod last_good;
mod limits;
mod main_file;
mod operator_table;
mod partial_writes;
mod patterns;
mod permissions;
mod reader;
mod schema;
mod service_accounts_table;
mod shared_table;
mod source;
#[cfg(test)]
mod tests;
mod traces_table;
mod values;
mod vault_table;
mod versions;
mod wrong_types;

pub(crate) use self::source::read as read_file;
pub use self::{
    faults::{Fault, Faults},
    file_set::Fingerprints,
    files::Files,
    in_force::in_force,
    schema::{SchemaOf, schema},
    values::{
        AdminConfig, AuditConfig, AuthConfig, CallerConfig, Config, GrpcConfig, Hits, Issuer, Kept, KeySource, Loaded, LogConfig,
        LogFormat, Merchants, OperatorConfig, Reloaded, Renewal, SealingKey, ServiceAccountsConfig, SharedConfig, SharedServer,
        TlsConfig, TracesConfig, UserConfig, VaultConfig,
    },
};
pub use crate::outbound::{Authorities, Target};

/// Reads the main file at `path` and every file it names.
///
/// # Errors
/// Every fault at once, by file and line; but where the syntax or a TOML type is wrong, those faults alone.
pub fn load(path: &Path) -> Result<Loaded, Faults> {
    Files::open(path).map(|(_, loaded)| loaded)
}
