//! From a configuration to what is in force: made as one value, at the start and with each reload; and what of it takes a restart.
//!
//! Must never put a half in force: what can't be made leaves everything as it was. Must never choose a value of its own: defaults
//! are `config`'s.

use std::{mem, sync::Arc};

use tokio::runtime::Handle;
use tracing::{info, warn};

use super::BuildError;
use crate::{
    authn::{Authenticator, service_accounts::ServiceAccounts},
    broker::Broker,
    clock::Clock,
    config::Config,
    live::{CallerLimits, Configuration, Live, Serving, Settings},
    net::tls::ServerTls,
    policy::{Policy, Trials},
    telemetry::{
        audit::{Audit, Reconfigured},
        log::Level,
    },
    tier::Tier,
    timestamp,
    users::holds::Rules,
    vault::{HttpVault, SignIn},
};

/// What a configuration was made from that the next may share: an equal part of it is kept, with whatever it has learnt.
pub(super) struct Former<'a> {
    config: &'a Config,
    serving: &'a Serving,
}

/// Everything that a configuration says of calls, connections and sign-ins; takes the users out. What of it makes requests makes them on
/// `runtime`.
pub(super) fn make(
    config: &mut Config,
    former: Option<&Former<'_>>,
    sign_in: Arc<dyn SignIn>,
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Configuration, BuildError> {
    let authenticator = authenticator(config, former, clock, runtime);
    let serving = serving(config, former, authenticator)?;
    let users = mem::take(&mut config.users);
    let vault = &config.vault;
    let settings = Settings {
        upstream: Arc::from(vault.base_url.as_str()),
        sign_in,
        timeout: vault.timeout,
        rules: Rules { min_sign_in_interval: vault.min_sign_in_interval, refusal_hold: vault.refusal_hold },
        renewal: vault.renewal,
        sign_out: vault.sign_out,
        max_concurrent_sign_ins: vault.max_concurrent_sign_ins,
        idle_after: vault.idle_after,
        caller_limits: CallerLimits {
            sign_ins_per_minute: vault.caller_sign_ins_per_minute,
            forced_sign_ins_per_minute: vault.caller_forced_sign_ins_per_minute,
        },
    };
    Ok(Configuration { users, policy: Policy::of(config), settings, serving })
}

fn serving(config: &Config, former: Option<&Former<'_>>, authenticator: Authenticator) -> Result<Serving, BuildError> {
    let grpc = &config.grpc;
    let tls = match &grpc.tls {
        None => None,
        Some(tls) => {
            let same = former.filter(|former| former.config.grpc.tls.as_ref().is_some_and(|former| former.is(tls)));
            let kept = same.and_then(|former| former.serving.tls.clone());
            Some(kept.map_or_else(|| ServerTls::new(tls).map(Arc::new), Ok)?)
        }
    };
    Ok(Serving {
        authenticator,
        call_timeout: grpc.call_timeout,
        label_callers: config.admin.as_ref().is_some_and(|admin| admin.label_callers),
        rpc_metrics: config.admin.as_ref().is_some_and(|admin| admin.rpc_metrics),
        lame_duck: grpc.lame_duck,
        drain: grpc.drain,
        max_connection_age: grpc.max_connection_age,
        tls,
        callers: config.callers.len(),
        certificates: certificates(config),
    })
}

/// The former has keys, and remembers tokens and reviews, so it is kept while it is configured the same; of one that is configured otherwise
/// nothing counts any more.
fn authenticator(config: &Config, former: Option<&Former<'_>>, clock: &Arc<dyn Clock>, runtime: &Handle) -> Authenticator {
    let configured = &config.auth.service_accounts;
    let same = former.filter(|former| former.config.auth.service_accounts == *configured);
    let service_accounts = match (configured, same) {
        (None, _) => None,
        (Some(_), Some(former)) => former.serving.authenticator.service_accounts.clone(),
        (Some(accounts), None) => Some(Arc::new(ServiceAccounts::new(accounts, Arc::clone(clock), runtime))),
    };
    Authenticator { required: config.asks(), service_accounts }
}

/// What certificates there are, and the first end of each kind.
fn certificates(config: &Config) -> Vec<(&'static str, std::time::SystemTime)> {
    let tls = config.grpc.tls.as_ref();
    let ends = [
        ("server", tls.map(|tls| tls.not_after)),
        ("client_ca", tls.and_then(|tls| tls.client_ca_not_after)),
        ("vault_ca", config.vault.ca_file.as_ref().and_then(|file| file.not_after)),
        ("shared_ca", config.shared.as_ref().and_then(|shared| shared.server.ca_file.as_ref()?.not_after)),
    ];
    ends.into_iter().filter_map(|(name, end)| Some((name, end?))).collect()
}

/// Puts configurations in force while the process runs.
#[derive(Debug)]
pub(super) struct Reconfigure {
    pub(super) broker: Arc<Broker>,
    pub(super) live: Live,
    pub(super) clock: Arc<dyn Clock>,
    /// Where requests are made: reloads run on a thread of their own.
    pub(super) runtime: Handle,
    pub(super) tier: Tier,
    pub(super) level: Option<Level>,
    pub(super) audit: Audit,
    /// What is in force as far as a reload reaches, without the users, whose passwords have their own place.
    pub(super) current: Config,
    /// What the process began with: what only a start takes over is in force as it is here.
    pub(super) started: Config,
}

impl Reconfigure {
    /// Puts another configuration in force.
    ///
    /// # Errors
    /// Why it can't be; then everything is as it was.
    pub(super) fn apply(&mut self, mut next: Config) -> Result<(), String> {
        self.opens_nothing(&next)?;
        let total = next.users.len();
        let snapshot = self.live.load_full();
        let former = Former { config: &self.current, serving: &snapshot.serving };
        let sign_in = HttpVault::new(&next.vault, Arc::clone(&self.clock)).map_err(|fault| fault.to_string())?;
        let configuration =
            make(&mut next, Some(&former), Arc::new(sign_in), &self.clock, &self.runtime).map_err(|fault| fault.to_string())?;
        self.say_what_takes_a_restart(&next);
        let counts = self.broker.reconfigure(configuration);
        if let Some(shared) = &next.shared {
            self.tier.reconfigure(shared);
        }
        if let Some(level) = &self.level {
            level.set(next.log.level);
        }
        self.tell_of_tls(snapshot.serving.tls.as_ref(), &next);
        info!(
            users = total,
            added = counts.added,
            changed = counts.changed,
            removed = counts.removed,
            callers = next.callers.len(),
            "the configuration is in force"
        );
        let (added, changed, removed) = (counts.added, counts.changed, counts.removed);
        let (callers, Trials { all: on_trial, entries: callers_on_trial }) =
            (next.callers.len(), self.live.load().policy.trials());
        let configured = Reconfigured { users: total, added, changed, removed, callers, on_trial, callers_on_trial };
        self.audit.configuration(self.clock.now().wall, configured);
        self.current = next;
        Ok(())
    }

    fn tell_of_tls(&self, former: Option<&Arc<ServerTls>>, next: &Config) {
        let now = self.live.load_full();
        if let (Some(former), Some(now), Some(tls)) = (former, &now.serving.tls, &next.grpc.tls)
            && !Arc::ptr_eq(former, now)
        {
            info!(not_after = timestamp::rfc3339(tls.not_after), "another certificate or client CA is in force");
            self.audit.certificate(self.clock.now().wall, timestamp::rfc3339(tls.not_after));
        }
    }

    /// What is in order for the next start need not be so here: the listener is where it was at this one's, and speaks TLS or not.
    fn opens_nothing(&self, next: &Config) -> Result<(), String> {
        if self.started.grpc.tls.is_some() != next.grpc.tls.is_some() {
            return Err("[grpc.tls] can't be set or removed while running: restart the broker".to_owned());
        }
        let loopback = self.started.grpc.listen.ip().to_canonical().is_loopback();
        if !loopback && !next.asks() && !next.auth.allow_unauthenticated {
            let listen = self.started.grpc.listen;
            return Err(format!(
                "the broker has listened on {listen} since its start, and callers would not be asked who they are any more: restart it"
            ));
        }
        if !loopback && self.started.grpc.tls.is_none() && !next.auth.enforce {
            let listen = self.started.grpc.listen;
            return Err(format!(
                "the broker has listened on {listen} in plaintext since its start, and a policy on trial (auth.enforce = false) would let in \
                 whoever connects there: restart it"
            ));
        }
        Ok(())
    }

    fn say_what_takes_a_restart(&self, next: &Config) {
        let (now, then) = (&self.started, next);
        let admin = |config: &Config| config.admin.as_ref().map(|admin| admin.listen);
        let names = |config: &Config| config.shared.as_ref().map(|shared| shared.name_key.clone());
        for (key, differs) in [
            ("shared", now.shared.is_some() != then.shared.is_some()),
            ("shared.name_key_file", names(now) != names(then)),
            ("state_directory", now.state_directory != then.state_directory),
            ("grpc.listen", now.grpc.listen != then.grpc.listen),
            ("grpc.health_listen", now.grpc.health_listen != then.grpc.health_listen),
            ("admin.listen", admin(now) != admin(then)),
            ("operator", now.operator != then.operator),
            ("audit.file", now.audit.file != then.audit.file),
            ("audit.hits", now.audit.hits != then.audit.hits),
            ("traces", now.traces != then.traces),
            ("log.format", now.log.format != then.log.format),
        ] {
            if differs {
                warn!(key, "this key takes effect with the next start");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
        path::Path,
    };

    use super::*;
    use crate::{clock::SystemClock, config};

    fn load(directory: &Path, accounts: &str, rest: &str) -> Config {
        let path = directory.join("main.toml");
        let vault = "[vault]\nbase_url = 'https://vault.example.org'\n";
        let user = "[[users]]\nmerchant_id = 'm'\nnumber = '+447871239999'\npassword = 'a'\n";
        let caller = "[[callers]]\nid = 'system:serviceaccount:a:b'\nmerchants = ['m']\n";
        let text = format!("{vault}{user}{caller}{rest}[auth.service_accounts]\njwks_file = 'jwks'\n{accounts}");
        fs::write(&path, text).expect("is written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("is ours");
        config::load(&path).expect("is good").config
    }

    #[tokio::test]
    async fn what_is_known_of_tokens_is_kept_only_while_it_is_configured_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let accounts = "issuer = 'https://a'\n";
        let config = load(directory.path(), accounts, "");
        let authenticator =
            |config: &Config, former: Option<&Former<'_>>| super::authenticator(config, former, &clock, &Handle::current());
        let serving = Serving { authenticator: authenticator(&config, None), ..Serving::default() };
        let before = serving.authenticator.service_accounts.clone().expect("is configured");
        let former = Former { config: &config, serving: &serving };
        for (accounts, rest, kept) in [
            (accounts, "", true),
            (accounts, "[log]\nlevel = 'debug'\n", true),
            ("issuer = ['https://a', 'https://b']\n", "", false),
            ("issuer = 'https://b'\n", "", false),
            ("issuer = 'https://a'\naudience = 'b'\n", "", false),
            ("issuer = 'https://a'\ntoken_review = true\n", "", false),
        ] {
            let next = load(directory.path(), accounts, rest);
            let now = authenticator(&next, Some(&former)).service_accounts.expect("is configured");
            assert_eq!(Arc::ptr_eq(&now, &before), kept, "{accounts}{rest}");
        }
    }
}
