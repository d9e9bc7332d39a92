//! Handshakes that stop, and connections that are old.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::support::{
    Bare, PATIENCE, Setting,
    authority::{Authority, Name},
    secured::{CARDS, ask, caller, secured},
};

#[tokio::test]
async fn a_connection_ends_at_its_age_and_no_call_with_it() {
    let setting = Setting { grpc: "lame_duck = \"0s\"\nmax_connection_age = \"1s\"\n".to_owned(), ..Setting::default() };
    let stage = setting.start().await;
    let began = Instant::now();
    let mut bare = Bare::connect(&stage.endpoint).await;
    let aged = async {
        use tower_service::Service as _;
        while bare.call(http::Request::new(tonic::body::Body::empty())).await.is_ok() {
            stage.good_token().await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, aged).await.expect("it ends");
    let age = began.elapsed();
    assert!(age > Duration::from_millis(850), "{age:?}");
    stage.good_token().await;
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_cut_off() {
    use tokio::io::AsyncReadExt as _;
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = []")).await;
    let mut silent = tokio::net::TcpStream::connect(stage.endpoint.trim_start_matches("http://")).await.expect("it listens");
    let began = Instant::now();
    let read = timeout(PATIENCE, silent.read(&mut [0])).await.expect("it does not wait for ever");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}: a slow client has its time", began.elapsed());
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_from_shaking_hands() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let address = stage.endpoint.trim_start_matches("http://");
    let mut silent = Vec::new();
    // More than may shake hands at once.
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(address).await.expect("it listens"));
    }
    let began = Instant::now();
    ask(&stage, &ca, Some(&ca.client(&[Name::Uri(CARDS)]))).await.expect("it may");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
