//! The main file's tables but for `[vault]`, and what they must agree on.
//!
//! Must never let the broker listen where strangers reach it unless the operator has spelled that out.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use toml::de::DeTable;
use tracing::Level;

use super::{
    audit_table::{self, TrailFile},
    auth_table::{self, Access},
    callers_overlap::{self, Proofs},
    credentials::CredentialsFile,
    findings::{At, Findings},
    grpc_tls, limits, operator_table,
    patterns::Pattern,
    reader::{Found, Reader},
    shared_table, traces_table,
    values::{AdminConfig, Config, GrpcConfig, LogConfig, LogFormat},
    vault_table,
};

/// Loopback: without TLS nobody else may connect.
const GRPC_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
/// Loopback: `/status` is for the operator.
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// What the main file holds.
#[derive(Debug)]
pub(super) struct Main {
    /// All but the users. None where the vault's base URL is missing or faulty, which is reported.
    pub(super) config: Option<Config>,
    pub(super) users: CredentialsFile,
    pub(super) patterns: Vec<Pattern>,
    /// Where the audit trail goes, if into a file.
    pub(super) trail: Option<TrailFile>,
}

/// The addresses to listen on, and what bears on where they may be.
struct Listening<'a> {
    grpc: Found<SocketAddr>,
    health: Option<Found<SocketAddr>>,
    admin: Option<Found<SocketAddr>>,
    tls: TlsTable,
    access: &'a Access,
    callers: bool,
}

/// `[grpc.tls]`, as far as others depend on it; a table at fault is there all the same.
#[derive(Clone, Copy)]
struct TlsTable {
    at: Option<At>,
    asks_for_certificates: bool,
}

/// Reads the main file's tables.
pub(super) fn read(findings: &Findings<'_>, table: DeTable<'_>) -> Main {
    let mut root = Reader::root(findings, table);
    let patterns = root.strings("credentials_files");
    let state_directory = read_state_directory(&mut root);
    let (grpc, tls, places) = read_grpc(root.table_or_empty("grpc", "grpc"));
    let admin = root.table("admin", "admin").map(read_admin);
    let log = read_log(root.table_or_empty("log", "log"));
    let (audit, trail) = audit_table::read(root.table_or_empty("audit", "audit"));
    let traces = root.table("traces", "traces").and_then(traces_table::read);
    let vault = vault_table::read(root.table("vault", "vault"), findings);
    let access = auth_table::read_auth(Some(root.table_or_empty("auth", "auth")));
    let has_callers = root.has("callers");
    let callers = auth_table::read_callers(&mut root);
    let operator = root.table("operator", "operator").and_then(operator_table::read);
    let shared = root.table("shared", "shared").and_then(shared_table::read);
    let users = CredentialsFile::collect(&mut root);
    root.finish();
    findings.own_writers();
    let proofs = Proofs { certificates: tls.asks_for_certificates, accounts: access.accounts_at != At::NOWHERE };
    callers_overlap::check(findings, &callers, proofs);

    let (grpc_at, health_at) = places;
    check(
        findings,
        &Listening {
            grpc: Found { value: grpc.listen, at: grpc_at },
            health: grpc.health_listen.map(|value| Found { value, at: health_at }),
            admin: admin.as_ref().map(|(listen, _)| *listen),
            tls,
            access: &access,
            callers: has_callers,
        },
    );
    let admin = admin.map(|(_, admin)| admin);
    let auth = access.auth;
    let config = vault.map(|vault| Config {
        state_directory,
        grpc,
        admin,
        log,
        audit,
        traces,
        vault,
        operator,
        shared,
        auth,
        callers,
        users: Vec::new(),
    });
    let pattern = |Found { value, at }: Found<Cow<'_, str>>| Pattern { text: value.into_owned(), line: findings.line(at) };
    Main { config, users, trail, patterns: patterns.into_iter().map(pattern).collect() }
}

