//! What the operator sees: `/metrics` and `/status`, and that neither shows a secret.

use std::time::Duration;

use serde_json::Value;
use token_broker::{client::Client, telemetry::metrics::Format};
use token_broker_sandbox::{Fault, Options, Sandbox};
use tokio::time::timeout;

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Setting, Stage,
    authority::{Authority, Name},
    http,
    process::Process,
    request, user,
};

/// Waits until the exposition has these lines.
async fn counted(admin: &str, lines: &[String]) {
    let all = async {
        loop {
            let text = http(admin, "/metrics").await;
            let missing: Vec<_> = lines.iter().filter(|line| !text.contains(&format!("\n{line}\n"))).collect();
            if missing.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(PATIENCE, all).await.is_err() {
        panic!("not all of {lines:#?} are in {}", http(admin, "/metrics").await);
    }
}

fn calls(code: &str, reason: &str, outcome: &str, count: u64) -> String {
    format!("token_broker_calls_total{{code=\"{code}\",reason=\"{reason}\",outcome=\"{outcome}\"}} {count}")
}

async fn status(admin: &str) -> Value {
    let answer = http(admin, "/status").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("is HTTP");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[tokio::test]
async fn every_call_is_counted_once_whatever_ends_it() {
    let stage = Setting::default().start().await;
    stage.good_token().await;
    stage.good_token().await;
    stage.client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
    stage.client.token("", NUMBER).await.expect_err("is malformed");
    // Refused by the library below the handler, and by the deadline's parser above it.
    let bytes = |text: &'static [u8]| bytes::Bytes::from_static(text);
    raw(&stage, bytes(b"\0\0\0\0\x02\xff\xff"), &[]).await;
    raw(&stage, bytes(b"\0\0\0\0\0"), &[("grpc-timeout", "soon")]).await;
    counted(
        &stage.admin,
        &[
            calls("OK", "", "signed_in", 1),
            calls("OK", "", "hit", 1),
            calls("NOT_FOUND", "USER_NOT_CONFIGURED", "turned_away", 1),
            calls("INVALID_ARGUMENT", "INVALID_REQUEST", "turned_away", 3),
            "token_broker_token_remaining_seconds_count 2".to_owned(),
            "token_broker_call_duration_seconds_count{outcome=\"hit\"} 1".to_owned(),
            format!("token_broker_sign_ins_total{{merchant_id=\"{MERCHANT}\",result=\"granted\"}} 1"),
        ],
    )
    .await;
}

#[tokio::test]
async fn calls_are_counted_by_the_conventions_for_rpc_where_that_is_asked_for() {
    for on in [true, false] {
        let rest = format!("[admin]\nrpc_metrics = {on}\n{}", user(NUMBER, PASSWORD));
        let stage = Setting { rest, ..Setting::default() }.start().await;
        stage.good_token().await;
        stage.client.token(MERCHANT, "+447871230000").await.expect_err("nobody knows it");
        counted(&stage.admin, &[calls("OK", "", "signed_in", 1), calls("NOT_FOUND", "USER_NOT_CONFIGURED", "turned_away", 1)])
            .await;
        let text = http(&stage.admin, "/metrics").await;
        assert_eq!(text.contains("rpc_server_call_duration"), on, "{text}");
        for code in ["OK", "NOT_FOUND"].iter().filter(|_| on) {
            let labels = format!(
                "rpc_system_name=\"grpc\",rpc_method=\"tokenbroker.v1.TokenBrokerService/GetToken\",rpc_response_status_code=\"{code}\",\
                 error_type=\"\""
            );
            assert!(text.contains(&format!("\nrpc_server_call_duration_seconds_count{{{labels}}} 1\n")), "{text}");
            for bound in ["0.005", "0.75", "10.0", "+Inf"] {
                let bucket = format!("rpc_server_call_duration_seconds_bucket{{le=\"{bound}\",{labels}}}");
                assert!(text.contains(&bucket), "{bucket}: {text}");
            }
        }
        assert!(!text.contains("token_broker_rpc"), "{text}");
    }
}

/// One GetToken with these bytes for a message.
async fn raw(stage: &Stage, message: bytes::Bytes, headers: &[(&str, &str)]) {
    use http_body_util::{BodyExt as _, Full};
    use tower_service::Service as _;
    let mut bare = crate::support::Bare::connect(&stage.endpoint).await;
    let mut request =
        http::Request::post("/tokenbroker.v1.TokenBrokerService/GetToken").header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(Full::new(message).map_err(|never| match never {}));
    let answer = bare.call(request.body(body).expect("is a request")).await.expect("it answers");
    let status = answer.headers().get("grpc-status").and_then(|status| status.to_str().ok()).map(str::to_owned);
    assert_eq!(status.as_deref(), Some("3"), "{answer:?}");
}

#[tokio::test]
async fn calls_that_wait_fail_are_held_or_go_away_are_told_apart() {
    let other = "+447871239998";
    let mut setting = Setting::vault("timeout = \"3s\"\nrefusal_hold = \"1h\"");
    setting.rest = format!("{}{}", user(NUMBER, "wrong"), user(other, PASSWORD));
    setting.options.users.push(token_broker_sandbox::User::new(MERCHANT, other, PASSWORD));
    let stage = setting.start().await;
    stage.refused().await;
    stage.refused().await;
    stage.sandbox.script_for(other, Fault::Hang);
    tokio::select! {
        _ = stage.client.token(MERCHANT, other) => panic!("the vault hangs"),
        // Its sign-in is on its way, so the call was read; the caller goes away.
        () = stage.sandbox.wait_for_sign_ins_of(other, 1, PATIENCE) => {}
    }
    counted(
        &stage.admin,
        &[
            calls("FAILED_PRECONDITION", "CREDENTIALS_REJECTED", "failed", 1),
            calls("FAILED_PRECONDITION", "CREDENTIALS_REJECTED", "held", 1),
            calls("CANCELLED", "", "cancelled", 1),
            format!("token_broker_sign_ins_total{{merchant_id=\"{MERCHANT}\",result=\"credentials_rejected\"}} 1"),
            format!("token_broker_sign_ins_total{{merchant_id=\"{MERCHANT}\",result=\"unavailable\"}} 1"),
            format!("token_broker_held_users{{merchant_id=\"{MERCHANT}\",reason=\"CREDENTIALS_REJECTED\"}} 1"),
            format!("token_broker_failing_users{{merchant_id=\"{MERCHANT}\",reason=\"VAULT_UNAVAILABLE\"}} 1"),
            format!("token_broker_dry_users{{merchant_id=\"{MERCHANT}\"}} 1"),
            format!("token_broker_users{{merchant_id=\"{MERCHANT}\"}} 2"),
            "token_broker_vault_up 1".to_owned(),
            "token_broker_ready 1".to_owned(),
        ],
    )
    .await;
    let status = status(&stage.admin).await;
    let merchant = &status["merchants"][0];
    assert_eq!((&status["verdict"], &merchant["dry"]), (&"trouble".into(), &1.into()), "{status:#}");
    assert_eq!(merchant["held"][0]["what"], "the vault refuses the credentials or the account (11)");
    assert!(merchant["held"][0]["wait_seconds"].as_u64().is_some_and(|wait| wait > 3_500), "{merchant}");
    assert_eq!(merchant["failing"][0]["what"], "it did not answer in time");
    assert_eq!(status["vault"]["last_failure"], "it did not answer in time");
}

#[tokio::test]
async fn both_formats_are_announced_as_what_they_are() {
    let stage = Setting::default().start().await;
    stage.good_token().await;
    for (accept, format, end) in [
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", Format::OpenMetrics, true),
        ("text/plain", Format::Classic, false),
        ("*/*", Format::Classic, false),
    ] {
        let answer = request(&stage.admin, "GET", "/metrics", accept).await;
        assert!(answer.contains(&format!("content-type: {}\r\n", format.content_type())), "{answer}");
        assert_eq!(answer.ends_with("# EOF\n"), end);
        let counter = if end { "# TYPE token_broker_calls counter\n" } else { "# TYPE token_broker_calls_total counter\n" };
        assert!(answer.contains(counter) && answer.contains("\nprocess_cpu_seconds_total "), "{answer}");
    }
}

#[tokio::test]
async fn a_browser_gets_a_page_without_scripts_that_escapes_what_it_shows() {
    let merchant = "<script>alert(1)</script>";
    let setting = Setting { rest: user(NUMBER, PASSWORD).replace(MERCHANT, merchant), ..Setting::default() };
    let stage = setting.start().await;
    stage.client.token(merchant, NUMBER).await.expect_err("the vault has no such merchant");
    let page = request(&stage.admin, "GET", "/status", "text/html,application/xhtml+xml,*/*;q=0.8").await;
    let (head, body) = page.split_once("\r\n\r\n").expect("is HTTP");
    assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !body.contains("<script"), "{body}");
    assert!(body.contains("<h1>Callers go without tokens</h1>") && body.contains("prefers-color-scheme: dark"), "{body}");
    for header in [
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    let by_query = request(&stage.admin, "GET", "/status?format=html", "*/*").await;
    assert!(by_query.contains("<h1>"), "{by_query}");
    assert!(request(&stage.admin, "GET", "/status?format=yaml", "*/*").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn the_port_is_read_only() {
    let stage = Setting::default().start().await;
    for path in ["/", "/livez", "/readyz", "/metrics", "/status"] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let answer = request(&stage.admin, method, path, "*/*").await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method} {path}: {answer}");
        }
        assert!(request(&stage.admin, "HEAD", path, "*/*").await.starts_with(if path == "/" {
            "HTTP/1.1 307 "
        } else {
            "HTTP/1.1 200 "
        }));
    }
    assert!(http(&stage.admin, "/elsewhere").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn status_tells_the_generation_and_what_is_wrong_with_the_files() {
    let stage = Setting::default().start().await;
    stage.good_token().await;
    let before = status(&stage.admin).await;
    assert_eq!((&before["verdict"], &before["findings"]), (&"flowing".into(), &Value::Array(Vec::new())), "{before:#}");
    assert_eq!((&before["merchants"][0]["cached"], &before["renewals"]["planned"]), (&1.into(), &1.into()), "{before:#}");
    assert_eq!((&before["ready"], &before["configuration"]["generation"]), (&true.into(), &1.into()));
    stage.reload(&format!("{}{}", user(NUMBER, PASSWORD), user("+447871239998", "x")));
    counted(
        &stage.admin,
        &["token_broker_configuration_generation 2".to_owned(), "token_broker_configuration_faults 0".to_owned()],
    )
    .await;
    stage.reload(&format!("[log]\nlevel = \"{PASSWORD}\"\n"));
    counted(
        &stage.admin,
        &["token_broker_configuration_faults 1".to_owned(), "token_broker_reloads_total{result=\"refused\"} 1".to_owned()],
    )
    .await;
    let after = status(&stage.admin).await;
    assert_eq!((&after["verdict"], &after["configuration"]["generation"]), (&"attention".into(), &2.into()), "{after:#}");
    let fault = after["configuration"]["faults"][0].as_str().expect("is text");
    assert!(fault.contains("log.level") && !fault.contains(PASSWORD), "{fault}");
}

#[tokio::test]
async fn handshakes_certificates_and_callers_are_shown_where_there_are_any() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let (issued, pem) = (ca.server(), ca.pem.clone());
    let spiffe = "spiffe://example.org/ns/cards/sa/cards";
    let rest =
        format!("[admin]\nlabel_callers = true\n[[callers]]\nid = \"{spiffe}\"\nmerchants = [\"*\"]\n{}", user(NUMBER, PASSWORD));
    let grpc = "[grpc.tls]\ncertificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\nclient_ca_file = \"ca.crt\"\n";
    let prepare = move |directory: &std::path::Path| {
        issued.write(directory);
        std::fs::write(directory.join("ca.crt"), &pem).expect("is written");
    };
    let stage = Setting { grpc: grpc.to_owned(), rest, prepare: Some(Box::new(prepare)), ..Setting::default() }.start().await;
    let client = |issued: crate::support::authority::Issued| {
        crate::support::authority::client(&stage.secure_endpoint(), &ca, Some(&issued))
    };
    client(ca.client(&[Name::Uri(spiffe)])).token(MERCHANT, NUMBER).await.expect("it may");
    client(stranger.client(&[Name::Uri(spiffe)])).token(MERCHANT, NUMBER).await.expect_err("nobody vouches for it");
    counted(
        &stage.admin,
        &[
            "token_broker_tls_handshakes_total{result=\"done\"} 1".to_owned(),
            "token_broker_callers 1".to_owned(),
            format!("token_broker_caller_calls_total{{caller=\"{spiffe}\",code=\"OK\"}} 1"),
        ],
    )
    .await;
    let text = http(&stage.admin, "/metrics").await;
    for (result, times) in [("untrusted", 1), ("refused", 0), ("timed_out", 0)] {
        assert!(text.contains(&format!("token_broker_tls_handshakes_total{{result=\"{result}\"}} {times}\n")), "{text}");
    }
    for kind in ["server", "client_ca"] {
        assert!(
            text.contains(&format!("token_broker_certificate_not_after_timestamp_seconds{{certificate=\"{kind}\"}} ")),
            "{text}"
        );
    }
    let status = status(&stage.admin).await;
    assert_eq!(status["certificates"].as_array().map(Vec::len), Some(2), "{status:#}");
}

/// The real binary, its log and its trail at the finest level, and both pages, after all that can happen to a user.
#[tokio::test]
async fn no_surface_shows_a_number_a_password_or_a_token() {
    let sandbox = Sandbox::start(Options::default()).await.expect("starts");
    let (other, wrong) = ("+447871230007", "Not-The-Password-9");
    let text = |users: &str| {
        format!(
            "[vault]\nbase_url = \"{}\"\nmin_sign_in_interval = \"0s\"\n[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\nlabel_callers = true\n[log]\nlevel = \"trace\"\n{users}",
            sandbox.url()
        )
    };
    let users = format!("{}{}", user(NUMBER, PASSWORD), user(other, wrong));
    let mut broker = Process::serve(&text(&users), &[]).await;
    let client = Client::new(&broker.endpoint()).expect("is an endpoint");
    let first = client.token(MERCHANT, NUMBER).await.expect("there is a token");
    let query = token_broker::client::Query { rejected_token_ids: vec![first.token_id.clone()], ..Default::default() };
    let second = client.token_with(MERCHANT, NUMBER, query).await.expect("there is another");
    client.token(MERCHANT, other).await.expect_err("its password is wrong");
    client.token(MERCHANT, &format!("{NUMBER}x")).await.expect_err("is malformed");
    broker.rewrite(&text(&format!(
        "{users}[[users]]\nmerchant_id = \"{MERCHANT}\"\nnumber = \"{NUMBER}\"\npassword = \"{wrong}\"\n"
    )));
    broker.signal(rustix::process::Signal::HUP);
    broker.line_like("the configuration is at fault").await;
    let admin = broker.address("admin");
    let mut surfaces = vec![
        http(&admin, "/metrics").await,
        request(&admin, "GET", "/metrics", "application/openmetrics-text").await,
        http(&admin, "/status").await,
        request(&admin, "GET", "/status", "text/html").await,
    ];
    broker.signal(rustix::process::Signal::TERM);
    broker.ended(PATIENCE).await;
    surfaces.push(broker.log());
    assert!(surfaces[4].contains("\"target\":\"audit\"") && surfaces[2].contains("CREDENTIALS_REJECTED"));
    for surface in &surfaces {
        for secret in [NUMBER, other, "447871239999", PASSWORD, wrong, &first.access_token, &second.access_token] {
            assert!(!surface.contains(secret), "{secret} is in {surface}");
        }
    }
}
