//! `/_sandbox/…`, as somebody with only an HTTP client uses it.

use serde_json::{Value, json};
use token_broker_sandbox::Sandbox;

use crate::raw::{End, NUMBER, Reply, Request, customer, sandbox, sign_in};

async fn post(to: &Sandbox, path: &str, body: &Value) -> Reply {
    Request::new("POST", &format!("/_sandbox/{path}")).body(&body.to_string()).send(to).await
}

async fn done(to: &Sandbox, path: &str, body: Value) -> Value {
    let reply = post(to, path, &body).await;
    assert_eq!(reply.status(), 200, "{}", String::from_utf8_lossy(reply.body()));
    reply.json()
}

#[tokio::test]
async fn stats_are_the_handles() {
    let sandbox = sandbox().await;
    sign_in(&sandbox).await;
    sandbox.script(token_broker_sandbox::Fault::Hang);
    let stats = Request::new("GET", "/_sandbox/stats").send(&sandbox).await.json();
    assert_eq!((&stats["sign_ins"], &stats["granted"], &stats["unused_faults"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(stats.as_object().unwrap().len(), 16);
    assert_eq!(sandbox.stats().sign_ins, 1, "the control interface doesn't count");
}

#[tokio::test]
async fn every_kind_of_fault_can_be_posted() {
    let sandbox = sandbox().await;
    // What is posted, the status that the sign-in meets (0: none), how it ends.
    let table = [
        (json!({ "kind": "truth", "after": "20ms", "headers": { "content-encoding": "br" } }), 200, End::Closed),
        (json!({ "kind": "reply", "status": 503, "body": "busy", "headers": { "retry-after": "3" } }), 503, End::Closed),
        (json!({ "kind": "reply", "status": 200, "json": { "access_token": "a" } }), 200, End::Closed),
        (json!({ "kind": "refusal", "error_id": 273, "error": "LOGIN_ATTEMPTS_EXCEEDED", "message": "wait" }), 400, End::Closed),
        (json!({ "kind": "second-factor" }), 400, End::Closed),
        (json!({ "kind": "spring", "status": 401, "error": "invalid_client", "description": "no" }), 401, End::Closed),
        (json!({ "kind": "v2", "status": 401, "word": "UNAUTHORIZED", "message": "no" }), 401, End::Closed),
        (json!({ "kind": "html", "status": 502 }), 502, End::Closed),
        (json!({ "kind": "redirect", "status": 308, "location": "/elsewhere" }), 308, End::Closed),
        (json!({ "kind": "reset" }), 0, End::Reset),
        (json!({ "kind": "reset-mid-body" }), 200, End::Reset),
        (json!({ "kind": "close", "after": "20ms" }), 0, End::Closed),
        (json!({ "kind": "close-mid-body" }), 200, End::Closed),
        (json!({ "kind": "drip", "bytes": 200, "every": "5ms", "headers": { "x-a": "b" } }), 200, End::Closed),
    ];
    let list: Vec<_> = table.iter().map(|(fault, ..)| fault.clone()).collect();
    assert_eq!(done(&sandbox, "faults", json!(list)).await, json!({ "unused_faults": table.len() }));
    for (fault, status, end) in table {
        let reply = sign_in(&sandbox).await;
        assert_eq!(if reply.bytes.is_empty() { 0 } else { reply.status() }, status, "{fault}");
        assert_eq!(reply.end, end, "{fault}");
        for (name, value) in fault.get("headers").and_then(Value::as_object).into_iter().flatten() {
            assert_eq!(reply.header(name), value.as_str(), "{fault}");
        }
    }
    assert_eq!(
        done(&sandbox, "faults", json!([{ "kind": "endless" }, { "kind": "hang", "times": 3 }])).await["unused_faults"],
        4
    );
    let dropped = Request::new("DELETE", "/_sandbox/faults").send(&sandbox).await.json();
    assert_eq!((dropped, sandbox.unused_faults()), (json!({ "dropped": 4 }), 0));
}

#[tokio::test]
async fn a_posted_fault_can_be_one_users_and_come_again() {
    let sandbox = sandbox().await;
    let list = json!([
        { "kind": "reply", "status": 501, "number": "+1", "times": 2 },
        { "kind": "reply", "status": 502, "number": NUMBER, "times": 2 },
    ]);
    done(&sandbox, "faults", list).await;
    let mut met = Vec::new();
    for _ in 0..3 {
        met.push(sign_in(&sandbox).await.status());
    }
    assert_eq!((met, sandbox.unused_faults()), (vec![502, 502, 200], 2));
}

#[tokio::test]
async fn a_list_with_one_wrong_fault_is_refused_whole() {
    let sandbox = sandbox().await;
    let table = [
        (json!({}), "a JSON list of faults is wanted"),
        (json!(["reset"]), "fault 1: an object like"),
        (json!([{ "kind": "reset" }, { "kind": "rest" }]), "fault 2: unknown variant `rest`"),
        (json!([{ "kind": "reset", "status": 500 }]), "fault 1: unknown field `status`"),
        (json!([{ "kind": "reply" }]), "fault 1: missing field `status`"),
        (json!([{ "kind": "reply", "status": 101 }]), "fault 1: 101 is not the status of a reply"),
        (json!([{ "kind": "reply", "status": 200, "body": "", "json": {} }]), "fault 1: `body` or `json`, not both"),
        (json!([{ "kind": "reply", "status": 200, "headers": { "a b": "c" } }]), "fault 1: `a b: c` is no header"),
        (json!([{ "kind": "hang", "headers": { "a": "c" } }]), "fault 1: Hang has no reply of its own"),
        (json!([{ "kind": "redirect", "status": 307, "location": "\n" }]), "fault 1: `location: \n` is no header"),
        (json!([{ "kind": "spring", "status": 401, "error": "\n", "description": "" }]), "fault 1: `error` stands in a header"),
        (json!([{ "kind": "drip", "bytes": 0, "every": "1s" }]), "fault 1: `bytes` must be at least 1"),
        (json!([{ "kind": "drip", "bytes": 1, "every": "1" }]), "fault 1: `1` is not a duration"),
        (json!([{ "kind": "reset", "after": 5 }]), "fault 1: invalid type"),
        (json!([{ "kind": "reset", "times": 0 }]), "fault 1: `times` must be within 1 to 1000"),
        (json!(vec![json!({ "kind": "reset", "times": 1000 }); 11]), "more than 10000 faults would be waiting"),
    ];
    for (list, why) in table {
        let reply = post(&sandbox, "faults", &list).await;
        let said = reply.json()["fault"].as_str().unwrap().to_owned();
        assert!(reply.status() == 400 && said.starts_with(why), "{list}: {said}");
    }
    assert_eq!(sandbox.unused_faults(), 0);
}

#[tokio::test]
async fn settings_change_what_is_named_and_nothing_else() {
    let sandbox = sandbox().await;
    let first = done(&sandbox, "settings", json!({})).await;
    assert_eq!(first, json!({ "lifetime": "86400s", "delay": "0s", "mode": "fresh", "outage": false }));
    let changed = done(
        &sandbox,
        "settings",
        json!({ "lifetime": "5m", "mode": "same-token", "always": { "kind": "html", "status": 503 } }),
    )
    .await;
    assert_eq!(changed, json!({ "lifetime": "300s", "delay": "0s", "mode": "same-token", "outage": true }));
    assert_eq!(sign_in(&sandbox).await.status(), 503);
    assert_eq!(done(&sandbox, "settings", json!({ "delay": "1500ms" })).await["outage"], true);
    let ended = done(&sandbox, "settings", json!({ "always": null, "delay": "0ms" })).await;
    assert_eq!(ended, json!({ "lifetime": "300s", "delay": "0s", "mode": "same-token", "outage": false }));
    let reply = sign_in(&sandbox).await;
    assert_eq!((reply.json()["expires_in"].as_u64(), sign_in(&sandbox).await.token()), (Some(299), reply.token()));

    for wrong in [
        json!({ "life": "5m" }),
        json!({ "lifetime": 5 }),
        json!({ "mode": "stale", "delay": "1h" }),
        json!({ "delay": "1h", "always": { "kind": "reset", "times": 2 } }),
        json!([]),
    ] {
        assert_eq!(post(&sandbox, "settings", &wrong).await.status(), 400, "{wrong}");
    }
    assert_eq!(done(&sandbox, "settings", json!({})).await, ended);
}

#[tokio::test]
async fn tokens_are_revoked_one_by_one_or_all() {
    let sandbox = sandbox().await;
    let tokens = [sign_in(&sandbox).await.token(), sign_in(&sandbox).await.token(), sign_in(&sandbox).await.token()];
    assert_eq!(done(&sandbox, "revoke", json!({ "access_token": tokens[0] })).await, json!({ "revoked": 1 }));
    assert_eq!(done(&sandbox, "revoke", json!({ "access_token": tokens[0] })).await, json!({ "revoked": 0 }));
    assert_eq!(customer(&sandbox, &tokens[0]).await.status(), 401);
    assert_eq!(customer(&sandbox, &tokens[1]).await.status(), 200);
    assert_eq!(done(&sandbox, "revoke", json!({ "all": true })).await, json!({ "revoked": 2 }));
    for wrong in [json!({}), json!({ "all": false }), json!({ "all": true, "access_token": "a" }), json!({ "token": "a" })] {
        assert_eq!(post(&sandbox, "revoke", &wrong).await.status(), 400, "{wrong}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let sandbox = sandbox().await;
    for (method, path, status) in [
        ("GET", "/_sandbox/faults", 405),
        ("POST", "/_sandbox/stats", 405),
        ("GET", "/_sandbox/", 404),
        ("GET", "/_sandbox/secrets", 404),
        ("GET", "/", 404),
        ("POST", "/oauth/token/", 404),
    ] {
        assert_eq!(Request::new(method, path).send(&sandbox).await.status(), status, "{method} {path}");
    }
    assert_eq!((sandbox.stats().unknown_paths, sandbox.sign_ins()), (2, 0));
    let flood = Request::new("POST", "/_sandbox/faults").body(&" ".repeat(300_000)).send(&sandbox).await;
    assert_eq!(flood.status(), 413);
}
