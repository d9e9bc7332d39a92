//! What each key is for, in a line: for the schema, and for whoever prints what is in force.
//!
//! Must never call a key fit to be shown whose value others should not see; one that is not in this list is not shown at all.

/// What of a key's value others may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// All of it.
    Plain,
    /// All of it, and it is a path, or several, relative to the file.
    Path,
    /// Numbers, as the log shows them.
    Masked,
    /// A URL but for who is named before the host.
    WithoutUser,
    /// Nothing.
    Never,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Described {
    /// With its tables' names.
    pub(super) path: &'static str,
    pub(super) shown: Shown,
    /// Whether its table can't be without it.
    pub(super) required: bool,
    /// In a line.
    pub(super) what: &'static str,
}

/// Stands for every key of a table whose keys are free.
pub(super) const ANY: &str = "*";

/// The description of a key.
pub(super) fn of(path: &str) -> Option<&'static Described> {
    KEYS.iter().find(|described| described.path == path)
}

const fn plain(path: &'static str, what: &'static str) -> Described {
    Described { path, shown: Shown::Plain, required: false, what }
}

const fn file(path: &'static str, what: &'static str) -> Described {
    Described { path, shown: Shown::Path, required: false, what }
}

const fn hidden(path: &'static str, what: &'static str) -> Described {
    Described { path, shown: Shown::Never, required: false, what }
}

impl Described {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn shown(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }
}

