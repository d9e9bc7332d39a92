//! The verifier against an API server of the test's own on real sockets, with keys made as the tests run.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::{cluster::Cluster, signer::Signer};
use super::*;
use crate::{
    clock::{Moment, SystemClock},
    outbound::Target,
};

mod cluster;
mod fetching;
mod issuers;
mod remembering;
mod reviewing;
mod runtimes;
mod signer;
mod tokens;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const AUDIENCE: &str = "token-broker";
const SUBJECT: &str = "system:serviceaccount:cards:cards-api.v2";
/// Our own, as it stands in its file.
const OWN_TOKEN: &str = "the-brokers-own";
/// Long enough for a busy machine, and the most that a test waits for nothing.
const PATIENT: Timeouts = Timeouts { connect: Duration::from_secs(20), request: Duration::from_secs(20) };
/// For the tests that wait for it to pass.
const IMPATIENT: Timeouts = Timeouts { connect: Duration::from_millis(300), request: Duration::from_millis(300) };
const SECOND: Duration = Duration::from_secs(1);

/// A clock that the test moves.
#[derive(Debug)]
struct TestClock(Mutex<Moment>);

impl TestClock {
    fn pass(&self, by: Duration) {
        let mut now = lock(&self.0);
        *now = now.plus(by);
    }

    /// The wall clock, in seconds.
    fn unix(&self) -> u64 {
        self.now().wall.duration_since(SystemTime::UNIX_EPOCH).expect("it is later").as_secs()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        *lock(&self.0)
    }
}

/// A verifier and its surroundings.
struct World {
    accounts: Arc<ServiceAccounts>,
    clock: Arc<TestClock>,
    cluster: Cluster,
    dir: TempDir,
}

impl World {
    /// With keys at a URL and, if asked for, reviews.
    fn new(cluster: Cluster, review: bool, timeouts: Timeouts) -> Self {
        let url = cluster.url();
        Self::with(cluster, timeouts, |settings| {
            settings.issuers[0].keys = published_at(&format!("{url}/openid/v1/jwks"));
            settings.review = review.then(|| target(&format!("{url}/apis/authentication.k8s.io/v1/tokenreviews")));
        })
    }

    fn with(cluster: Cluster, timeouts: Timeouts, set: impl FnOnce(&mut ServiceAccountsConfig)) -> Self {
        let dir = tempfile::tempdir().expect("there is a place for files");
        let mut settings = settings(dir.path());
        fs::write(&settings.token_file, format!("{OWN_TOKEN}\n")).expect("it can be written");
        set(&mut settings);
        let clock = Arc::new(TestClock(Mutex::new(SystemClock.now())));
        let accounts = ServiceAccounts::with_timeouts(&settings, Arc::clone(&clock) as _, &Handle::current(), timeouts);
        Self { accounts: Arc::new(accounts), clock, cluster, dir }
    }

    /// What a token has to say, now.
    fn claims(&self) -> Value {
        let now = self.clock.unix();
        json!({ "iss": ISSUER, "aud": [AUDIENCE], "exp": now + 3_600, "iat": now, "nbf": now, "sub": SUBJECT, "jti": "4f4a" })
    }

    /// The claims with one of them changed, or left out where it is null.
    fn but(&self, claim: &str, value: Value) -> Value {
        let mut claims = self.claims();
        let object = claims.as_object_mut().expect("it is one");
        if value.is_null() {
            object.remove(claim)
        } else {
            object.insert(claim.to_owned(), value)
        };
        claims
    }

    async fn verify(&self, token: &str) -> Result<String, Unverified> {
        self.accounts.verify(token).await.map(|account| account.to_string())
    }

    /// Fifty callers come with one token, and all are known.
    async fn good_for_fifty_at_once(&self, token: &str) {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (accounts, token) = (Arc::clone(&self.accounts), token.to_owned());
            callers.spawn(async move { accounts.verify(&token).await });
        }
        for result in callers.join_all().await {
            assert_eq!(result.map(|account| account.to_string()), good());
        }
    }

    /// How often the keys of the first issuer, as they are now, were taken to verify a token.
    fn verifications(&self) -> usize {
        self.accounts.trusted[0].keys.uses("k1")
    }

    async fn verify_claims(&self, signer: &Signer, claims: &Value) -> Result<String, Unverified> {
        self.verify(&signer.token(claims)).await
    }
}

fn settings(dir: &Path) -> ServiceAccountsConfig {
    ServiceAccountsConfig {
        issuers: vec![issuer(ISSUER, KeySource::File(dir.join("jwks")))],
        audience: AUDIENCE.to_owned(),
        review: None,
        ca_file: None,
        token_file: dir.join("token"),
    }
}

fn issuer(name: &str, keys: KeySource) -> Issuer {
    Issuer { name: name.to_owned(), keys }
}

fn target(url: &str) -> Target {
    Target::parse(url).expect("is one")
}

fn published_at(url: &str) -> KeySource {
    KeySource::Url { url: target(url), with_token: true }
}

fn good() -> Result<String, Unverified> {
    Ok(SUBJECT.to_owned())
}

/// Waits for what another task does soon.
async fn until(what: impl Fn() -> bool) {
    let soon = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT.request, soon).await.expect("it comes to be");
}

/// Whether it is refused, with words that hold this.
fn refused(result: &Result<String, Unverified>, because: &str) -> bool {
    matches!(result, Err(Unverified::Refused(words)) if words.contains(because))
}

fn unavailable(result: &Result<String, Unverified>) -> bool {
    matches!(result, Err(Unverified::Unavailable(_)))
}

/// The configuration has looked at the file; it may have been lost since then.
#[tokio::test]
async fn without_its_authorities_the_cluster_is_not_asked() {
    let log = Log::default();
    let _logging = log.taking();
    let signer = Signer::new("k1", jsonwebtoken::Algorithm::ES256);
    let (cluster, ca) = Cluster::with_tls(&[&signer]);
    let url = format!("{}/openid/v1/jwks", cluster.url());
    let world = World::with(cluster, PATIENT, |settings| {
        settings.issuers[0].keys = published_at(&url);
        settings.ca_file = Some(settings.token_file.with_file_name("ca.crt"));
    });
    let token = signer.token(&world.claims());
    for (contents, words) in [(None, "does not exist"), (Some("nothing"), "without a certificate")] {
        if let Some(contents) = contents {
            fs::write(world.dir.path().join("ca.crt"), contents).expect("it can be written");
        }
        assert!(unavailable(&world.verify(&token).await));
        assert!(log.text().contains(words), "{}", log.text());
        world.clock.pass(10 * SECOND);
    }
    assert_eq!(world.cluster.counts(), (0, 0));
    fs::write(world.dir.path().join("ca.crt"), ca).expect("it can be written");
    world.clock.pass(30 * SECOND);
    assert_eq!(world.verify(&token).await, good());
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Takes what this thread logs, as long as both of these live.
    fn taking(&self) -> (tracing::Dispatch, tracing::subscriber::DefaultGuard) {
        let sink = self.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        // While there is one subscriber only, another test's thread, which has none, could switch the line off for all.
        let another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        (another, tracing::subscriber::set_default(subscriber.with_writer(move || sink.clone()).finish()))
    }

    fn text(&self) -> String {
        String::from_utf8(lock(&self.0).clone()).expect("logs are text")
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
