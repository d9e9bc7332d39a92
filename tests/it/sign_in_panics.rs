//! What callers see when the broker itself breaks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use token_broker::{
    app::{App, Listeners, Stop},
    client::Client,
    clock::SystemClock,
    config,
    secret::Secret,
    telemetry::{audit::Audit, traces::Context},
    user::UserKey,
    vault::{Grant, SignIn, SigningIn},
};
use tokio::net::TcpListener;
use tonic::Code;

use crate::support::{MERCHANT, NUMBER, PASSWORD, PATIENCE, Said, process::written, user};

#[derive(Debug, Default)]
struct Breaks(AtomicBool);

impl SignIn for Breaks {
    fn sign_in<'a>(&'a self, _user: &'a UserKey, _password: &'a Secret, _: Option<Context>) -> SigningIn<'a> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(self.0.load(Ordering::Relaxed), "a panic with {PASSWORD} in its text");
            let lifetime = Duration::from_secs(60);
            Ok(Grant { access_token: Secret::from("sound"), scope: String::new(), lifetime, lifetime_is_bounded: false })
        })
    }
}

#[tokio::test]
async fn a_sign_in_that_panics_frees_its_waiters_with_internal_and_heals() {
    let (_files, path) = written(&format!("[vault]\nbase_url = \"http://127.0.0.1:1\"\n{}", user(NUMBER, PASSWORD)));
    let config = config::load(&path).expect("is in order").config;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = Client::new(&format!("http://{}", listener.local_addr().expect("is bound"))).expect("is an endpoint");
    let sign_in = Arc::new(Breaks::default());
    let app = App::with_sign_in(config, Audit::default(), sign_in.clone(), Arc::new(SystemClock), 1).expect("can be wired");
    let (stop, listeners) = (Stop::default(), Listeners { grpc: vec![listener], ..Listeners::default() });
    tokio::spawn(app.run(listeners, stop.clone()));

    let (a, b) = tokio::join!(client.token(MERCHANT, NUMBER), client.token(MERCHANT, NUMBER));
    for error in [a, b] {
        let said = Said::of(error.expect_err("it panicked"));
        said.check(Code::Internal, "INTERNAL");
        assert!(!format!("{said:?}").contains(PASSWORD), "{said:?}");
    }
    sign_in.0.store(true, Ordering::Relaxed);
    let token = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(token) = client.token(MERCHANT, NUMBER).await {
                return token;
            }
        }
    });
    assert_eq!(token.await.expect("it heals").access_token, "sound");
    stop.begin.cancel();
}
