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
use crate::clock::{Moment, SystemClock};

mod cluster;
mod fetching;
mod issuers;
mod reviewing;
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
            settings.issuers[0].keys = KeySource::Url(format!("{url}/openid/v1/jwks"));
            settings.review = review.then(|| format!("{url}/apis/authentication.k8s.io/v1/tokenreviews"));
        })
    }

    fn with(cluster: Cluster, timeouts: Timeouts, set: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("there is a place for files");
        let mut settings = settings(dir.path());
        fs::write(&settings.token_file, format!("{OWN_TOKEN}\n")).expect("it can be written");
        set(&mut settings);
        let clock = Arc::new(TestClock(Mutex::new(SystemClock.now())));
        let accounts = ServiceAccounts::with_timeouts(settings, Arc::clone(&clock) as _, timeouts).expect("they are good");
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

    async fn verify_claims(&self, signer: &Signer, claims: &Value) -> Result<String, Unverified> {
        self.verify(&signer.token(claims)).await
    }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        issuers: vec![issuer(ISSUER, KeySource::File(dir.join("jwks")))],
        audience: AUDIENCE.to_owned(),
        review: None,
        ca_file: None,
        token_file: dir.join("token"),
    }
}

fn issuer(name: &str, keys: KeySource) -> Issuer {
    Issuer { name: name.to_owned(), keys, with_token: true }
}

fn good() -> Result<String, Unverified> {
    Ok(SUBJECT.to_owned())
}

/// Whether it is refused, with words that hold this.
fn refused(result: &Result<String, Unverified>, because: &str) -> bool {
    matches!(result, Err(Unverified::Refused(words)) if words.contains(because))
}

fn unavailable(result: &Result<String, Unverified>) -> bool {
    matches!(result, Err(Unverified::Unavailable(_)))
}

#[test]
fn settings_that_cannot_be_used_are_told() {
    let dir = tempfile::tempdir().expect("there is a place for files");
    let build = |set: &dyn Fn(&mut Settings)| {
        let mut settings = settings(dir.path());
        set(&mut settings);
        ServiceAccounts::new(settings, Arc::new(SystemClock)).map(|accounts| format!("{accounts:?}"))
    };
    assert!(build(&|_| {}).is_ok(), "no file has to be there yet");
    for url in ["", "file:///jwks", "https://", "https://a:b@example.org/", "https://example.org/#a"] {
        let keys = build(&|settings| settings.issuers[0].keys = KeySource::Url(url.to_owned()));
        assert_eq!(keys.err(), Some(BuildError::Url("keys")), "{url}");
        let review = build(&|settings| settings.review = Some(url.to_owned()));
        assert_eq!(review.err(), Some(BuildError::Url("TokenReview API")), "{url}");
    }
    let missing = build(&|settings| settings.ca_file = Some(dir.path().join("ca.crt")));
    assert!(matches!(missing, Err(BuildError::CaFile(words)) if words.contains("does not exist")));
    fs::write(dir.path().join("ca.crt"), "nothing").expect("it can be written");
    let empty = build(&|settings| settings.ca_file = Some(dir.path().join("ca.crt")));
    assert!(matches!(empty, Err(BuildError::CaFile(words)) if words.contains("without a certificate")));
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
