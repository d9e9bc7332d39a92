//! The port: accepts connections and finds each request its endpoint.
//!
//! Must never end because of one connection, nor leave any open once the sandbox has stopped.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    body::ReplyBody,
    clock, control,
    core::{Core, Open},
    oauth,
    shapes::Answer,
    vault::{self, Bearer},
    wire::{Cut, Ending, Wire},
};

/// The longest body that is read. A sign-in has about 100 bytes; a script of faults may be longer.
const MAX_BODY: usize = 256 * 1024;

/// After a failed accept, as when no file descriptor is left: long enough not to spin, short enough to go unnoticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves until told to stop; then the port is closed first, the connections next.
pub(crate) async fn run(listener: TcpListener, core: Arc<Core>) {
    let mut stop = core.stop.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Subscribed here, so that a connection which was accepted before a hang-up hears of it.
                    let hang_up = core.hang_up.subscribe();
                    connections.spawn(connection(stream, Open::new(Arc::clone(&core)), hang_up, Arc::clone(&core)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
    core.stopped.send_replace(true);
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle and all else that holds `core` are gone, which is an end too.
    stop.wait_for(|stop| *stop).await.ok();
}

async fn connection(stream: TcpStream, open: Open, mut hang_up: watch::Receiver<u64>, core: Arc<Core>) {
    // Without it a dripping body would be sent in other pieces than scripted. A peer that is gone is noticed soon enough.
    stream.set_nodelay(true).ok();
    let ending = Arc::<Ending>::default();
    let wire = Wire { stream, ending: Arc::clone(&ending) };
    let served = async {
        match &core.tls {
            None => serve(wire, ending, &core).await,
            Some(tls) => {
                // Whoever speaks no TLS here, or doesn't trust the certificate, is gone.
                let Ok(stream) = tls.acceptor().accept(wire).await else { return };
                serve(stream, ending, &core).await;
            }
        }
    };
    tokio::select! {
        () = served => {}
        _ = hang_up.changed() => {}
    }
    drop(open);
}

/// How a connection ends is the client's affair, or was scripted.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, ending: Arc<Ending>, core: &Arc<Core>) {
    let service = service_fn(move |request| {
        let (core, ending) = (Arc::clone(core), Arc::clone(&ending));
        async move { route(&core, ending, request).await }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn route(core: &Arc<Core>, ending: Arc<Ending>, request: Request<Incoming>) -> Result<Response<ReplyBody>, Cut> {
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, ());
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        let mut response = plain(Answer::spring(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "The body can't be read"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Ok(response);
    };
    let body: Bytes = body.to_bytes();
    let path = request.uri().path();
    let answer = match path {
        "/oauth/token" => return oauth::sign_in(core, ending, oauth::seen(&request, body)).await,
        "/signout" => sign_out(core, &request),
        "/v1/customer" => customer(core, &request),
        _ => match path.strip_prefix("/_sandbox/") {
            Some(rest) => control::answer(core, request.method(), rest, &body),
            None => {
                core.count(|stats| stats.unknown_paths += 1);
                Answer::json(StatusCode::NOT_FOUND, &json!({ "status": 404, "error": "Not Found", "path": path }))
            }
        },
    };
    Ok(plain(answer))
}

/// `POST /signout`: the token of the header stops working.
fn sign_out(core: &Core, request: &Request<()>) -> Answer {
    if request.method() != Method::POST {
        return vault::method_not_allowed(request.method(), "POST");
    }
    match core.state().vault.bearer(authorization(request), clock::wall()) {
        Bearer::Dead(answer) => return answer,
        Bearer::Live { .. } => {}
    }
    let token = authorization(request).and_then(|value| value.split_once(' ')).map(|(_, token)| token);
    if token.is_some_and(|token| core.state().vault.revoke(token)) {
        core.count(|stats| stats.signouts += 1);
    }
    Answer::json(StatusCode::OK, &json!({}))
}

/// `GET /v1/customer`: stands for whatever the vault's callers use their token for.
fn customer(core: &Core, request: &Request<()>) -> Answer {
    if request.method() != Method::GET {
        return vault::method_not_allowed(request.method(), "GET");
    }
    let bearer = core.state().vault.bearer(authorization(request), clock::wall());
    core.count(|stats| {
        stats.resource_calls += 1;
        stats.resource_401 += u64::from(matches!(bearer, Bearer::Dead(_)));
    });
    match bearer {
        Bearer::Live { number } => Answer::json(StatusCode::OK, &json!({ "number": &*number, "status": "ACTIVE" })),
        Bearer::Dead(answer) => answer,
    }
}

fn authorization(request: &Request<()>) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()
}

fn plain(answer: Answer) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::plain(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
