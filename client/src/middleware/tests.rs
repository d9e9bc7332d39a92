//! Who gets a token, and what a 401 does.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{Ask, Asking, jitter::Jitter, proto::v1};

use super::*;

#[cfg(feature = "reqwest-middleware")]
mod over_reqwest;
#[cfg(feature = "tower")]
mod over_tower;

const BODY: &str = r#"{"error":"invalid_token","systemId":"core","errorId":0,"message":"Access token expired"}"#;

/// A broker whose tokens are named by how many there were, and the API that takes them.
#[derive(Default)]
struct World {
    calls: Mutex<usize>,
    /// Those that the API takes no more.
    dead: Mutex<HashSet<String>>,
    /// Where requests went, and with which `Authorization`.
    seen: Mutex<Vec<(String, Option<String>)>>,
    /// The broker gives the same token again.
    insists: bool,
}

#[derive(Clone)]
struct Broker(Arc<World>);

impl Ask for Broker {
    fn ask<'a>(&'a self, _user: &'a User, _rejected: Vec<String>) -> Asking<'a> {
        Box::pin(async move {
            let mut calls = self.0.calls.lock().expect("no panic");
            let id = if self.0.insists { "t0".to_owned() } else { format!("t{calls}") };
            *calls += 1;
            let expires_in = Some(prost_types::Duration { seconds: 600, nanos: 0 });
            Ok(v1::Token { access_token: id.clone(), token_id: id, expires_in, ..v1::Token::default() })
        })
    }
}

impl World {
    fn new(dead: &[&str], insists: bool) -> Arc<Self> {
        let dead = Mutex::new(dead.iter().map(|id| format!("Bearer {id}")).collect());
        Arc::new(Self { dead, insists, ..Self::default() })
    }

    fn bearer(self: &Arc<Self>, origin: &str) -> Bearer {
        let source =
            TokenSource::over(Box::new(Broker(Arc::clone(self))), Duration::from_secs(9), Handle::current(), Jitter::new(7));
        Bearer::new(source).user(User::new("m", "+447871239999")).origin(origin).expect("is one")
    }

    /// Notes a request; whether the API takes its token.
    fn takes(&self, place: &str, authorization: Option<&[u8]>) -> bool {
        let authorization = authorization.map(|value| String::from_utf8_lossy(value).into_owned());
        let dead = authorization.as_ref().is_some_and(|value| self.dead.lock().expect("no panic").contains(value));
        self.seen.lock().expect("no panic").push((place.to_owned(), authorization));
        !dead
    }

    fn seen(&self) -> Vec<Option<String>> {
        self.seen.lock().expect("no panic").iter().map(|(_, authorization)| authorization.clone()).collect()
    }
}

fn bearers(ids: &[&str]) -> Vec<Option<String>> {
    ids.iter().map(|id| Some(format!("Bearer {id}"))).collect()
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    let of = |uri: &str| uri.parse().ok().as_ref().and_then(Origin::of);
    assert_eq!(of("https://API.example.org/a"), of("https://api.example.org:443"));
    for other in ["http://api.example.org", "https://api.example.org:8443", "https://example.org", "https://api.example.org.evil"]
    {
        assert_ne!(of("https://api.example.org"), of(other), "{other}");
    }
    assert!(of("/path").is_none() && of("ftp://api.example.org").is_none());
}

#[path = "../../examples/documentation/bearer.rs"]
#[allow(unreachable_pub, reason = "it stands in the documentation")]
mod example;

/// That of the documentation, too.
#[test]
fn an_origin_is_good_or_its_fault_is_told() {
    let bearer = example::bearer("http://127.0.0.1:50051").expect("is well told");
    for origin in ["https://a.example.org:99999", "https://a.example.org:b", "ftp://a.example.org", "a.example.org", ""] {
        let fault = bearer.clone().origin(origin).expect_err(origin).to_string();
        assert!(fault.contains(&format!("{origin:?}")) && fault.contains("up to 65535"), "{fault}");
    }
}

#[test]
fn only_what_says_so_is_dead() {
    let with = |value: &'static str| HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(value))]);
    assert!(is_dead(&HeaderMap::new(), BODY.as_bytes()));
    assert!(is_dead(&with(r#"Bearer realm="api", error="invalid_token""#), b""));
    assert!(!is_dead(&with("Bearer"), br#"{"error":"insufficient_scope"}"#));
}
