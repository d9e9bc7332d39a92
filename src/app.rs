//! The composition root: takes bound listeners, wires the parts, runs them, and drains.
//!
//! Must never hold a rule of its own, nor take longer than `lame_duck` + `drain` to end.

pub mod descriptors;
mod reconfigure;
mod settings;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::{
    descriptors::Seats,
    reconfigure::{Live, Times},
    settings::{asked, configuration, labels_callers},
};
use crate::{
    admin::{
        self, Shown,
        overview::{InForce, Overview, Phase, Sources},
    },
    authn::{Identity, Peer},
    broker::Broker,
    clock::{Clock, SystemClock},
    config::{Config, Fault, Files},
    net::{
        accept::{self, Ending, Ground},
        places::{Guest, House},
        tls::{self, Tls},
    },
    reload::{self, Reload, ReloadState},
    rpc::{
        connection,
        deadline::CallTimeout,
        get_token::Api,
        guard::Watch,
        health::Health,
        services::{ReflectionError, SERVICE, Services},
    },
    signin,
    telemetry::{
        log::Level,
        metrics::Metrics,
        traces::{self, Traces},
    },
    tokens::cache::Cache,
    users::refresh_queue::RefreshQueue,
    vault::{self, HttpVault, SignIn},
};

/// Calls that still wait for the vault are answered this long before the drain ends, so that their answers can leave; of a drain
/// shorter than twice this, half.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The spans that wait at the end have this long to be sent, if the drain lasts so long.
const LAST_SPANS: Duration = Duration::from_secs(1);

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
    Vault(#[from] vault::ClientError),
    /// TLS for callers.
    #[error(transparent)]
    Tls(#[from] tls::BuildError),
    /// Where traces go.
    #[error(transparent)]
    Traces(#[from] traces::BuildError),
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
    traces: Traces,
    clock: Arc<dyn Clock>,
    in_force: watch::Receiver<InForce>,
    services: Services,
    health: Health,
    seats: Seats,
    /// Ends the waits of calls.
    closing: CancellationToken,
    times: watch::Receiver<Times>,
    /// None: callers come in plaintext.
    tls: Option<Tls>,
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
        let vault = HttpVault::new(&config.vault, clock.clone())?;
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
        let refresh_queue = Arc::new(RefreshQueue::new(Arc::clone(&clock)));
        let metrics = Arc::new(Metrics::default());
        let traces = Traces::new(config.traces.as_ref())?;
        let parts = signin::Parts {
            clock: Arc::clone(&clock),
            cache,
            refresh_queue,
            metrics: Arc::clone(&metrics),
            traces: traces.clone(),
            runtime: Handle::current(),
            seed,
        };
        let closing = CancellationToken::new();
        let broker = Arc::new(Broker::new(parts, configuration(&mut config, sign_in), closing.clone()));
        let health = Health::new();
        let call_timeout = CallTimeout::new(config.grpc.call_timeout);
        let identity = Identity::new(asked(&config, None, &clock), Arc::clone(&clock));
        let api = Api::new(Arc::clone(&broker));
        let watch_calls = Arc::new(Watch::new(Arc::clone(&clock), Arc::clone(&metrics), traces.clone()));
        watch_calls.label_callers(labels_callers(&config));
        let services = Services::all(api, &health, identity.clone(), Arc::clone(&watch_calls), call_timeout.clone())?;
        let (changing, times) = watch::channel(Times::from(&config.grpc));
        let shown = match &config.grpc.tls {
            Some(tls) => Some(watch::channel(Arc::new(tls::Current::new(tls)?))),
            None => None,
        };
        let (showing, shown) = shown.unzip();
        let tls = shown.map(|shown| Tls::new(shown, Arc::clone(&clock), Arc::clone(&metrics)));
        let (in_force_now, in_force) = watch::channel(InForce::of(&config));
        let live = Live {
            broker: Arc::clone(&broker),
            clock: Arc::clone(&clock),
            identity,
            watch: watch_calls,
            in_force: in_force_now,
            call_timeout,
            times: changing,
            tls: showing,
            level: None,
            current: config.clone(),
            started: config,
        };
        Ok(Self {
            broker,
            metrics,
            traces,
            clock,
            in_force,
            services,
            health,
            seats: Seats::default(),
            closing,
            times,
            tls,
            live: Some(live),
            reloading: None,
        })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Takes so many connections and no more.
    #[must_use]
    pub fn seats(mut self, seats: Seats) -> Self {
        self.seats = seats;
        self
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
        let reload = self.follow(&upkeep);
        let shown = self.shown(phases, reload);
        // Known from the first connection on.
        self.health.set(SERVICE, false);
        self.listen(listeners, shown, &tasks, &ending);
        self.health.set(SERVICE, true);
        phase.send_replace(Phase::Ready);
        info!(users = self.broker.users(), "ready");

        stop.begin.cancelled().await;
        self.health.set(SERVICE, false);
        phase.send_replace(Phase::Draining);
        let Times { lame_duck, drain, .. } = *self.times.borrow();
        info!(lame_duck_s = lame_duck.as_secs_f64(), drain_s = drain.as_secs_f64(), "shutting down: not ready any more");
        tokio::select! {
            () = sleep(lame_duck) => {}
            () = stop.hurry.cancelled() => info!("told to hurry: the lame-duck time is skipped"),
        }
        self.end(drain, &tasks, &ending).await;
        stop.ended.cancel();
    }

    /// Follows the configuration from now on, if it is to be followed; what is in force either way.
    fn follow(&mut self, upkeep: &TaskTracker) -> watch::Receiver<ReloadState> {
        let (Some(live), Some(Reloading { files, warnings, hup, level })) = (self.live.take(), self.reloading.take()) else {
            return watch::Sender::new(ReloadState::at_the_start(&*self.clock)).subscribe();
        };
        let mut live = Live { level, ..live };
        let reload = Reload::new(files, &warnings, Arc::clone(&live.clock), Arc::clone(&self.metrics));
        let state = reload.state();
        upkeep.spawn(reload.watch(reload::POLL_EVERY, hup, self.closing.clone(), move |reloaded| live.apply(reloaded.config)));
        state
    }

    fn shown(&self, phase: watch::Receiver<Phase>, reload: watch::Receiver<ReloadState>) -> Shown {
        let (broker, clock, in_force) = (Arc::clone(&self.broker), Arc::clone(&self.clock), self.in_force.clone());
        let overview = Overview::new(Sources { broker, clock, phase, reload, in_force });
        Shown { overview: Arc::new(overview), metrics: Arc::clone(&self.metrics) }
    }

    fn listen(&self, listeners: Listeners, shown: Shown, tasks: &TaskTracker, ending: &Ending) {
        let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        let ground = Ground { tasks: tasks.clone(), ending: ending.clone(), clock: Arc::clone(&self.clock) };
        let places = House::new(self.seats.grpc, false);
        for listener in listeners.grpc {
            info!(port = "grpc", address = address(&listener), tls = self.tls.is_some(), "listening");
            let guests = Guests { services: self.services.clone(), times: self.times.clone(), ending: ending.clone() };
            let tls = self.tls.clone();
            let serve = move |stream, from, guest| guests.clone().serve(stream, from, guest, tls.clone());
            tasks.spawn(accept::accept(listener, "grpc", Arc::clone(&places), ground.clone(), serve));
        }
        let health = Services::health_only(&self.health);
        let places = House::new(self.seats.health, true);
        for listener in listeners.health {
            info!(port = "health", address = address(&listener), "listening");
            let guests = Guests { services: health.clone(), times: self.times.clone(), ending: ending.clone() };
            let serve = move |stream, from, guest| guests.clone().serve(stream, from, guest, None);
            tasks.spawn(accept::accept(listener, "health", Arc::clone(&places), ground.clone(), serve));
        }
        let router = admin::router(shown);
        let places = House::new(self.seats.admin, true);
        for listener in listeners.admin {
            info!(port = "admin", address = address(&listener), "listening");
            let (router, each) = (router.clone(), ending.clone());
            let serve = move |stream, _, guest| admin::serve(stream, router.clone(), guest, each.clone());
            tasks.spawn(accept::accept(listener, "admin", Arc::clone(&places), ground.clone(), serve));
        }
    }

    /// GOAWAY, calls in flight, end.
    async fn end(&self, drain: Duration, tasks: &TaskTracker, ending: &Ending) {
        let ends = self.clock.now().mono + drain;
        ending.goaway.cancel();
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
        let patience = ends.saturating_duration_since(self.clock.now().mono).min(LAST_SPANS);
        let traces = self.traces.clone();
        if spawn_blocking(move || traces.end(patience)).await.is_err() {
            warn!("the last traces may not have been sent");
        }
        info!("ended");
    }
}

/// Whoever connects to a gRPC port.
#[derive(Clone)]
struct Guests {
    services: Services,
    times: watch::Receiver<Times>,
    ending: Ending,
}

impl Guests {
    async fn serve(self, stream: TcpStream, from: SocketAddr, guest: Arc<Guest>, tls: Option<Tls>) {
        let Self { services, times, ending } = self;
        let age = times.borrow().connection_age(fastrand::f64());
        let Some(tls) = tls else {
            let peer = Peer::in_plaintext(from.ip().to_canonical().is_loopback());
            return connection::serve(stream, peer, services, guest, ending, sleep(age)).await;
        };
        let secured = tokio::select! {
            () = ending.goaway.cancelled() => return,
            secured = tls.handshake(stream) => secured,
        };
        let Some(tls::Secured { stream, peer, vouched }) = secured else { return };
        let leave = async {
            tokio::select! {
                () = sleep(age) => {}
                () = vouched.revoked() => info!("a connection ends: no client CA vouches for its certificate any more"),
            }
        };
        connection::serve(stream, peer, services, guest, ending, leave).await;
    }
}
