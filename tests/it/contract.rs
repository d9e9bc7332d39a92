//! The messages: what a good answer holds, and what a bad request is told.

use std::time::{Duration, SystemTime};

use token_broker::{
    client::Reason,
    proto::v1::{ErrorReason, GetTokenRequest, token_broker_service_client::TokenBrokerServiceClient},
};
use token_broker_sandbox::Fault;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::support::{Bare, MERCHANT, NUMBER, PASSWORD, Said, Setting, Stage, left};

#[tokio::test]
async fn a_cold_user_is_signed_in_exactly_as_documented_and_then_answered_from_the_cache() {
    let stage = Setting::default().start().await;
    let first = stage.good_token().await;
    let second = stage.good_token().await;
    assert_eq!(stage.sandbox.sign_ins(), 1);
    assert!(stage.sandbox.is_live(&first.access_token));
    assert_eq!((&first.access_token, &first.token_id), (&second.access_token, &second.token_id));
    assert_eq!((first.token_type.as_str(), first.scope.as_str()), ("Bearer", "read write"));
    assert_eq!(first.token_id.len(), 32);
    let wall = SystemTime::try_from(first.expires_at.expect("is set")).expect("is a time");
    let by_wall = wall.duration_since(SystemTime::now()).expect("is ahead");
    assert!(left(&first) <= Duration::from_secs(86_399) && left(&first).abs_diff(by_wall) < Duration::from_secs(1));

    let seen = stage.sandbox.requests().pop().expect("one sign-in");
    assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.query.as_deref()), ("POST", "/oauth/token", None));
    assert_eq!(seen.body, format!("grant_type=mobile_phone&number=%2B{}&password={PASSWORD}", &NUMBER[1..]));
    for (name, value) in
        [("x-merchant-id", MERCHANT), ("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")]
    {
        assert_eq!(seen.header(name), Some(value));
    }
    assert!(seen.header("user-agent").is_some_and(|agent| agent.starts_with("token-broker/")));
    assert_eq!(seen.header("authorization"), None);
}

#[test]
fn the_contract_names_the_reasons_that_are_sent() {
    let named: Vec<_> = (1..).map_while(|number| ErrorReason::try_from(number).ok()).map(|reason| reason.as_str_name()).collect();
    assert_eq!(named, Reason::ALL.map(Reason::as_str));
    assert_eq!(ErrorReason::default().as_str_name(), "ERROR_REASON_UNSPECIFIED");
}

#[tokio::test]
async fn each_answer_says_anew_when_to_ask_again_and_not_so_late_that_one_would_wait() {
    // Due with a tenth of its life before the margin at most, the jitter's, or twice what a sign-in takes here.
    let stage = Setting::default().lifetime(Duration::from_secs(1_000)).start().await;
    let mut left_then = Vec::new();
    for _ in 0..20 {
        let token = stage.good_token().await;
        let renew_in = Duration::try_from(token.renew_in.expect("is set")).expect("is positive");
        left_then.push(left(&token).checked_sub(renew_in).expect("is before its end"));
    }
    assert_eq!(stage.sandbox.sign_ins(), 1);
    let (margin, earliest) = (Duration::from_secs(30), Duration::from_secs(80));
    assert!(left_then.iter().all(|left| (margin..=earliest).contains(left)), "{left_then:?}");
    assert!(left_then.iter().any(|left| *left != left_then[0]), "all callers would come at once: {left_then:?}");
}

#[tokio::test]
async fn a_token_that_is_kept_to_its_end_is_to_be_asked_for_again_at_its_end() {
    let stage = Setting::vault("renewal = \"at_expiry\"").start().await;
    for _ in 0..2 {
        let token = stage.good_token().await;
        assert_eq!(token.renew_in, token.expires_in);
    }
}

#[tokio::test]
async fn every_field_at_fault_is_named_at_once_and_the_vault_hears_nothing() {
    let stage = Setting::default().start().await;
    let request = GetTokenRequest {
        merchant_id: "a b".to_owned(),
        number: "07871239999".to_owned(),
        min_remaining: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        rejected_token_ids: vec!["x".repeat(64), "y".repeat(65), "é".repeat(64), "é".repeat(65)],
    };
    let status = call(&stage, request).await.expect_err("is malformed");
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().expect("is there").field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["merchant_id", "number", "min_remaining", "rejected_token_ids[1]", "rejected_token_ids[3]"]);
    assert_eq!(status.code(), Code::InvalidArgument);
    let info = details.error_info().expect("is there");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_REQUEST", "token-broker"));
    assert!(details.request_info().is_some_and(|request| !request.request_id.is_empty()));
    assert_eq!(stage.sandbox.sign_ins(), 0);
}

