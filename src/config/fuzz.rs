//! Any file of the configuration.

use std::{path::Path, sync::Arc};

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::{
    Config, Fault,
    credentials::CredentialsFile,
    faults::Report,
    findings::Findings,
    main_file::{self, Main},
    permissions::Permissions,
    reader,
    source::{Contents, Source},
};

/// What stands for a secret; no word of ours, so where it is in a text of ours, that repeats a value.
const SECRET: &str = "kt7Zq0wR2x";
/// Beside it there is nothing.
const PATH: &str = "/nonexistent/config.toml";

/// The main file, by itself.
pub(crate) fn main(input: &[u8]) {
    let read = read(input, |findings, table| {
        let Main { config, .. } = main_file::read(findings, table);
        config
    });
    if let Some(config) = read {
        is_safe(&config);
    }
}

/// A file with users.
pub(crate) fn credentials(input: &[u8]) {
    let read = read(input, |findings, table| Some(CredentialsFile::read(findings, table)));
    for user in read.iter().flat_map(CredentialsFile::users) {
        let password = user.password.expose();
        assert!((1..=4_096).contains(&password.len()), "a password of {} bytes", password.len());
        assert!(user.attempt <= u32::MAX.into());
    }
}

/// What a file says, if nothing is wrong with it.
fn read<T>(input: &[u8], collect: impl FnOnce(&Findings<'_>, DeTable<'_>) -> Option<T>) -> Option<T> {
    let lines = 1 + input.iter().filter(|byte| **byte == b'\n').count();
    let contents = Contents { bytes: Zeroizing::new(input.to_vec()), permissions: Permissions::OWNER_ALONE };
    let source = match Source::of(Arc::from(Path::new(PATH)), contents) {
        Ok(source) => source,
        Err(report) => return judge(report, None, lines, true),
    };
    let table = match reader::parse(&source) {
        Ok(table) => table,
        Err(report) => return judge(report, None, lines, true),
    };
    // Where it is a part of a key, it may be shown.
    let in_values: usize = table.values().map(|value| secrets(value.get_ref())).sum();
    let is_hidden = source.text().matches(SECRET).count() == in_values;
    let findings = Findings::new(&source);
    let value = collect(&findings, table);
    judge(findings.into_report(), value, lines, is_hidden)
}

/// How often the secret stands in values.
fn secrets(value: &DeValue<'_>) -> usize {
    match value {
        DeValue::String(text) => text.matches(SECRET).count(),
        DeValue::Array(list) => list.iter().map(|value| secrets(value.get_ref())).sum(),
        DeValue::Table(table) => table.values().map(|value| secrets(value.get_ref())).sum(),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => 0,
    }
}

/// A value or faults, each with its line, none with a secret.
fn judge<T>(report: Report, value: Option<T>, lines: usize, is_hidden: bool) -> Option<T> {
    let is_good = |finding: &Fault| {
        let said = finding.to_string();
        assert!(finding.line.is_none_or(|line| (1..=lines).contains(&line)), "{said}");
        assert!(!finding.message.is_empty() && !said.contains("report that as its bug"), "{said}");
        assert!(!said.chars().any(char::is_control), "{said:?}");
        assert!(!is_hidden || !said.contains(SECRET), "{said}");
    };
    match report.verdict(Path::new(PATH), value) {
        Ok((value, warnings)) => {
            warnings.iter().for_each(is_good);
            Some(value)
        }
        Err(faults) => {
            assert!(faults.iter().next().is_some(), "neither a value nor a fault");
            faults.iter().for_each(is_good);
            None
        }
    }
}

/// No configuration opens more than it says.
fn is_safe(config: &Config) {
    let spelled_out = config.authenticates() || config.auth.allow_unauthenticated;
    assert!(config.grpc.listen.ip().is_loopback() || spelled_out, "strangers reach {}", config.grpc.listen);
    let url = config.vault.base_url.url();
    let here =
        matches!(url.host_str(), Some("localhost" | "[::1]")) || url.host_str().is_some_and(|host| host.starts_with("127."));
    assert!(url.scheme() == "https" || url.scheme() == "http" && here, "passwords in plaintext");
    assert!(url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none());
    assert!(config.vault.max_concurrent_sign_ins > 0 && !config.vault.timeout.is_zero());
    assert!((1..=7 * 86_400).contains(&config.vault.assumed_lifetime.as_secs()));
}