/// Whether it can be written to is seen when it is: this may be looked at elsewhere than where the broker runs.
fn read_state_directory(root: &mut Reader<'_, '_>) -> Option<PathBuf> {
    const KEY: &str = "state_directory";
    let Found { value, at } = root.string(KEY)?;
    let path = root.findings().source().beside(&value);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if value.is_empty() {
        root.fault(at, KEY, "is empty: name a directory that is the broker's own, or remove the key");
    } else if path.exists() && !path.is_dir() {
        root.fault(at, KEY, "names something that is no directory: name one that is the broker's own");
    } else if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        root.fault(at, KEY, format!("is to be in {}, which is no directory: make it, or mend the path", parent.display()));
    }
    Some(path)
}

fn read_grpc(mut table: Reader<'_, '_>) -> (GrpcConfig, TlsTable, (At, At)) {
    let listen = table.address_or("listen", GRPC_LISTEN, At::NOWHERE);
    let health = table.address("health_listen");
    let mut grpc = GrpcConfig {
        listen: listen.value,
        health_listen: health.map(|found| found.value),
        lame_duck: table.duration("lame_duck", &limits::LAME_DUCK),
        drain: table.duration("drain", &limits::DRAIN),
        call_timeout: table.duration("call_timeout", &limits::CALL_TIMEOUT),
        max_connection_age: table.duration("max_connection_age", &limits::MAX_CONNECTION_AGE),
        tls: None,
    };
    let mut tls = TlsTable { at: None, asks_for_certificates: false };
    if let Some(inner) = table.table("tls", "grpc.tls") {
        tls = TlsTable { at: Some(inner.at()), asks_for_certificates: inner.has("client_ca_file") };
        grpc.tls = grpc_tls::read(inner);
    }
    table.finish();
    (grpc, tls, (listen.at, health.map_or(At::NOWHERE, |found| found.at)))
}

fn read_admin(mut table: Reader<'_, '_>) -> (Found<SocketAddr>, AdminConfig) {
    let at = table.at();
    let listen = table.address_or("listen", ADMIN_LISTEN, at);
    let label_callers = table.boolean("label_callers", false).value;
    let rpc_metrics = table.boolean("rpc_metrics", false).value;
    table.finish();
    (listen, AdminConfig { listen: listen.value, label_callers, rpc_metrics })
}

fn read_log(mut table: Reader<'_, '_>) -> LogConfig {
    let levels =
        [("error", Level::ERROR), ("warn", Level::WARN), ("info", Level::INFO), ("debug", Level::DEBUG), ("trace", Level::TRACE)];
    let log = LogConfig {
        format: table.choice("format", LogFormat::Json, &[("json", LogFormat::Json), ("text", LogFormat::Text)]),
        level: table.choice("level", Level::INFO, &levels),
    };
    table.finish();
    log
}

/// What the tables must agree on.
fn check(findings: &Findings<'_>, listening: &Listening<'_>) {
    check_access(findings, listening);
    let Listening { grpc, health, admin, .. } = listening;
    let named = [("grpc.listen", Some(grpc)), ("grpc.health_listen", health.as_ref()), ("admin.listen", admin.as_ref())];
    for (index, (key, place)) in named.iter().enumerate() {
        let Some(place) = place else { continue };
        let taken = named.iter().take(index).find(|(_, other)| other.is_some_and(|other| collide(other.value, place.value)));
        if let Some((other, _)) = taken {
            findings.fault(place.at, *key, format!("is the same address as {other}: choose another port"));
        }
    }
}

