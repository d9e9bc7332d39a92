//! As a middleware of reqwest's, over real sockets.

use std::io;

use reqwest_middleware::ClientBuilder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;

/// Answers one request: `/away?URL` leads elsewhere, all else is the API.
async fn answer(world: Arc<World>, mut stream: TcpStream) -> io::Result<()> {
    let mut text = Vec::new();
    while !text.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut text).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default();
    let header = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let place = format!("{}{path}", header("host").unwrap_or_default());
    let takes = world.takes(&place, header("authorization").as_deref().map(str::as_bytes));
    let (status, more, body) = match path.strip_prefix("/away?") {
        Some(to) => ("302 Found", format!("location: {to}\r\n"), ""),
        None if takes && !path.contains("evil") => ("200 OK", String::new(), "hello"),
        None => ("401 Unauthorized", String::new(), BODY),
    };
    let head = format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await
}

/// Two origins of one server, which serves until the set is dropped.
async fn serve(world: &Arc<World>) -> (String, String, JoinSet<()>) {
    let (mut tasks, mut origins) = (JoinSet::new(), Vec::new());
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        origins.push(format!("http://{}", listener.local_addr().expect("is bound")));
        let world = Arc::clone(world);
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(Arc::clone(&world), stream).await.expect("the client reads");
            }
        });
    }
    let other = origins.pop().expect("are two");
    (origins.pop().expect("are two"), other, tasks)
}

async fn get(world: &Arc<World>, origin: &str, url: &str) -> (u16, String, String) {
    // It is not asked for TLS.
    // Built beside the broker, reqwest has TLS, and no provider of its own; the other tests install the same.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().build().expect("is one");
    let client = ClientBuilder::new(client).with(world.bearer(origin)).build();
    let answer = client.get(url).send().await.expect("is answered");
    let (status, url) = (answer.status().as_u16(), answer.url().to_string());
    #[allow(clippy::disallowed_methods, reason = "the test wrote it")]
    let text = answer.text().await.expect("is text");
    (status, url, text)
}

#[tokio::test]
async fn a_token_goes_to_its_origin_alone_also_across_redirects() {
    let world = World::new(&[], false);
    let (ours, other, _serving) = serve(&world).await;
    assert_eq!(get(&world, &ours, &format!("{ours}/a")).await, (200, format!("{ours}/a"), "hello".to_owned()));
    assert_eq!(get(&world, &ours, &format!("{other}/a")).await.0, 200);
    assert_eq!(world.seen(), [Some("Bearer t0".to_owned()), None]);

    // What the other says of a token that it was not shown does nothing.
    let world = World::new(&[], false);
    let (ours, other, _serving) = serve(&world).await;
    assert_eq!(get(&world, &ours, &format!("{ours}/away?{other}/evil")).await.0, 401);
    assert_eq!((world.seen(), *world.calls.lock().expect("no panic")), (vec![Some("Bearer t0".to_owned()), None], 1));
}

#[tokio::test]
async fn a_dead_token_is_complained_of_and_the_request_repeated_once() {
    let world = World::new(&["t0"], false);
    let (ours, _, _serving) = serve(&world).await;
    assert_eq!(get(&world, &ours, &format!("{ours}/a")).await.2, "hello");
    assert_eq!(world.seen(), bearers(&["t0", "t1"]));

    let world = World::new(&["t0", "t1", "t2"], false);
    let (ours, _, _serving) = serve(&world).await;
    let url = format!("{ours}/a");
    assert_eq!(get(&world, &ours, &url).await, (401, url, BODY.to_owned()), "as the API said");
    assert_eq!(world.seen(), bearers(&["t0", "t1"]), "once");

    let world = World::new(&["t0"], true);
    let (ours, _, _serving) = serve(&world).await;
    let url = format!("{ours}/a");
    assert_eq!(get(&world, &ours, &url).await, (401, url, BODY.to_owned()), "all of it is there still");
    assert_eq!(world.seen(), bearers(&["t0"]));
}
