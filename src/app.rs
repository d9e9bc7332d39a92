//! The composition root: takes bound listeners, wires the parts, runs them, and drains.
//!
//! Must never hold a rule of its own, nor take longer than `lame_duck` + `drain` to end.

mod live;

use std::{io, mem, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};

use self::live::{EndTimes, Live};
use crate::{
    admin::{self, Phase},
    broker::Broker,
    cache::Cache,
    clock::{Clock, SystemClock},
    config::{self, Config, Fault, Files},
    flight::{self, Flights},
    grpc::{
        Api,
        deadline::CallTimeout,
        listener::{self, Ending},
        services::{ReflectionError, SERVICE, Services},
    },
    metrics::Metrics,
    pacing::Rules,
    reload::{self, Reload},
    renewal::Agenda,
    telemetry::Level,
    users::Users,
    vault::{self, SignIn, Vault},
};

/// Calls that still wait for the vault are answered this long before the drain ends, so that their answers can leave; of a drain
/// shorter than twice this, half.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Sockets that are bound already, so that a test can run the real thing on free ports.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For everything over gRPC.
    pub grpc: Vec<TcpListener>,
    /// For health over gRPC, in plaintext.
    pub health: Vec<TcpListener>,
    /// For the admin port.
    pub admin: Vec<TcpListener>,
}

impl Listeners {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// Names the key whose address can't be bound.
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        let mut listeners = Self::default();
        listeners.grpc.push(bind("grpc.listen", config.grpc.listen).await?);
        if let Some(address) = config.grpc.health_listen {
            listeners.health.push(bind("grpc.health_listen", address).await?);
        }
        if let Some(admin) = &config.admin {
            listeners.admin.push(bind("admin.listen", admin.listen).await?);
        }
        Ok(listeners)
    }
}

async fn bind(key: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { key, address, source })
}

/// An address can't be listened on.
#[derive(Debug, Error)]
#[error("{key}: can't listen on {address}: {source}: end what listens there, or choose another address")]
pub struct BindError {
    key: &'static str,
    address: std::net::SocketAddr,
    source: io::Error,
}

/// The parts can't be put together.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The client of the vault.
    #[error(transparent)]
    Vault(#[from] vault::BuildError),
    /// Reflection.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
}

/// How the process is told to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Begin: not ready, then the lame-duck time, then the drain.
    pub begin: CancellationToken,
    /// Skip the lame-duck time.
    pub hurry: CancellationToken,
    /// Said by the broker: it has ended.
    pub ended: CancellationToken,
}

/// The broker, wired and not yet running.
#[derive(Debug)]
pub struct App {
    broker: Arc<Broker>,
    metrics: Arc<Metrics>,
    services: Services,
    health: HealthReporter,
    /// Ends the waits of calls.
    closing: CancellationToken,
    end_times: watch::Receiver<EndTimes>,
    /// What a reload reaches; taken by the task that watches the files.
    live: Option<Live>,
    reloading: Option<Reloading>,
}

/// Where another configuration comes from while running.
#[derive(Debug)]
pub struct Reloading {
    /// The files that the configuration was read from.
    pub files: Files,
    /// What was said of them then.
    pub warnings: Vec<Fault>,
    /// Tells to read them again at once (SIGHUP).
    pub hup: Arc<Notify>,
    /// The log, whose level is a key.
    pub level: Option<Level>,
}

impl App {
    /// Wires the parts for `config`. Must be called within the runtime that will run it.
    ///
    /// # Errors
    /// Where the client of the vault can't be built.
    pub fn new(config: Config) -> Result<Self, BuildError> {
        let clock = Arc::new(SystemClock);
        let vault = Vault::new(vault_settings(&config.vault), clock.clone())?;
        Self::with_sign_in(config, Arc::new(vault), clock, fastrand::u64(..))
    }

