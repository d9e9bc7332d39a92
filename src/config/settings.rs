//! The main file's tables but for `[vault]`, and what they must agree on.
//!
//! Must never let the broker listen where strangers reach it unless the operator has spelled that out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::de::DeTable;
use tracing::Level;

use super::{
    Admin, Auth, Grpc, Log, LogFormat, Vault,
    credentials::CredentialsFile,
    faults::{At, Findings},
    limits,
    patterns::Pattern,
    reader::{Found, Reader},
    vault,
};

/// Loopback: without TLS nobody else may connect.
const GRPC_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
/// Loopback: `/status` is for the operator.
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// What the main file holds.
#[derive(Debug)]
pub(super) struct Main {
    pub(super) grpc: Grpc,
    pub(super) admin: Option<Admin>,
    pub(super) log: Log,
    /// None where its base URL is missing or faulty, which is reported.
    pub(super) vault: Option<Vault>,
    pub(super) auth: Auth,
    pub(super) users: CredentialsFile,
    pub(super) patterns: Vec<Pattern>,
}

/// The addresses to listen on, and what bears on where they may be.
struct Listening {
    grpc: Found<SocketAddr>,
    health: Option<Found<SocketAddr>>,
    admin: Option<Found<SocketAddr>>,
    tls: bool,
    allow_unauthenticated: Found<bool>,
    callers: bool,
}

/// Reads the main file's tables.
pub(super) fn read(findings: &Findings<'_>, table: DeTable<'_>) -> Main {
    let mut root = Reader::root(findings, table);
    let patterns = root.strings("credentials_files");
    let (grpc, tls, places) = read_grpc(root.table("grpc", "grpc"));
    let admin = root.table("admin", "admin").map(read_admin);
    let log = read_log(root.table("log", "log"));
    let vault = vault::read(root.table("vault", "vault"), findings);
    let allow_unauthenticated = read_auth(root.table("auth", "auth"));
    let callers = root.not_built("callers");
    root.not_built("shared");
    let users = CredentialsFile::collect(&mut root);
    root.finish();

    let (grpc_at, health_at) = places;
    check(
        findings,
        &Listening {
            grpc: Found { value: grpc.listen, at: grpc_at },
            health: grpc.health_listen.map(|value| Found { value, at: health_at }),
            admin,
            tls,
            allow_unauthenticated,
            callers,
        },
    );
    Main {
        grpc,
        admin: admin.map(|listen| Admin { listen: listen.value }),
        log,
        vault,
        auth: Auth { allow_unauthenticated: allow_unauthenticated.value },
        users,
        patterns: patterns
            .into_iter()
            .map(|Found { value, at }| Pattern { text: value.into_owned(), line: findings.line(at) })
            .collect(),
    }
}

fn read_grpc(table: Option<Reader<'_, '_>>) -> (Grpc, bool, (At, At)) {
    let mut grpc = Grpc {
        listen: GRPC_LISTEN,
        health_listen: None,
        lame_duck: limits::LAME_DUCK.default,
        drain: limits::DRAIN.default,
        call_timeout: limits::CALL_TIMEOUT.default,
    };
    let Some(mut table) = table else { return (grpc, false, (At::NOWHERE, At::NOWHERE)) };
    let listen = table.address("listen").unwrap_or(Found { value: GRPC_LISTEN, at: At::NOWHERE });
    let health = table.address("health_listen");
    grpc.listen = listen.value;
    grpc.health_listen = health.map(|found| found.value);
    grpc.lame_duck = table.duration("lame_duck", &limits::LAME_DUCK);
    grpc.drain = table.duration("drain", &limits::DRAIN);
    grpc.call_timeout = table.duration("call_timeout", &limits::CALL_TIMEOUT);
    let tls = table.not_built("tls");
    table.finish();
    (grpc, tls, (listen.at, health.map_or(At::NOWHERE, |found| found.at)))
}

fn read_admin(mut table: Reader<'_, '_>) -> Found<SocketAddr> {
    let listen = table.address("listen").unwrap_or(Found { value: ADMIN_LISTEN, at: table.at() });
    table.finish();
    listen
}

fn read_log(table: Option<Reader<'_, '_>>) -> Log {
    let mut log = Log { format: LogFormat::Json, level: Level::INFO };
    if let Some(mut table) = table {
        log.format = table.choice("format", log.format, &[("json", LogFormat::Json), ("text", LogFormat::Text)]);
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        log.level = table.choice("level", log.level, &levels);
        table.finish();
    }
    log
}

fn read_auth(table: Option<Reader<'_, '_>>) -> Found<bool> {
    let Some(mut table) = table else { return Found { value: false, at: At::NOWHERE } };
    let allow_unauthenticated = table.boolean("allow_unauthenticated", false);
    table.not_built("service_accounts");
    table.finish();
    allow_unauthenticated
}

/// What the tables must agree on.
fn check(findings: &Findings<'_>, listening: &Listening) {
    let Listening { grpc, health, admin, tls, allow_unauthenticated, callers } = listening;
    let loopback = grpc.value.ip().to_canonical().is_loopback();
    if allow_unauthenticated.value && *callers {
        findings.fault(
            allow_unauthenticated.at,
            "auth.allow_unauthenticated",
            "contradicts [[callers]]: without authentication every caller may ask for every user: remove one of the two",
        );
    }
    if !loopback && allow_unauthenticated.value {
        findings.warn(
            allow_unauthenticated.at,
            "auth.allow_unauthenticated",
            "lets everyone who reaches grpc.listen have every user's token, in plaintext: listen on a loopback address instead, or \
             keep others off that network",
        );
    } else if !loopback && !tls {
        findings.fault(
            grpc.at,
            "grpc.listen",
            "is not a loopback address, and without [grpc.tls] nobody else may connect: listen on 127.0.0.1 or [::1], or set \
             auth.allow_unauthenticated = true to let everyone who reaches this address have every token",
        );
    }
    let named = [("grpc.listen", Some(grpc)), ("grpc.health_listen", health.as_ref()), ("admin.listen", admin.as_ref())];
    for (index, (key, place)) in named.iter().enumerate() {
        let Some(place) = place else { continue };
        let taken = named.iter().take(index).find(|(_, other)| other.is_some_and(|other| collide(other.value, place.value)));
        if let Some((other, _)) = taken {
            findings.fault(place.at, *key, format!("is the same address as {other}: choose another port"));
        }
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
