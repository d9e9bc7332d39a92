//! As a layer.

use std::{
    convert::Infallible,
    future::{Ready, poll_fn, ready},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body as _;
use tower_layer::Layer as _;
use tower_service::Service;

use super::*;

#[derive(Clone)]
struct Api(Arc<World>);

impl Service<Request<String>> for Api {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let takes = self.0.takes(&request.uri().to_string(), request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes));
        let (status, body) = if takes { (200, request.into_body()) } else { (401, BODY.to_owned()) };
        ready(Ok(Response::builder().status(status).body(body).expect("is one")))
    }
}

/// Status and body of an answer to `hello`.
async fn send(world: &Arc<World>, uri: &str, header: Option<&str>, replay: fn(&String) -> Option<String>) -> (u16, String) {
    let mut service = world.bearer("https://api.example.org").layer(replay).layer(Api(Arc::clone(world)));
    let mut request = Request::builder().uri(uri);
    if let Some(header) = header {
        request = request.header(AUTHORIZATION, header);
    }
    let answer = service.call(request.body("hello".to_owned()).expect("is one")).await.expect("is answered");
    let (head, mut body) = answer.into_parts();
    let mut text = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        text.extend_from_slice(&frame.expect("is whole").into_data().expect("is data"));
    }
    (head.status.as_u16(), String::from_utf8(text).expect("is text"))
}

#[tokio::test(start_paused = true)]
async fn a_token_goes_to_its_origin_and_nowhere_else() {
    for (uri, header, wanted) in [
        ("https://api.example.org/a", None, Some("Bearer t0")),
        ("https://api.example.org:443/a", None, Some("Bearer t0")),
        ("http://api.example.org/a", None, None),
        ("https://api.example.org:8443/a", None, None),
        ("https://evil.example/api.example.org", None, None),
        ("https://api.example.org@evil.example/", None, None),
        ("https://api.example.org/a", Some("Basic its own"), Some("Basic its own")),
        ("https://evil.example/", Some("Basic its own"), Some("Basic its own")),
    ] {
        let world = World::new(&[], false);
        assert_eq!(send(&world, uri, header, |_| None).await, (200, "hello".to_owned()));
        assert_eq!(world.seen(), [wanted.map(str::to_owned)], "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_carried_elsewhere_is_taken_off() {
    let world = World::new(&[], false);
    let bearer = world.bearer("https://api.example.org");
    let mut service = bearer.layer(|_: &String| None).layer(Api(Arc::clone(&world)));
    for uri in ["https://api.example.org", "https://evil.example"] {
        let request = Request::builder().uri(uri).header("x", "y");
        let carried = if uri.contains("evil") { request.header(AUTHORIZATION, "Bearer t0") } else { request };
        service.call(carried.body(String::new()).expect("is one")).await.expect("is answered");
    }
    assert_eq!(world.seen(), [Some("Bearer t0".to_owned()), None]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_is_complained_of_and_the_request_repeated_once() {
    let api = "https://api.example.org/a";
    let world = World::new(&["t0"], false);
    assert_eq!(send(&world, api, None, |body| Some(body.clone())).await, (200, "hello".to_owned()));
    assert_eq!(world.seen(), bearers(&["t0", "t1"]));

    let world = World::new(&["t0", "t1", "t2"], false);
    assert_eq!(send(&world, api, None, |body| Some(body.clone())).await, (401, BODY.to_owned()));
    assert_eq!(world.seen(), bearers(&["t0", "t1"]), "once");

    let world = World::new(&["t0"], false);
    assert_eq!(send(&world, api, None, |_| None).await, (401, BODY.to_owned()), "it can't be sent again");
    assert_eq!((world.seen(), *world.calls.lock().expect("no panic")), (bearers(&["t0"]), 1));

    let world = World::new(&["t0"], true);
    assert_eq!(send(&world, api, None, |body| Some(body.clone())).await, (401, BODY.to_owned()), "the vault insists on it");
    assert_eq!(world.seen(), bearers(&["t0"]));
}
