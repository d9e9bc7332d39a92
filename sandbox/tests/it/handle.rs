//! The counters, waiting for them, what was seen, and the life of connections.

use std::{io::ErrorKind, time::Duration};

use token_broker_sandbox::{Fault, MAX_SEEN, Options, Sandbox, Stats};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::raw::{End, FORM, NUMBER, PATIENCE, Request, drain, sandbox, sign_in};

#[tokio::test]
async fn sign_ins_at_once_are_counted_when_read_and_when_answered() {
    const CALLERS: u64 = 50;
    let sandbox = sandbox().await;
    sandbox.set_always(Some(Fault::Hang));
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(Request::sign_in(FORM).open(&sandbox).await);
    }
    sandbox.wait_for_sign_ins(CALLERS, PATIENCE).await;
    sandbox.wait_for_sign_ins_of(NUMBER, CALLERS, PATIENCE).await;
    let stats = sandbox.stats();
    assert_eq!((stats.at_once, stats.most_at_once, stats.answered), (CALLERS, CALLERS, 0));
    assert_eq!((stats.connections, stats.connections_now, stats.most_connections), (CALLERS, CALLERS, CALLERS));
    drop(callers);
    sandbox.wait_for("the connections to end", PATIENCE, |stats| stats.connections_now == 0).await;
    sandbox.set_always(None);
    sign_in(&sandbox).await;
    sandbox.wait_for_answers(1, PATIENCE).await;
    sandbox.wait_for("its connection to end", PATIENCE, |stats| stats.connections_now == 0).await;
    let wanted = Stats {
        sign_ins: CALLERS + 1,
        answered: 1,
        abandoned: CALLERS,
        granted: 1,
        faults: CALLERS,
        most_at_once: CALLERS,
        connections: CALLERS + 1,
        most_connections: CALLERS,
        ..Stats::default()
    };
    assert_eq!(sandbox.stats(), wanted);
}

#[tokio::test]
#[should_panic(expected = "for 2 sign-ins in vain; the sandbox counted Stats {\n    sign_ins: 1,")]
async fn waiting_in_vain_says_what_for() {
    let sandbox = sandbox().await;
    sign_in(&sandbox).await;
    sandbox.wait_for_sign_ins(2, Duration::from_millis(20)).await;
}

#[tokio::test]
async fn a_request_that_is_not_complete_does_not_count() {
    let sandbox = sandbox().await;
    let mut stream = TcpStream::connect(sandbox.addr()).await.unwrap();
    stream.write_all(b"POST /oauth/token HTTP/1.1\r\nHost: sandbox\r\nContent-Length: 10\r\n\r\n12345").await.unwrap();
    sandbox.wait_for("the connection", PATIENCE, |stats| stats.connections_now == 1).await;
    // The sandbox has only one thread here, so this one's answer comes after the half request was met.
    sign_in(&sandbox).await;
    assert_eq!(sandbox.sign_ins(), 1);
    stream.write_all(b"67890").await.unwrap();
    sandbox.wait_for_sign_ins(2, PATIENCE).await;
}

#[tokio::test]
async fn what_was_seen_is_kept_as_it_came_but_never_printed() {
    let sandbox = sandbox().await;
    let mut request = Request::sign_in("grant_type=mobile_phone&number=%2B447871239999&password=+S3cret%20+");
    request.path = "/oauth/token?a=b".to_owned();
    request.header("Authorization", "Basic c2VjcmV0").header("User-Agent", "test/1").send(&sandbox).await;
    let seen = sandbox.requests().remove(0);
    assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.query.as_deref()), ("POST", "/oauth/token", Some("a=b")));
    assert_eq!((seen.header("USER-AGENT"), seen.header("authorization")), (Some("test/1"), Some("Basic c2VjcmV0")));
    assert_eq!((seen.field("number"), seen.field("password"), seen.field("nothing")), (Some(NUMBER), Some(" S3cret  "), None));
    assert_eq!(&seen.body[..], b"grant_type=mobile_phone&number=%2B447871239999&password=+S3cret%20+");
    let printed = format!("{seen:?} {seen:#?} {sandbox:?}");
    assert!(printed.contains("test/1") && !printed.contains("S3cret") && !printed.contains("c2Vj"), "{printed}");
    assert!(!format!("{:?}", Options::default()).contains("Qwerty"));
}