    /// The same with another upstream and another clock, for a simulation. `seed` feeds the jitter.
    ///
    /// # Errors
    /// Where reflection can't be built.
    pub fn with_sign_in(
        mut config: Config,
        sign_in: Arc<dyn SignIn>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<Self, BuildError> {
        let cache = Cache::new(config.users.len());
        let agenda = Arc::new(Agenda::new(Arc::clone(&clock)));
        let metrics = Arc::new(Metrics::default());
        let settings = flight_settings(&config.vault, sign_in);
        let parts = flight::Parts {
            clock: Arc::clone(&clock),
            cache: cache.clone(),
            agenda: Arc::clone(&agenda),
            metrics: Arc::clone(&metrics),
            runtime: Handle::current(),
            seed,
        };
        let flights = Flights::new(parts, settings);
        let closing = CancellationToken::new();
        let users = Users::new(mem::take(&mut config.users));
        let broker = Broker::new(users, cache, flights, agenda, Arc::clone(&clock), config.vault.idle_after, closing.clone());
        let broker = Arc::new(broker);
        let health = HealthReporter::new();
        let call_timeout = CallTimeout::new(config.grpc.call_timeout);
        let services = Services::all(Api::new(Arc::clone(&broker)), health.clone(), Arc::clone(&clock), call_timeout.clone())?;
        let (times, end_times) = watch::channel(EndTimes::from(&config.grpc));
        let live = Live { broker: Arc::clone(&broker), clock, call_timeout, end_times: times, level: None, started: config };
        Ok(Self { broker, metrics, services, health, closing, end_times, live: Some(live), reloading: None })
    }

    /// Lets it follow its configuration while it runs.
    #[must_use]
    pub fn reloading(mut self, reloading: Reloading) -> Self {
        self.reloading = Some(reloading);
        self
    }

    /// Runs on `listeners` until `stop`, then drains; returns within `lame_duck` + `drain` after that.
    pub async fn run(mut self, listeners: Listeners, stop: Stop) {
        let (phase, phases) = watch::channel(Phase::Starting);
        let (tasks, ending) = (TaskTracker::new(), Ending::default());
        // Apart from the connections, whose end is waited for.
        let (upkeep, broker) = (TaskTracker::new(), Arc::clone(&self.broker));
        upkeep.spawn(async move { broker.renew_ahead().await });
        if let (Some(live), Some(Reloading { files, warnings, hup, level })) = (self.live.take(), self.reloading.take()) {
            let mut live = Live { level, ..live };
            let reload = Reload::new(files, &warnings, Arc::clone(&live.clock));
            upkeep
                .spawn(reload.watch(reload::POLL_EVERY, hup, self.closing.clone(), move |reloaded| live.apply(reloaded.config)));
        }
        // Known from the first connection on.
        self.health.set_service_status(SERVICE, ServingStatus::NotServing).await;
        self.listen(listeners, phases, &tasks, &ending);
        self.health.set_service_status(SERVICE, ServingStatus::Serving).await;
        phase.send_replace(Phase::Ready);
        info!(users = self.broker.users(), "ready");

        stop.begin.cancelled().await;
        self.health.set_service_status(SERVICE, ServingStatus::NotServing).await;
        phase.send_replace(Phase::Draining);
        let EndTimes { lame_duck, drain } = *self.end_times.borrow();
        info!(lame_duck_s = lame_duck.as_secs_f64(), drain_s = drain.as_secs_f64(), "shutting down: not ready any more");
        tokio::select! {
            () = sleep(lame_duck) => {}
            () = stop.hurry.cancelled() => info!("told to hurry: the lame-duck time is skipped"),
        }
        self.end(drain, &tasks, &ending).await;
        stop.ended.cancel();
    }

    fn listen(&self, listeners: Listeners, phases: watch::Receiver<Phase>, tasks: &TaskTracker, ending: &Ending) {
        let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let health = Services::health_only(self.health.clone());
        let grpc = listeners.grpc.into_iter().map(|listener| (listener, self.services.clone(), "grpc"));
        let health = listeners.health.into_iter().map(|listener| (listener, health.clone(), "health"));
        for (listener, services, port) in grpc.chain(health) {
            info!(port, address = address(&listener), "listening");
            let each = ending.clone();
            let serve = move |stream| listener::serve(stream, services.clone(), each.clone());
            tasks.spawn(listener::accept(listener, listener::CONNECTIONS_MAX, tasks.clone(), ending.clone(), serve));
        }
        let router = admin::router(phases, Arc::clone(&self.metrics));
        for listener in listeners.admin {
            info!(port = "admin", address = address(&listener), "listening");
            let (router, each) = (router.clone(), ending.clone());
            let serve = move |stream| admin::serve(stream, router.clone(), each.clone());
            tasks.spawn(listener::accept(listener, admin::CONNECTIONS_MAX, tasks.clone(), ending.clone(), serve));
        }
    }

    /// GOAWAY, calls in flight, end.
    async fn end(&self, drain: Duration, tasks: &TaskTracker, ending: &Ending) {
        ending.goaway.cancel();
        // Watches of health never end by themselves.
        let mut health = self.health.clone();
        health.clear_service_status("").await;
        health.clear_service_status(SERVICE).await;
        tasks.close();
        let last_words = LAST_WORDS.min(drain / 2);
        let in_time = timeout(drain - last_words, tasks.wait()).await;
        self.closing.cancel();
        // Less a little, for dropping what is left.
        if in_time.is_err() && timeout(last_words.mul_f64(0.8), tasks.wait()).await.is_err() {
            warn!(connections = tasks.len(), "the drain is over: what is left is dropped");
            ending.abort.cancel();
            tasks.wait().await;
        }
        info!("ended");
    }
}

fn flight_settings(config: &config::Vault, sign_in: Arc<dyn SignIn>) -> flight::Settings {
    flight::Settings {
        sign_in,
        rules: Rules { min_sign_in_interval: config.min_sign_in_interval, refusal_hold: config.refusal_hold },
        renewal: config.renewal,
        max_concurrent_sign_ins: config.max_concurrent_sign_ins,
    }
}

fn vault_settings(config: &config::Vault) -> vault::Settings {
    vault::Settings {
        base_url: config.base_url.clone(),
        ca_pem: config.ca_file.as_ref().map(|file| file.pem.clone()),
        headers: config.headers.clone(),
        timeout: config.timeout,
        max_connections: config.max_concurrent_sign_ins,
        assumed_lifetime: config.assumed_lifetime,
    }
}
