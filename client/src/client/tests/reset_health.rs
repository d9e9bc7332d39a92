//! A replica that resets what it is asked about its health, while a call waits there.

use std::{
    convert::Infallible,
    future::pending,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::*;

/// Leaves calls without an answer, and answers one question about its health; later ones it resets.
async fn serve(listener: TcpListener, asked: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let asked = Arc::clone(&asked);
        let service = service_fn(move |request: Request<Incoming>| {
            let asked = Arc::clone(&asked);
            async move {
                if !request.uri().path().contains("Health") {
                    pending::<Infallible>().await;
                }
                if asked.fetch_add(1, Ordering::Relaxed) > 0 {
                    return Err(std::io::Error::other("reset"));
                }
                let answer = Response::builder().header("content-type", "application/grpc").header("grpc-status", "12");
                answer.body(String::new()).map_err(std::io::Error::other)
            }
        });
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
    }
}

#[tokio::test]
async fn a_word_that_is_over_is_not_asked_for_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("is bound"));
    let asked = Arc::<AtomicUsize>::default();
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener, Arc::clone(&asked)));
    let broker = Client::balanced(&url, Security::default()).expect("is an endpoint").timeout(Duration::from_secs(3));
    let error = broker.token("m", "+447871239999").await.expect_err("nobody answers");
    assert_eq!(error.status().map(Status::code), Some(Code::DeadlineExceeded), "{error}");
    assert!(asked.load(Ordering::Relaxed) > 1, "it was asked while the call waited");
}