#[tokio::test]
async fn only_the_last_thousand_sign_ins_are_kept() {
    let sandbox = sandbox().await;
    let mut stream = TcpStream::connect(sandbox.addr()).await.unwrap();
    let extra = 5;
    for n in 0..MAX_SEEN + extra {
        let body = format!("n={n}");
        let request = format!("POST /oauth/token HTTP/1.1\r\nHost: sandbox\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        sandbox.wait_for_answers(n as u64 + 1, PATIENCE).await;
    }
    let seen = sandbox.requests();
    assert_eq!(seen.len(), MAX_SEEN);
    assert_eq!(&seen[0].body[..], format!("n={extra}").as_bytes());
    assert_eq!(sandbox.stats().connections, 1, "all on one connection");
}

#[tokio::test]
async fn connections_are_closed_on_demand_and_new_ones_are_welcome() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::Hang);
    let mut idle = TcpStream::connect(sandbox.addr()).await.unwrap();
    let mut busy = Request::sign_in(FORM).open(&sandbox).await;
    sandbox.wait_for("both", PATIENCE, |stats| stats.connections_now == 2 && stats.at_once == 1).await;
    sandbox.restart_connections();
    for stream in [&mut idle, &mut busy] {
        assert_eq!(drain(stream).await.bytes, b"");
    }
    sandbox.wait_for("none", PATIENCE, |stats| stats.connections_now == 0 && stats.abandoned == 1).await;
    assert_eq!(sign_in(&sandbox).await.status(), 200);
}

#[tokio::test]
async fn once_stopped_the_port_is_free_and_nobody_is_left_waiting() {
    let sandbox = sandbox().await;
    sandbox.script(Fault::Hang);
    let mut busy = Request::sign_in(FORM).open(&sandbox).await;
    sandbox.wait_for_sign_ins(1, PATIENCE).await;
    tokio::time::timeout(PATIENCE, sandbox.stop()).await.unwrap();
    assert_eq!(drain(&mut busy).await.end, End::Closed);
    assert_eq!(TcpStream::connect(sandbox.addr()).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(sandbox.stats().connections_now, 0);
    tokio::time::timeout(PATIENCE, sandbox.stop()).await.unwrap();

    // Another can take its place, also on a listener that somebody else has bound.
    let next = Sandbox::serve(TcpListener::bind(sandbox.addr()).await.unwrap(), Options::default()).await.unwrap();
    assert_eq!((next.url(), sign_in(&next).await.status()), (sandbox.url(), 200));
}

#[tokio::test]
async fn a_dropped_sandbox_closes_its_connections() {
    let sandbox = sandbox().await;
    let mut idle = TcpStream::connect(sandbox.addr()).await.unwrap();
    sandbox.wait_for("it", PATIENCE, |stats| stats.connections_now == 1).await;
    let addr = sandbox.addr();
    drop(sandbox);
    assert_eq!(drain(&mut idle).await.bytes, b"");
    assert_eq!(TcpStream::connect(addr).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// 2,000 connections at once need 4,000 descriptors in this one process; where the limit is lower, as many as it allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_at_once_are_served() {
    let sandbox = std::sync::Arc::new(sandbox().await);
    let limit = std::fs::read_to_string("/proc/self/limits").ok();
    let files = limit
        .and_then(|text| text.lines().find(|line| line.starts_with("Max open files"))?.split_whitespace().nth(3)?.parse().ok());
    let count = 2_000_u64.min((files.unwrap_or(1_024_u64) - 200) / 2);
    sandbox.set_always(Some(Fault::truth().after(Duration::from_millis(50))));
    let mut callers = JoinSet::new();
    for _ in 0..count {
        let sandbox = std::sync::Arc::clone(&sandbox);
        callers.spawn(async move {
            let mut stream = Request::sign_in(FORM).open(&sandbox).await;
            let mut start = [0; 15];
            stream.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200 OK");
            stream
        });
    }
    let streams = callers.join_all().await;
    let stats = sandbox.stats();
    assert_eq!((stats.granted, stats.connections, stats.most_connections), (count, count, count));
    drop(streams);
    sandbox.wait_for("all to end", PATIENCE, |stats| stats.connections_now == 0).await;
}
