//! `POST /oauth/token`: takes a sign-in down, waits as told, and deals its fault or the truth.
//!
//! Must never judge a sign-in whose fault replaces the judgement, nor leave one unjudged because its caller went away.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode, header::HeaderValue};

use crate::{
    body::{Delivery, ReplyBody},
    clock,
    core::{Core, InFlight},
    fault::Fault,
    seen::Seen,
    shapes::Answer,
    wire::{Cut, Ending},
};

/// How a JSON body without end begins.
const ENDLESS_START: &str = r#"{"token_type":"bearer","access_token":""#;

/// Turns a request that was read to its end into what the script and the rules look at.
pub(crate) fn seen(request: &Request<()>, body: Bytes) -> Seen {
    let headers = request.headers().iter();
    Seen {
        at: clock::mono(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().map(str::to_owned),
        headers: headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        form: form_urlencoded::parse(&body).into_owned().collect(),
        body,
    }
}

/// Answers a sign-in.
pub(crate) async fn sign_in(core: &Arc<Core>, ending: Arc<Ending>, request: Seen) -> Result<Response<ReplyBody>, Cut> {
    let (flight, delay, fault) = core.begin(request.clone());
    let (more, fault) = fault.unwrap_or_else(Fault::truth).unfold();
    let mut verdict = Pending { core, request: needs_the_truth(&fault).then_some(request.clone()) };
    let wait = delay.saturating_add(more);
    if wait > Duration::ZERO {
        tokio::time::sleep(wait).await;
    }
    let (answer, delivery) = match fault {
        Fault::Reply(reply) => {
            let delivery = reply.drip().map_or(Delivery::Whole, |(bytes, every)| Delivery::Drip(bytes, every));
            (Some(reply.over(verdict.take())), delivery)
        }
        Fault::Drip { bytes, every } => (verdict.take(), Delivery::Drip(bytes, every)),
        Fault::ResetMidBody => (verdict.take(), Delivery::Half { reset: true }),
        Fault::CloseMidBody => (verdict.take(), Delivery::Half { reset: false }),
        Fault::Endless => {
            let mut answer = Answer::json(StatusCode::OK, &serde_json::Value::Null);
            answer.body = Bytes::from_static(ENDLESS_START.as_bytes());
            (Some(answer), Delivery::Endless)
        }
        Fault::Hang => std::future::pending().await,
        Fault::Reset => {
            ending.reset();
            (None, Delivery::Whole)
        }
        // `unfold` has left no `After`.
        Fault::Close | Fault::After { .. } => (None, Delivery::Whole),
    };
    let Some(answer) = answer else {
        flight.finish();
        return Err(Cut);
    };
    Ok(reply(core, flight, answer, delivery, ending, &request.method))
}

fn needs_the_truth(fault: &Fault) -> bool {
    match fault {
        Fault::Reply(reply) => reply.needs_the_truth(),
        Fault::Drip { .. } | Fault::ResetMidBody | Fault::CloseMidBody => true,
        Fault::Reset | Fault::Close | Fault::Endless | Fault::Hang | Fault::After { .. } => false,
    }
}

fn reply(
    core: &Core,
    flight: InFlight,
    answer: Answer,
    delivery: Delivery,
    to: Arc<Ending>,
    method: &Method,
) -> Response<ReplyBody> {
    let silent = method == Method::HEAD || matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let request_id = HeaderValue::try_from(core.state().vault.request_id());
    let mut response = Response::new(ReplyBody::of(flight, answer.body, delivery, to, silent));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    if let Ok(id) = request_id {
        response.headers_mut().entry("x-request-id").or_insert(id);
    }
    response
}

/// A sign-in that the vault has yet to judge. It does so even if the caller goes away meanwhile: the vault wouldn't notice.
struct Pending<'a> {
    core: &'a Core,
    request: Option<Seen>,
}

impl Pending<'_> {
    fn take(&mut self) -> Option<Answer> {
        self.request.take().map(|request| self.core.judge(&request))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
