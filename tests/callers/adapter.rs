//! The Rust client crate under the conformance suite: commands as JSON lines on standard input, an answer to each on standard output.
//!
//! It must never wait with a command for another: each is begun as it is read, and answered when it is done.

#![allow(clippy::disallowed_methods, reason = "the wall clock is what `held_until` is printed by")]

use std::{
    collections::HashMap,
    io::{self, BufRead as _, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use prost_types::Timestamp;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use serde_json::{Map, Value, json};
use token_broker_client::{ClientError, Identity, Token, TokenSource, User, middleware::Bearer};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

/// How an answer ends: with what was asked for, or with an error.
type Answer = Result<Value, Value>;

#[derive(Default)]
struct State {
    source: Option<TokenSource>,
    /// By their names, so that they can be complained of.
    tokens: HashMap<String, Token>,
}

type Shared = Arc<Mutex<State>>;

/// Counts what goes out behind the middleware.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU64>);

#[tonic::async_trait]
impl Middleware for Counting {
    async fn handle(&self, request: Request, more: &mut Extensions, next: Next<'_>) -> reqwest_middleware::Result<Response> {
        self.0.fetch_add(1, Ordering::Relaxed);
        next.run(request, more).await
    }
}

fn fault(error: &ClientError) -> Value {
    let code = error.status().map(|status| screaming(&format!("{:?}", status.code())));
    let fields = error.field_violations();
    let fields: Vec<_> = fields.iter().map(|(field, description)| json!({"field": field, "description": description})).collect();
    json!({
        "kind": if code.is_some() { "broker" } else { "configuration" },
        "code": code,
        "reason": error.reason().map(|reason| reason.as_str()),
        "retry_after_seconds": error.retry_after().map(|wait| wait.as_secs_f64()),
        "held_until": error.held_until().map(|until| Timestamp::from(until).to_string()),
        "request_id": error.request_id(),
        "fields": fields,
        "is_temporary": error.is_temporary(),
        "text": error.in_words(),
    })
}

/// A code's name as gRPC writes it.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}

fn text<'c>(command: &'c Map<String, Value>, name: &str) -> &'c str {
    command.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn user(command: &Map<String, Value>) -> User {
    User::new(text(command, "merchant_id"), text(command, "number"))
}

fn open(command: &Map<String, Value>) -> Result<TokenSource, ClientError> {
    let mut builder = TokenSource::builder();
    for endpoint in command.get("endpoints").and_then(Value::as_array).into_iter().flatten() {
        builder = builder.endpoint(endpoint.as_str().unwrap_or_default());
    }
    let file = |name| command.get(name).and_then(Value::as_str);
    if let Some(ca) = file("ca_file") {
        builder = builder.ca_file(ca);
    }
    if let Some(token) = file("token_file") {
        builder = builder.identity(Identity::token_file(token));
    }
    if let (Some(certificate), Some(key)) = (file("certificate_file"), file("key_file")) {
        builder = builder.identity(Identity::certificate(certificate, key));
    }
    if let Some(seconds) = command.get("timeout_seconds").and_then(Value::as_f64) {
        builder = builder.timeout(Duration::from_secs_f64(seconds));
    }
    builder.build()
}

/// Asks for a token, within the time that the command names, if any.
async fn ask(source: &TokenSource, command: &Map<String, Value>) -> Result<Token, ClientError> {
    let user = user(command);
    let asking = source.token(&user);
    match command.get("timeout_seconds").and_then(Value::as_f64) {
        None => asking.await,
        Some(seconds) => timeout(Duration::from_secs_f64(seconds), asking)
            .await
            .unwrap_or_else(|_late| Err(ClientError::Status(Box::new(tonic::Status::deadline_exceeded("the caller's time"))))),
    }
}

/// A request of the vault's API, as a service makes it: the middleware gives it the token, and repeats it once.
async fn call_vault(source: &TokenSource, command: &Map<String, Value>) -> Answer {
    let (url, user, counting) = (text(command, "url"), user(command), Counting::default());
    let bearer = Bearer::new(source.clone()).user(user.clone()).origin(url).map_err(|error| fault(&error))?;
    let api = ClientBuilder::new(reqwest::Client::new()).with(bearer).with(counting.clone()).build();
    let answer = api.get(url).send().await.map_err(|error| match &error {
        reqwest_middleware::Error::Middleware(within) => {
            within.downcast_ref::<ClientError>().map_or_else(|| json!({"kind": "http", "text": error.to_string()}), fault)
        }
        reqwest_middleware::Error::Reqwest(_) => json!({"kind": "http", "text": error.to_string()}),
    })?;
    let requests = counting.0.load(Ordering::Relaxed);
    if answer.status().as_u16() == 401 {
        return Err(json!({"kind": "rejected", "requests": requests, "text": "401 to another token too"}));
    }
    let token_id = source.cached(&user).map(|token| token.id().to_owned());
    Ok(json!({"status": answer.status().as_u16(), "token_id": token_id, "requests": requests}))
}

async fn obey(command: &Map<String, Value>, shared: &Shared) -> Answer {
    let state = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let source = state().source.clone();
    let action = text(command, "do");
    if action == "open" {
        let opened = open(command).map_err(|error| fault(&error))?;
        state().source = Some(opened);
        return Ok(json!({}));
    }
    let Some(source) = source else { return Err(json!({"kind": "configuration", "text": "nothing is open"})) };
    match action {
        "token" => {
            let token = ask(&source, command).await.map_err(|error| fault(&error))?;
            state().tokens.insert(token.id().to_owned(), token.clone());
            let (lasts, shown) = (token.expires_in().as_secs_f64(), format!("{token:?}"));
            Ok(json!({
                "token_id": token.id(), "access_token": token.secret(), "expires_in_seconds": lasts, "scope": token.scope(), "shown": shown,
            }))
        }
        "cached" => Ok(json!({"token_id": source.cached(&user(command)).map(|token| token.id().to_owned())})),
        "rejected" => {
            let token = state().tokens.get(text(command, "token_id")).cloned();
            Ok(json!({"is_news": token.is_some_and(|token| source.rejected(&token))}))
        }
        "use" => call_vault(&source, command).await,
        "warm" => {
            let pairs = command.get("users").and_then(Value::as_array).into_iter().flatten();
            let users: Vec<_> = pairs.map(|pair| User::new(name(pair, 0), name(pair, 1))).collect();
            let failed = source.warm(&users).await.err().into_iter().flatten().next();
            failed.map_or(Ok(json!({})), |(_, error)| Err(fault(&error)))
        }
        "counts" => {
            let counts = source.counts();
            let (calls, failures, complaints) = (counts.calls, counts.failures, counts.complaints);
            Ok(json!({"users": counts.users, "calls": calls, "failures": failures, "complaints": complaints}))
        }
        "close" => {
            let mut state = state();
            state.source = None;
            state.tokens.clear();
            Ok(json!({}))
        }
        other => Err(json!({"kind": "configuration", "text": format!("no such command: {other}")})),
    }
}

fn name(pair: &Value, at: usize) -> &str {
    pair.get(at).and_then(Value::as_str).unwrap_or_default()
}

#[tokio::main]
async fn main() {
    // reqwest is built without a provider of its own; where one is set already, that is it.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let (send, mut commands) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(command) = serde_json::from_str::<Map<String, Value>>(&line) else { return };
            if send.send(command).is_err() {
                return;
            }
        }
    });
    let (shared, mut running) = (Shared::default(), JoinSet::new());
    while let Some(command) = commands.recv().await {
        let shared = Arc::clone(&shared);
        running.spawn(async move {
            let id = command.get("id").cloned();
            let answer = match obey(&command, &shared).await {
                Ok(done) => json!({"id": id, "ok": done}),
                Err(error) => json!({"id": id, "error": error}),
            };
            let mut out = io::stdout().lock();
            drop(writeln!(out, "{answer}").and_then(|()| out.flush()));
        });
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
}
