//! The composition root: takes bound listeners, wires the parts, runs them, and drains.
//!
//! Must never hold a rule of its own, nor take longer than `lame_duck` + `drain` to end.

pub mod descriptors;
mod listeners;
mod reconfigure;

use std::{io, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

pub use self::listeners::{BindError, Listeners};
use self::{
    descriptors::ConnectionLimits,
    listeners::{address, tls},
    reconfigure::{Reconfigure, make},
};
use crate::{
    admin::{
        self, AdminState,
        overview::{Overview, Phase, Sources},
    },
    broker::Broker,
    clock::{Clock, SystemClock},
    config::{Config, Fault, Files},
    live::{Live, Snapshot},
    net::{
        accept::{Port, Shutdown},
        connection_limit::ConnectionLimit,
        http2::{Http2, Life},
        memory_budget::{PortLimits, STREAMS_MAX, STREAMS_OF_PROBE_MAX},
        tls::{TlsAcceptor, TlsError},
        workers::{self, Workers},
    },
    operator::Operating,
    reload::{self, Reload, ReloadState},
    rpc::{
        guard::Observer,
        health::Health,
        services::{ReflectionError, SERVICE, Services},
        trial,
    },
    signin::Parts,
    telemetry::{
        audit::Audit,
        log::Level,
        metrics::Metrics,
        traces::{Traces, TracesError},
    },
    tier::Tier,
    tokens::cache::Cache,
    users::{hold_file::HoldFile, refresh_queue::RefreshQueue},
    vault::{self, HttpVault, SignIn},
};

/// Calls that still wait for the vault are answered this long before the drain ends, so that their answers can leave; of a drain
/// shorter than twice this, half.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Holds that are not written yet have this long at the end, if the drain lasts so long.
const LAST_HOLDS: Duration = Duration::from_secs(1);
/// The spans that wait at the end have this long to be sent, if the drain lasts so long.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// The parts can't be put together.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The client of the vault.
    #[error(transparent)]
    Vault(#[from] vault::HttpClientError),
    /// TLS for callers.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Where traces go.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// Reflection.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
    /// The threads that serve callers.
    #[error("no thread can be started to serve callers: {0}: raise the limit of threads (pids)")]
    Workers(#[source] io::Error),
}

/// How the process is told to end.
#[derive(Clone, Debug, Default)]
pub struct StopSignal {
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
    live: Live,
    hold_file: HoldFile,
    observer: Arc<Observer>,
    services: Services,
    health: Health,
    workers: Workers,
    connection_limits: ConnectionLimits,
    /// Ends the waits of calls.
    closing: CancellationToken,
    /// What a reload goes through; taken by the task that watches the files.
    reconfigure: Option<Reconfigure>,
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
    pub fn new(config: Config, audit: Audit) -> Result<Self, BuildError> {
        let clock = Arc::new(SystemClock);
        let vault = HttpVault::new(&config.vault, clock.clone())?;
        Self::with_sign_in(config, audit, Arc::new(vault), clock, fastrand::u64(..))
    }

    /// The same with another upstream and another clock, for a simulation. `seed` feeds the jitter.
    ///
    /// # Errors
    /// Where reflection can't be built.
    pub fn with_sign_in(
        mut config: Config,
        audit: Audit,
        sign_in: Arc<dyn SignIn>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<Self, BuildError> {
        let cache = Cache::new(config.users.len());
        let refresh_queue = Arc::new(RefreshQueue::new(Arc::clone(&clock)));
        let runtime = Handle::current();
        let metrics = Arc::<Metrics>::default();
        let hold_file = match &config.state_directory {
            Some(path) => HoldFile::open(path, clock.now(), &metrics),
            None => HoldFile::default(),
        };
        let tier = config
            .shared
            .as_ref()
            .map_or_else(Tier::default, |shared| Tier::new(shared, Arc::clone(&clock), Arc::clone(&metrics), runtime.clone()));
        let parts = Parts {
            clock: Arc::clone(&clock),
            cache,
            hold_file: hold_file.clone(),
            tier: tier.clone(),
            refresh_queue,
            metrics,
            traces: Traces::new(config.traces.as_ref())?,
            audit: audit.clone(),
            runtime: runtime.clone(),
            seed,
        };
        let observer = Arc::new(Observer::new(&parts));
        let closing = CancellationToken::new();
        let configuration = make(&mut config, None, sign_in, &clock, &runtime)?;
        let live = Live::new(Snapshot::recalling(hold_file.clone(), tier.versions(), configuration));
        let broker = Arc::new(Broker::new(parts, live.clone(), closing.clone()));
        let health = Health::new();
        let services = Services::all(Arc::clone(&broker), Arc::clone(&observer), &health)?;
        let workers = Workers::start(workers::processors(), Arc::clone(&clock)).map_err(BuildError::Workers)?;
        let reconfigure = Reconfigure {
            broker: Arc::clone(&broker),
            live: live.clone(),
            clock: Arc::clone(&clock),
            runtime,
            tier,
            level: None,
            audit,
            current: config.clone(),
            started: config,
        };
        Ok(Self {
            broker,
            live,
            hold_file,
            observer,
            services,
            health,
            workers,
            connection_limits: ConnectionLimits::default(),
            closing,
            reconfigure: Some(reconfigure),
            reloading: None,
        })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.observer.metrics)
    }

    /// Takes so many connections and no more.
    #[must_use]
    pub fn connection_limits(mut self, connection_limits: ConnectionLimits) -> Self {
        self.connection_limits = connection_limits;
        self
    }

    /// Lets it follow its configuration while it runs.
    #[must_use]
    pub fn reloading(mut self, reloading: Reloading) -> Self {
        self.reloading = Some(reloading);
        self
    }

    /// Runs on `listeners` until `stop`, then drains; returns within `lame_duck` + `drain` after that.
    pub async fn run(mut self, listeners: Listeners, stop: StopSignal) {
        let ((phase, phases), tasks, shutdown) = (watch::channel(Phase::Starting), TaskTracker::new(), Shutdown::default());
        // Apart from the connections, whose end is waited for.
        let (upkeep, broker) = (TaskTracker::new(), Arc::clone(&self.broker));
        upkeep.spawn(async move { tokio::join!(broker.renew_ahead(), broker.hear_of_others(), broker.end_tokens()) });
        upkeep.spawn(self.observer.strangers.clone().tell_every_minute(self.closing.clone()));
        upkeep.spawn(trial::tell_every_minute(self.live.clone(), self.metrics(), self.closing.clone()));
        upkeep.spawn(self.keep_holds());
        let reload = self.follow(&upkeep);
        let shown = self.shown(phases, reload);
        // Known from the first connection on.
        self.health.set(SERVICE, false);
        self.listen(listeners, shown, &tasks, &shutdown);
        self.health.set(SERVICE, true);
        phase.send_replace(Phase::Ready);
        info!(users = self.broker.users(), "ready");

        stop.begin.cancelled().await;
        self.health.set(SERVICE, false);
        self.observer.strangers.tell();
        self.observer.audit.flush();
        phase.send_replace(Phase::Draining);
        let (lame_duck, drain) = {
            let serving = &self.live.load().serving;
            (serving.lame_duck, serving.drain)
        };
        info!(lame_duck_s = lame_duck.as_secs_f64(), drain_s = drain.as_secs_f64(), "shutting down: not ready any more");
        tokio::select! {
            () = sleep(lame_duck) => {}
            () = stop.hurry.cancelled() => info!("told to hurry: the lame-duck time is skipped"),
        }
        self.end(drain, &tasks, &shutdown).await;
        self.observer.strangers.tell();
        info!("ended");
        stop.ended.cancel();
    }

    /// Keeps holds in their file, if there is one.
    fn keep_holds(&self) -> impl Future<Output = ()> + use<> {
        let (live, metrics) = (self.live.clone(), Arc::clone(&self.observer.metrics));
        let rules = move || live.load().settings.rules;
        self.hold_file.clone().keep(Arc::clone(&self.observer.clock), rules, metrics, self.closing.clone())
    }

    /// Follows the configuration from now on, if it is to be followed; what is in force either way.
    fn follow(&mut self, upkeep: &TaskTracker) -> watch::Receiver<ReloadState> {
        let (Some(reconfigure), Some(Reloading { files, warnings, hup, level })) =
            (self.reconfigure.take(), self.reloading.take())
        else {
            return watch::Sender::new(ReloadState::at_the_start(&*self.observer.clock)).subscribe();
        };
        let mut reconfigure = Reconfigure { level, ..reconfigure };
        let reload = Reload::new(
            files,
            &warnings,
            Arc::clone(&self.observer.clock),
            Arc::clone(&self.observer.metrics),
            self.observer.audit.clone(),
        );
        let state = reload.state();
        upkeep.spawn(
            reload.watch(reload::POLL_EVERY, hup, self.closing.clone(), move |reloaded| reconfigure.apply(reloaded.config)),
        );
        state
    }

    fn shown(&self, phase: watch::Receiver<Phase>, reload: watch::Receiver<ReloadState>) -> AdminState {
        let (broker, clock) = (Arc::clone(&self.broker), Arc::clone(&self.observer.clock));
        let overview = Overview::new(Sources { broker, clock, phase, reload });
        AdminState { overview: Arc::new(overview), metrics: Arc::clone(&self.observer.metrics) }
    }

    /// Has every listener's connections served.
    fn listen(&self, listeners: Listeners, shown: AdminState, tasks: &TaskTracker, shutdown: &Shutdown) {
        let port = |name, limit| {
            let (tasks, shutdown, clock) = (tasks.clone(), shutdown.clone(), Arc::clone(&self.observer.clock));
            Port { name, limit, placer: None, tasks, shutdown, clock }
        };
        let limit = ConnectionLimit::new(PortLimits::callers(self.connection_limits.grpc));
        let grpc = Port { placer: Some(self.workers.placer()), ..port("grpc", limit) };
        let tls = tls(&self.live, &self.observer);
        for listener in listeners.grpc {
            info!(port = "grpc", address = address(&listener), tls = tls.is_some(), "listening");
            tasks.spawn(self.serve_grpc(grpc.clone(), listener, self.services.clone(), tls.clone(), STREAMS_MAX));
        }
        let health = port("health", ConnectionLimit::new(PortLimits::probes(self.connection_limits.health)));
        let services = Services::health_only(&self.health);
        for listener in listeners.health {
            info!(port = "health", address = address(&listener), "listening");
            tasks.spawn(self.serve_grpc(health.clone(), listener, services.clone(), None, STREAMS_OF_PROBE_MAX));
        }
        let admin = port("admin", ConnectionLimit::new(PortLimits::probes(self.connection_limits.admin)));
        let router = admin::router(shown);
        for listener in listeners.admin {
            info!(port = "admin", address = address(&listener), "listening");
            let (router, shutdown) = (router.clone(), shutdown.clone());
            let serve = move |accepted| admin::serve(accepted, router.clone(), shutdown.clone());
            tasks.spawn(admin.clone().accept(listener, serve));
        }
        if let Some(socket) = listeners.operator {
            let operating =
                Operating::new(Arc::clone(&self.broker), self.observer.audit.clone(), Arc::clone(&self.observer.clock));
            tasks.spawn(operating.serve(socket, tasks.clone(), shutdown.clone()));
        }
    }

    fn serve_grpc(
        &self,
        port: Port,
        listener: TcpListener,
        services: Services,
        tls: Option<TlsAcceptor>,
        plaintext_streams: u32,
    ) -> impl Future<Output = ()> + use<> {
        let live = self.live.clone();
        let life = move || {
            let serving = &live.load().serving;
            Life { age: serving.connection_age(fastrand::f64()), drain: serving.drain }
        };
        let http2 = Http2 {
            tls,
            shutdown: port.shutdown.clone(),
            life: Arc::new(life),
            plaintext_streams,
            clock: Arc::clone(&self.observer.clock),
            service: move |session| services.of(session),
        };
        port.accept(listener, move |accepted| http2.clone().serve(accepted))
    }

    /// GOAWAY, calls in flight, end.
    async fn end(&mut self, drain: Duration, tasks: &TaskTracker, shutdown: &Shutdown) {
        let ends = self.observer.clock.now().mono + drain;
        shutdown.goaway.cancel();
        tasks.close();
        let last_words = LAST_ANSWERS.min(drain / 2);
        let in_time = timeout(drain - last_words, tasks.wait()).await;
        self.closing.cancel();
        // Less a little, for dropping what is left.
        if in_time.is_err() && timeout(last_words.mul_f64(0.8), tasks.wait()).await.is_err() {
            warn!(connections = tasks.len(), "the drain is over: what is left is dropped");
            shutdown.abort.cancel();
            tasks.wait().await;
        }
        // Nobody begins another any more. What comes of one that was sent is to be kept, and told to other replicas.
        timeout(ends.saturating_duration_since(self.observer.clock.now().mono), self.broker.sign_ins_end()).await.ok();
        // Calls that outlived their connections are told of as they are dropped.
        self.workers.end().await;
        let (now, rules) = (self.observer.clock.now(), self.live.load().settings.rules);
        let patience = ends.saturating_duration_since(now.mono).min(LAST_HOLDS);
        self.hold_file.end(now, rules, &self.observer.metrics, patience).await;
        let patience = ends.saturating_duration_since(self.observer.clock.now().mono).min(LAST_SPANS);
        let traces = self.observer.traces.clone();
        if spawn_blocking(move || traces.end(patience)).await.is_err() {
            warn!("the last traces may not have been sent");
        }
    }
}
