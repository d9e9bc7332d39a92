//! What callers and operators see when the broker itself breaks.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use token_broker::{
    app::{App, Listeners, StopSignal},
    client::Client,
    clock::{Clock, Moment, SystemClock},
    config::{self, Hits},
    secret::Secret,
    telemetry::{audit::Audit, traces::Span},
    user::UserKey,
    vault::{Grant, SignIn, SigningIn},
};
use tokio::net::TcpListener;
use tonic::Code;

use crate::support::{MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, http, process::written, user};

/// A vault and a clock; with the first sign-in one of them breaks, once.
#[derive(Debug)]
struct Breaks {
    /// The so manieth time that the clock is read after the vault's answer; 0: the sign-in itself.
    at: usize,
    /// What is left of that; 0: the clock does not break.
    readings: AtomicUsize,
    broke: AtomicBool,
}

impl SignIn for Breaks {
    fn sign_in<'a>(&'a self, _user: &'a UserKey, _password: &'a Secret, _: &'a Span) -> SigningIn<'a> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if !self.broke.swap(true, Ordering::Relaxed) {
                assert!(self.at > 0, "a panic with {PASSWORD} in its text");
                self.readings.store(self.at, Ordering::Relaxed);
            }
            let lifetime = Duration::from_secs(60);
            Ok(Grant { access_token: Secret::from("sound"), scope: String::new(), lifetime, lifetime_is_bounded: false })
        })
    }
}

impl Clock for Breaks {
    fn now(&self) -> Moment {
        let readings = self.readings.load(Ordering::Relaxed);
        self.readings.store(readings.saturating_sub(1), Ordering::Relaxed);
        assert!(readings != 1, "a panic with {PASSWORD} in its text");
        SystemClock.now()
    }
}

/// Has a flight break, and looks at what its waiters, those who come later and the metrics get.
async fn check(path: &Path, audit: Audit, at: usize) {
    let config = config::load(path).expect("is in order").config;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let admin = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let metrics = admin.local_addr().expect("is bound").to_string();
    let client = Client::new(&format!("http://{}", listener.local_addr().expect("is bound"))).expect("is an endpoint");
    let breaks = Arc::new(Breaks { at, readings: AtomicUsize::new(0), broke: AtomicBool::new(false) });
    let app = App::with_sign_in(config, audit, breaks.clone(), breaks, 1).expect("can be wired");
    let listeners = Listeners { grpc: vec![listener], admin: vec![admin], ..Listeners::default() };
    let stop = StopSignal::default();
    tokio::spawn(app.run(listeners, stop.clone()));

    let (a, b) = tokio::join!(client.token(MERCHANT, NUMBER), client.token(MERCHANT, NUMBER));
    for error in [a, b] {
        let said = Said::of(error.expect_err("it panicked"));
        said.check(Code::Internal, "INTERNAL");
        assert!(!format!("{said:?}").contains(PASSWORD), "{said:?}");
    }
    let token = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(token) = client.token(MERCHANT, NUMBER).await {
                return token;
            }
        }
    });
    assert_eq!(token.await.expect("it heals").access_token, "sound");
    let metrics = http(&metrics, "/metrics").await;
    for result in ["broken", "granted"] {
        let line = format!("sign_ins_total{{merchant_id=\"{MERCHANT}\",result=\"{result}\"}} 1\n");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    stop.begin.cancel();
}

#[tokio::test]
async fn a_flight_that_breaks_frees_its_waiters_tells_of_its_sign_in_and_heals() {
    let (files, path) = written(&format!("[vault]\nbase_url = \"http://127.0.0.1:1\"\n{}", user(NUMBER, PASSWORD)));
    let trail = files.path().join("trail.jsonl");
    let audit = Audit::in_file(&trail, Hits::Each).expect("is opened");
    let flights = 3;
    for at in 0..flights {
        check(&path, audit.clone(), at).await;
    }
    let sign_ins = |text: &str, what: &str| {
        text.lines().filter(|line| line.contains("\"event\":\"sign_in\"") && line.contains(what)).count()
    };
    // The last of them is the last that was recorded.
    let whole = async {
        loop {
            let text = fs::read_to_string(&trail).expect("is text");
            if sign_ins(&text, "\"verdict\":\"granted\"") == flights {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let trail = tokio::time::timeout(PATIENCE, whole).await.expect("the trail is written");
    assert_eq!(sign_ins(&trail, "\"verdict\":\"failed\""), flights, "{trail}");
    assert!(!trail.contains(PASSWORD), "{trail}");
}