#[tokio::test]
async fn sixteen_of_the_longest_ids_are_a_request_and_one_more_is_said_to_be_too_many() {
    let stage = Setting::default().start().await;
    let naming = |ids: usize, id: &str| GetTokenRequest {
        merchant_id: MERCHANT.to_owned(),
        number: NUMBER.to_owned(),
        rejected_token_ids: vec![id.to_owned(); ids],
        ..Default::default()
    };
    call(&stage, naming(16, &"😀".repeat(64))).await.expect("is a request");
    for id in [String::new(), "x".repeat(65)] {
        let status = call(&stage, naming(17, &id)).await.expect_err("is one too many");
        let details = status.get_error_details();
        let fields: Vec<_> = details.bad_request().expect("is there").field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["rejected_token_ids"]);
    }
}

#[tokio::test]
async fn what_is_no_request_at_all_gets_the_same_reason() {
    let stage = Setting::default().start().await;
    let huge = GetTokenRequest { merchant_id: "x".repeat(100_000), ..Default::default() };
    let status = call(&stage, huge).await.expect_err("is too large");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().expect("is there").reason, "INVALID_REQUEST");

    let mut request =
        Request::new(GetTokenRequest { merchant_id: MERCHANT.to_owned(), number: NUMBER.to_owned(), ..Default::default() });
    request.metadata_mut().insert("grpc-timeout", "soon".parse().expect("is text"));
    let status = raw(&stage).await.get_token(request).await.expect_err("has no timeout");
    assert_eq!(status.get_details_bad_request().expect("is there").field_violations[0].field, "grpc-timeout");
}

#[tokio::test]
async fn an_unknown_user_is_not_found_and_costs_no_sign_in() {
    let stage = Setting::default().start().await;
    for (merchant, number) in [(MERCHANT, "+447871230000"), ("BECE038F-2e46-49f4-b25e-89cd38d6dc16", NUMBER)] {
        let said = Said::of(stage.client.token(merchant, number).await.expect_err("is not configured"));
        said.check(Code::NotFound, "USER_NOT_CONFIGURED");
        assert!(!said.error.to_string().contains(&number[1..]), "the number is masked: {said:?}");
    }
    assert_eq!(stage.sandbox.sign_ins(), 0);
}

#[tokio::test]
async fn a_caller_in_a_hurry_gets_its_answer_in_time_and_the_next_one_the_token() {
    let stage = Setting::default().start().await;
    stage.sandbox.script(Fault::truth().after(Duration::from_secs(2)));
    let mut request =
        Request::new(GetTokenRequest { merchant_id: MERCHANT.to_owned(), number: NUMBER.to_owned(), ..Default::default() });
    request.set_timeout(Duration::from_millis(150));
    let status = TokenBrokerServiceClient::new(Bare::connect(&stage.endpoint).await)
        .get_token(request)
        .await
        .expect_err("the vault is slow");
    // Nothing but the broker ends such a call, and it did not wait for the vault.
    assert_eq!(stage.sandbox.answered(), 0);
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.get_details_error_info().expect("is there").reason, "DEADLINE_EXCEEDED");
    assert!(stage.sandbox.is_live(&stage.good_token().await.access_token));
    assert_eq!(stage.sandbox.sign_ins(), 1);
}

#[tokio::test]
async fn the_callers_request_id_comes_back() {
    let stage = Setting::default().start().await;
    let mut request = Request::new(GetTokenRequest::default());
    request.metadata_mut().insert("x-request-id", "order-4711".parse().expect("is text"));
    let status = raw(&stage).await.get_token(request).await.expect_err("is empty");
    assert_eq!(status.get_details_request_info().expect("is there").request_id, "order-4711");
}

async fn raw(stage: &Stage) -> TokenBrokerServiceClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(stage.endpoint.clone()).expect("is a URL");
    TokenBrokerServiceClient::new(endpoint.connect().await.expect("the broker listens"))
}

async fn call(stage: &Stage, request: GetTokenRequest) -> Result<(), Status> {
    raw(stage).await.get_token(request).await.map(drop)
}
