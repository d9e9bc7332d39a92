//! Python's `grpcio` against the running broker: another implementation of gRPC reads what we write.

use tokio::process::Command;

use crate::support::{MERCHANT, NUMBER, Setting};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/call_broker.py");
/// An interpreter that has what `tests/python/requirements.txt` names; `.ci/run` sets it.
const INTERPRETER: &str = "TOKEN_BROKER_TEST_PYTHON";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_understands_answers_errors_health_and_reflection() {
    let Ok(python) = std::env::var(INTERPRETER) else {
        assert!(std::env::var_os("CI").is_none(), "in CI {INTERPRETER} must be set");
        eprintln!("not run: {INTERPRETER} is not set; `.ci/run` sets it up");
        return;
    };
    let stage = Setting::default().start().await;
    let endpoint = stage.endpoint.strip_prefix("http://").expect("is plaintext");
    let output = Command::new(python).args([SCRIPT, endpoint, MERCHANT, NUMBER]).output().await.expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");

    let (first, again) = (&seen["token"], &seen["token_again"]);
    assert!(stage.sandbox.is_live(first["access_token"].as_str().expect("is text")));
    assert_eq!(
        (&first["token_id"], &first["token_type"], &first["scope"]),
        (&again["token_id"], &"Bearer".into(), &"read write".into())
    );
    assert_eq!(stage.sandbox.sign_ins(), 1);

    let unknown = &seen["unconfigured"];
    assert_eq!(
        (&unknown["code"], &unknown["reason"], &unknown["domain"]),
        (&"NOT_FOUND".into(), &"USER_NOT_CONFIGURED".into(), &"token-broker".into())
    );
    let malformed = &seen["malformed"];
    assert_eq!((&malformed["code"], &malformed["reason"]), (&"INVALID_ARGUMENT".into(), &"INVALID_REQUEST".into()));
    let fields: Vec<_> = malformed["field_violations"].as_array().expect("is a list").iter().map(|v| &v["field"]).collect();
    assert_eq!(fields, ["merchant_id", "number"]);

    assert_eq!(seen["health"], serde_json::json!({"": "SERVING", "tokenbroker.v1.TokenBrokerService": "SERVING"}));
    for version in ["v1", "v1alpha"] {
        let services = seen["reflection"][version].as_array().unwrap_or_else(|| panic!("{version}: {seen}"));
        for service in ["tokenbroker.v1.TokenBrokerService", "grpc.health.v1.Health"] {
            assert!(services.contains(&service.into()), "{version}: {services:?}");
        }
    }
}
