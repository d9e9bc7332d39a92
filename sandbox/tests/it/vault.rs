//! The documented answers, to right and wrong requests.

use serde_json::{Value, json};
use token_broker_sandbox::{Options, Sandbox, User};

use crate::raw::{End, FORM, MERCHANT, NUMBER, Request, sandbox, sign_in};

#[tokio::test]
async fn the_documented_request_gets_the_documented_reply() {
    let sandbox = sandbox().await;
    let reply = sign_in(&sandbox).await;
    assert_eq!((reply.status(), reply.end), (200, End::Closed));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-request-id").map(str::len), Some(36));

    let Value::Object(mut fields) = reply.json() else { panic!("{reply:?}") };
    for opaque in ["access_token", "refresh_token", "jti"] {
        assert!(fields.remove(opaque).unwrap().as_str().unwrap().len() >= 27, "{opaque}");
    }
    assert_eq!(Value::Object(fields), json!({ "token_type": "bearer", "expires_in": 86399, "scope": "read write" }));
}

/// The body's `error`, else `errorId`, and the message or field.
fn said(body: &Value) -> String {
    let text = |key: &str| body.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let what = [text("errorId"), text("error"), text("field"), text("error_description")];
    what.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_wrong_request_is_refused_as_the_vault_would() {
    let right = || Request::sign_in(FORM);
    let form = |form: &str| Request::sign_in(form);
    let other_method = |method| {
        let mut request = right();
        request.method = method;
        request
    };
    let table = [
        ("GET", other_method("GET"), 405, "method_not_allowed Request method 'GET' not supported"),
        ("PUT", other_method("PUT"), 405, "method_not_allowed Request method 'PUT' not supported"),
        ("no merchant", right().without("X-Merchant-ID"), 400, "422 NOT_VALID_REQUEST_DATA X-Merchant-ID"),
        ("another merchant", right().header("X-Merchant-ID", "nobody"), 400, "422 NOT_VALID_REQUEST_DATA X-Merchant-ID"),
        (
            "the merchant in capitals",
            right().header("X-Merchant-ID", &MERCHANT.to_uppercase()),
            400,
            "422 NOT_VALID_REQUEST_DATA X-Merchant-ID",
        ),
        ("no content type", right().without("Content-Type"), 400, "invalid_request Missing grant type"),
        ("JSON", right().header("Content-Type", "application/json").body("{}"), 400, "invalid_request Missing grant type"),
        ("a form said to be JSON", right().header("Content-Type", "application/json"), 400, "invalid_request Missing grant type"),
        ("no grant type", form("number=%2B447871239999&password=1234Qwerty"), 400, "invalid_request Missing grant type"),
        (
            "another grant type",
            form("grant_type=password&number=%2B447871239999&password=1234Qwerty"),
            400,
            "unsupported_grant_type Unsupported grant type: password",
        ),
        ("no number", form("grant_type=mobile_phone&password=1234Qwerty"), 400, "422 NOT_VALID_REQUEST_DATA number"),
        ("no password", form("grant_type=mobile_phone&number=%2B447871239999"), 400, "422 NOT_VALID_REQUEST_DATA password"),
        (
            "a bare plus",
            form("grant_type=mobile_phone&number=+447871239999&password=1234Qwerty"),
            400,
            "2 CUSTOMER_NOT_FOUND_EXCEPTION",
        ),
        (
            "another number",
            form("grant_type=mobile_phone&number=%2B447871239998&password=1234Qwerty"),
            400,
            "2 CUSTOMER_NOT_FOUND_EXCEPTION",
        ),
        (
            "a wrong password",
            form("grant_type=mobile_phone&number=%2B447871239999&password=1234qwerty"),
            400,
            "11 WRONG_LOGIN_OR_PASSWORD_EXCEPTION",
        ),
        (
            "a password with a space behind it",
            form("grant_type=mobile_phone&number=%2B447871239999&password=1234Qwerty+"),
            400,
            "11 WRONG_LOGIN_OR_PASSWORD_EXCEPTION",
        ),
    ];
    let sandbox = sandbox().await;
    let refused = table.len() as u64;
    for (what, request, status, wanted) in table {
        let reply = request.send(&sandbox).await;
        assert_eq!((reply.status(), said(&reply.json()).as_str()), (status, wanted), "{what}");
        let vendors = wanted.starts_with(|c: char| c.is_ascii_digit());
        assert_eq!(reply.json().get("systemId"), vendors.then_some(&json!("core")), "{what}");
        assert_eq!(reply.header("allow"), (status == 405).then_some("POST"), "{what}");
    }
    assert_eq!((sandbox.stats().refused, sandbox.stats().granted, sandbox.stats().sign_ins), (refused, 0, refused));
    let charset = right().header("Content-Type", "Application/X-WWW-Form-URLEncoded; charset=UTF-8").send(&sandbox).await;
    assert_eq!(charset.status(), 200);
}

#[tokio::test]
async fn too_many_wrong_passwords_in_a_row_lock_the_account() {
    let wrong = || Request::sign_in("grant_type=mobile_phone&number=%2B447871239999&password=wrong");
    let sandbox = Sandbox::start(Options { wrong_passwords_to_lock: 3, ..Options::default() }).await.unwrap();
    for _ in 0..2 {
        assert_eq!(wrong().send(&sandbox).await.json()["errorId"], 11);
    }
    assert_eq!(sign_in(&sandbox).await.status(), 200, "a right one in between");
    for _ in 0..3 {
        assert_eq!(wrong().send(&sandbox).await.json()["errorId"], 11);
    }
    for request in [Request::sign_in(FORM), wrong()] {
        let body = request.send(&sandbox).await.json();
        assert_eq!(
            body,
            json!({ "errorId": 3, "error": "CUSTOMER_STATUS_INCORRECT", "systemId": "core", "message": "Customer status is incorrect" })
        );
    }
    sandbox.unlock_user(MERCHANT, NUMBER);
    assert_eq!(sign_in(&sandbox).await.status(), 200);

    let patient = Sandbox::start(Options { wrong_passwords_to_lock: 0, ..Options::default() }).await.unwrap();
    for _ in 0..10 {
        assert_eq!(wrong().send(&patient).await.json()["errorId"], 11);
    }
}

#[tokio::test]
async fn users_come_go_and_change() {
    let sandbox = sandbox().await;
    let form = "grant_type=mobile_phone&number=%2B15551234567&password=p%26+w%C3%B6rd+";
    let other = || Request::sign_in(form).header("X-Merchant-ID", "other");
    assert_eq!(other().send(&sandbox).await.json()["errorId"], 422);
    sandbox.add_user(User::new("other", "+15551234567", "p& wörd "));
    assert_eq!(other().send(&sandbox).await.status(), 200);
    assert_eq!(Request::sign_in(form).send(&sandbox).await.json()["errorId"], 2, "under the first merchant");

    sandbox.lock_user("other", "+15551234567");
    assert_eq!(other().send(&sandbox).await.json()["errorId"], 3);
    sandbox.unlock_user("other", "+15551234567");
    sandbox.set_password("other", "+15551234567", "new");
    assert_eq!(other().send(&sandbox).await.json()["errorId"], 11);
    sandbox.remove_user("other", "+15551234567");
    assert_eq!(other().send(&sandbox).await.json()["errorId"], 422);
    assert_eq!(sandbox.sign_ins_of("+15551234567"), 6);
}

#[tokio::test]
#[should_panic(expected = "no user +1 of other to lock")]
async fn changing_a_user_who_does_not_exist_is_the_tests_fault() {
    sandbox().await.lock_user("other", "+1");
}