/// Nobody is let in by accident.
fn check_access(findings: &Findings<'_>, Listening { grpc, tls, access, callers, .. }: &Listening<'_>) {
    let loopback = grpc.value.ip().to_canonical().is_loopback();
    let (open, accounts) = (access.auth.allow_unauthenticated, access.accounts_at != At::NOWHERE);
    let asks = tls.asks_for_certificates || accounts;
    let on_trial = !access.auth.enforce;
    if on_trial {
        check_trial(findings, access, *callers, asks);
    }
    if open {
        let contradiction = match (callers, tls.asks_for_certificates, accounts) {
            (true, ..) => Some("[[callers]]"),
            (_, true, _) => Some("grpc.tls.client_ca_file"),
            (.., true) => Some("[auth.service_accounts]"),
            (false, false, false) => None,
        };
        if let Some(other) = contradiction {
            let why = "without authentication every caller may ask for every user: remove one of the two";
            findings.fault(access.allow_at, "auth.allow_unauthenticated", format!("contradicts {other}: {why}"));
        }
        if !loopback {
            let plaintext = if tls.at.is_some() { "" } else { ", in plaintext" };
            findings.warn(
                access.allow_at,
                "auth.allow_unauthenticated",
                format!(
                    "lets everyone who reaches grpc.listen have every user's token{plaintext}: listen on a loopback address instead, or \
                     keep others off that network"
                ),
            );
        }
        return;
    }
    if asks && !callers && !on_trial {
        let at = if accounts { access.accounts_at } else { tls.at.unwrap_or(At::NOWHERE) };
        findings.fault(
            at,
            "callers",
            "are missing: with authentication nobody may ask for anybody but by [[callers]]: add one for each caller",
        );
    }
    if *callers && !asks && !on_trial {
        let why = "has no effect: callers aren't asked who they are, and nobody is let in: set grpc.tls.client_ca_file or \
                   [auth.service_accounts]";
        findings.warn(At::NOWHERE, "callers", why);
    }
    if loopback {
        return;
    }
    if tls.at.is_none() {
        let why = if accounts {
            "is not a loopback address, and without [grpc.tls] callers' service-account tokens would travel in plaintext: set \
             [grpc.tls], or listen on 127.0.0.1 or [::1]"
        } else {
            "is not a loopback address, and without [grpc.tls] nobody else may connect: listen on 127.0.0.1 or [::1], or set \
             auth.allow_unauthenticated = true to let everyone who reaches this address have every token"
        };
        findings.fault(grpc.at, "grpc.listen", why);
    } else if !asks {
        findings.fault(
            grpc.at,
            "grpc.listen",
            "is not a loopback address, and callers aren't asked who they are: set grpc.tls.client_ca_file or \
             [auth.service_accounts], or auth.allow_unauthenticated = true to let everyone who reaches this address have every token",
        );
    }
}

/// A policy on trial is one that could be enforced as it is; and it is said that it is not.
fn check_trial(findings: &Findings<'_>, access: &Access, callers: bool, asks: bool) {
    const KEY: &str = "auth.enforce";
    if access.auth.allow_unauthenticated {
        let why = "contradicts auth.allow_unauthenticated: where nobody is asked who they are there is no policy to try: remove one of \
                   the two";
        findings.fault(access.enforce_at, KEY, why);
        return;
    }
    if !callers {
        let why = "is false, and there are no [[callers]] to try: add one for each caller that is known, or remove this key";
        findings.fault(access.enforce_at, KEY, why);
    }
    if !asks {
        let why = "is false, and callers aren't asked who they are, so that every call would be let in as nobody's: set \
                   grpc.tls.client_ca_file or [auth.service_accounts], or remove this key";
        findings.fault(access.enforce_at, KEY, why);
    }
    if callers && asks {
        let why = "is false: the policy is on trial, and refuses nobody: whoever reaches grpc.listen gets every user's token, with a \
                   certificate or a token or without, and who would be refused is counted (token_broker_would_deny_total): once nobody \
                   is counted who should be let in, remove this key";
        findings.warn(access.enforce_at, KEY, why);
    }
}

/// Whether the second of two listeners would take the first one's connections, or fail to bind.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    // `[::]` takes IPv4 as well.
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (one == other || covers(one, other) || covers(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_collide_where_one_covers_the_other() {
        for (a, b, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
        ] {
            let (one, other) = (a.parse().expect("an address"), b.parse().expect("an address"));
            assert_eq!(collide(one, other), expected, "{a} {b}");
            assert_eq!(collide(other, one), expected, "{b} {a}");
        }
    }
}