/// All of them, in the order of the documentation. docs/configuration.md says more of each.
pub(super) const KEYS: &[Described] = &[
    file("credentials_files", "Patterns of files with more [[users]], which hold nothing else."),
    file("state_directory", "A directory of this broker's own, in which holds outlive a restart."),
    plain("grpc", "The port that callers use."),
    plain("grpc.listen", "IP address and port; beyond loopback only with authentication, or spelled out."),
    plain("grpc.health_listen", "Where health alone is answered, in plaintext, for probes."),
    plain("grpc.lame_duck", "After SIGTERM, so long not ready and still answering."),
    plain("grpc.drain", "After that, so long for calls in flight."),
    plain("grpc.call_timeout", "The deadline of calls that bring none."),
    plain("grpc.max_connection_age", "After this, give or take a tenth, a connection is told to go."),
    plain("grpc.tls", "TLS towards callers: 1.3 and 1.2."),
    file("grpc.tls.certificate_file", "PEM: the broker's certificate, then those that lead to its CA.").required(),
    file("grpc.tls.key_file", "PEM: the certificate's key.").required(),
    file("grpc.tls.client_ca_file", "PEM: the CAs of callers' certificates, your own."),
    plain("admin", "The operator's port: /livez, /readyz, /metrics, /status. Without this table there is none."),
    plain("admin.listen", "IP address and port."),
    plain("admin.label_callers", "Whether metrics count calls by caller too, up to 256 of them."),
    plain(
        "admin.rpc_metrics",
        "Whether metrics have calls by OpenTelemetry's conventions too: rpc_server_call_duration_seconds.",
    ),
    plain("log", "The log, on standard output."),
    plain("log.format", "For machines, or for people."),
    plain("log.level", "The least important level that is written."),
    plain("audit", "The audit trail."),
    file("audit.file", "Lines are added to this file, readable by its owner alone; otherwise: standard output."),
    plain(
        "audit.hits",
        "Whether calls that are answered from the cache at once are told in a line each, or summed by the minute.",
    ),
    plain("traces", "Spans over OTLP; needs a broker that was built with them."),
    plain("traces.endpoint", "The collector's OTLP address, over gRPC; https:// with a ca_file.").required(),
    file("traces.ca_file", "PEM: the CAs of the collector's certificate."),
    plain("traces.sample_ratio", "Of the calls whose callers don't say whether they are sampled, the part that is."),
    plain("vault", "Where and how to sign in.").required(),
    plain("vault.base_url", "The vault's address, to which /oauth/token is added; http:// on loopback only.")
        .required()
        .shown(Shown::WithoutUser),
    file("vault.ca_file", "PEM: the only CAs to trust, instead of the public ones that are compiled in."),
    plain("vault.headers", "Headers to add to each sign-in; none that the sign-in sets itself."),
    hidden("vault.headers.*", "A header's value: visible ASCII."),
    plain("vault.timeout", "How long one sign-in may take, connecting included."),
    plain("vault.max_concurrent_sign_ins", "How many sign-ins may be under way at once; renewals take half of them at most."),
    plain("vault.min_sign_in_interval", "The floor between two sign-ins of one user; 0s: none, for tests."),
    plain("vault.refusal_hold", "How long a refused user is left alone."),
    plain("vault.renewal", "Before a token ends, or only then, where a new token revokes the old."),
    plain("vault.sign_out", "Whether a token is ended at the vault whose user is removed, or that an operator drops."),
    plain("vault.assumed_lifetime", "The lifetime of a token that doesn't say how long it lives."),
    plain("vault.idle_after", "A user whom nobody asked for so long is not renewed ahead."),
    plain("vault.caller_sign_ins_per_minute", "How many sign-ins the calls of one caller may begin in a minute."),
    plain("vault.caller_forced_sign_ins_per_minute", "Of those, how many for users who have a good token."),
    plain("auth", "Who may call."),
    plain("auth.allow_unauthenticated", "Whether whoever reaches grpc.listen gets every user's token."),
    plain(
        "auth.enforce",
        "Whether the policy refuses anybody; false: it is on trial, and who would be refused is let in and counted.",
    ),
    plain("auth.service_accounts", "Callers that show a Kubernetes service account's token."),
    plain("auth.service_accounts.issuer", "The cluster's issuer, or a list of up to 8, for a migration.").required(),
    plain("auth.service_accounts.audience", "What tokens must be for; not the API server's own audience."),
    plain(
        "auth.service_accounts.jwks_url",
        "Where the keys are published: one URL for all issuers, or a list with one for each.",
    )
    .shown(Shown::WithoutUser),
    file("auth.service_accounts.jwks_file", "Instead of jwks_url, files with the keys."),
    plain(
        "auth.service_accounts.token_review",
        "Whether the API server is asked too, so that a deleted pod loses access within 20 s.",
    ),
    plain("auth.service_accounts.token_review_url", "Where it is asked.").shown(Shown::WithoutUser),
    file("auth.service_accounts.ca_file", "PEM: the API server's CA; by default the one that Kubernetes mounts, if it is there."),
    file("auth.service_accounts.token_file", "The broker's own token for the API server, read anew for each request."),
    plain("callers", "Who may ask for whom; needed with authentication."),
    plain("callers.id", "A SPIFFE id, system:serviceaccount:NAMESPACE:NAME, or a DNS name; `*` is one whole segment.").required(),
    plain("callers.merchants", "The merchants whose users it may ask for; [\"*\"] is all, an empty list none.").required(),
    plain("callers.numbers", "Only these numbers of the merchants' users.").shown(Shown::Masked),
    plain("callers.trial", "Whether this entry is on trial: whom it means is let in for every user, and counted."),
    plain("operator", "Acts on single users, over a Unix socket."),
    file("operator.socket", "The socket, in a directory of the broker's own.").required(),
    plain("operator.uids", "Users of the system whose acts are taken besides those of the broker's own."),
    plain("shared", "The server that replicas share tokens through. Without this table each is by itself."),
    plain("shared.url", "Redis 7 or Valkey: rediss://USER@HOST:PORT/DATABASE; redis:// on loopback only.")
        .required()
        .shown(Shown::WithoutUser),
    file("shared.password_file", "The password of that user, or of the server's default one."),
    file("shared.ca_file", "PEM: the only CAs to trust, instead of the public ones that are compiled in."),
    file("shared.name_key_file", "32 random bytes in base64, the same for all replicas and for good.").required(),
    plain("shared.keys", "Up to 8 keys: the first seals, all open.").required(),
    plain("shared.keys.id", "Its number, never one that was used before.").required(),
    file("shared.keys.file", "32 random bytes in base64.").required(),
    plain("users", "Users of the vault, each (merchant_id, number) once in all files."),
    hidden("users.merchant_id", "The user's merchant.").required(),
    hidden("users.number", "The user's phone number, in E.164.").required(),
    hidden("users.password", "The user's password: 1 byte to 4 KiB on one line, sent as it is."),
    hidden("users.password_file", "Instead of password, the file that holds it; one line break at its end is not part of it."),
    hidden("users.attempt", "Raised to have a held user tried again."),
];
