//! The running configuration: what of a reload takes effect at once, and what takes a restart.
//!
//! Must never apply a half: what can't be built leaves everything as it was.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    BuildError,
    settings::{asked, configuration, labels_callers},
};
use crate::{
    admin::overview::InForce,
    authn::{Asked, Identity},
    broker::Broker,
    clock::{self, Clock},
    config::{self, Config},
    net::tls,
    rpc::{deadline::CallTimeout, guard::Watch},
    telemetry::{audit, log::Level},
    vault::HttpVault,
};

/// A connection's age differs from the configured one by this part at most, so that those which came together go one by one.
const AGE_JITTER: f64 = 0.1;

/// How the process ends, and each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) lame_duck: Duration,
    pub(super) drain: Duration,
    max_connection_age: Duration,
}

impl From<&config::GrpcConfig> for Times {
    fn from(grpc: &config::GrpcConfig) -> Self {
        Self { lame_duck: grpc.lame_duck, drain: grpc.drain, max_connection_age: grpc.max_connection_age }
    }
}

impl Times {
    /// How long a connection that opens now may last. `jitter`: 0 to 1, anew for each.
    pub(super) fn connection_age(&self, jitter: f64) -> Duration {
        self.max_connection_age.mul_f64(1.0 + AGE_JITTER * (2.0 * jitter - 1.0))
    }
}

/// Everything that a reload reaches.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) broker: Arc<Broker>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) identity: Identity,
    pub(super) watch: Arc<Watch>,
    /// Told of what the operator is shown.
    pub(super) in_force: watch::Sender<InForce>,
    pub(super) call_timeout: CallTimeout,
    pub(super) times: watch::Sender<Times>,
    /// None where the process began without TLS.
    pub(super) tls: Option<watch::Sender<Arc<tls::Current>>>,
    pub(super) level: Option<Level>,
    /// What is in force as far as a reload reaches, without the users, whose passwords have their own place.
    pub(super) current: Config,
    /// What the process began with: what only a start takes over is in force as it is here.
    pub(super) started: Config,
}

/// What has to be made before anything is put in force.
struct Made {
    sign_in: Arc<HttpVault>,
    asked: Asked,
    tls: Option<Arc<tls::Current>>,
}

impl Live {
    /// Puts another configuration in force.
    ///
    /// # Errors
    /// Why it can't be; then everything is as it was.
    pub(super) fn apply(&mut self, mut next: Config) -> Result<(), String> {
        self.opens_nothing(&next)?;
        let Made { sign_in, asked, tls } = self.make(&next).map_err(|fault| fault.to_string())?;
        self.say_what_takes_a_restart(&next);
        let total = next.users.len();
        // First, so that no call meets the new policy with an identity that only the former rules took.
        self.identity.ask(asked);
        let counts = self.broker.reconfigure(configuration(&mut next, sign_in));
        self.call_timeout.set(next.grpc.call_timeout);
        self.watch.label_callers(labels_callers(&next));
        self.in_force.send_replace(InForce::of(&next));
        self.times.send_replace(Times::from(&next.grpc));
        if let Some(level) = &self.level {
            level.set(next.log.level);
        }
        if let (Some(showing), Some(current), Some(tls)) = (&self.tls, tls, &next.grpc.tls) {
            showing.send_replace(current);
            info!(not_after = clock::rfc3339(tls.not_after), "another certificate or client CA is in force");
            audit::certificate(clock::rfc3339(tls.not_after));
        }
        info!(
            users = total,
            added = counts.added,
            changed = counts.changed,
            removed = counts.removed,
            callers = next.callers.len(),
            "the configuration is in force"
        );
        audit::configuration(total, counts.added, counts.changed, counts.removed, next.callers.len());
        self.current = next;
        Ok(())
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
        Ok(())
    }

    fn make(&self, next: &Config) -> Result<Made, BuildError> {
        let former = self.current.grpc.tls.as_ref();
        let tls = match &next.grpc.tls {
            Some(tls) if former.is_none_or(|former| !former.is(tls)) => Some(Arc::new(tls::Current::new(tls)?)),
            Some(_) | None => None,
        };
        let sign_in = Arc::new(HttpVault::new(&next.vault, Arc::clone(&self.clock))?);
        let same = next.auth.service_accounts == self.current.auth.service_accounts;
        let former = same.then(|| self.identity.asked());
        Ok(Made { sign_in, asked: asked(next, former.as_deref(), &self.clock), tls })
    }

    fn say_what_takes_a_restart(&self, next: &Config) {
        let (now, then) = (&self.started, next);
        let admin = |config: &Config| config.admin.as_ref().map(|admin| admin.listen);
        for (key, differs) in [
            ("grpc.listen", now.grpc.listen != then.grpc.listen),
            ("grpc.health_listen", now.grpc.health_listen != then.grpc.health_listen),
            ("admin.listen", admin(now) != admin(then)),
            ("audit.file", now.audit.file != then.audit.file),
            ("traces", now.traces != then.traces),
            ("log.format", now.log.format != then.log.format),
        ] {
            if differs {
                warn!(key, "this key takes effect with the next start");
            }
        }
    }
}
