//! Who may call: real certificates, real handshakes.

use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    MERCHANT, NUMBER, PASSWORD, PATIENCE, Said,
    authority::{Authority, Name, client},
    secured::{CARDS, ask, caller, secured},
    user,
};

#[tokio::test]
async fn a_certificate_is_one_name_and_only_listed_names_may() {
    let ca = Authority::new();
    let all = "merchants = [\"*\"]";
    let wild = format!("{}{}", caller("spiffe://example.org/ns/*/sa/cards", all), caller("*.*.wild.internal", all));
    let stage = secured(&ca, &format!("{}{}{wild}", caller(CARDS, all), caller("cards.example.org", all))).await;
    let (unknown, denied) = ("CALLER_UNAUTHENTICATED", "CALLER_NOT_ALLOWED");
    for (names, expected) in [
        (&[Name::Uri(CARDS)][..], None),
        (&[Name::Uri(CARDS), Name::Dns("elsewhere.example.org")], None),
        (&[Name::Dns("cards.example.org")], None),
        (&[Name::Common("cards.example.org")], Some(unknown)),
        (&[Name::Uri(CARDS), Name::Uri("spiffe://example.org/other")], Some(unknown)),
        (&[Name::Uri("https://example.org/cards"), Name::Dns("cards.example.org")], Some(unknown)),
        (&[Name::Dns("cards.example.org"), Name::Dns("other.example.org")], Some(unknown)),
        (&[Name::Dns("*.example.org")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/cards/sa/card")], Some(denied)),
        (&[Name::Uri("spiffe://example.org/ns/cards/sa/cards2")], Some(denied)),
        (&[Name::Uri("spiffe://example.org/ns/cards/sa/Cards")], Some(denied)),
        (&[Name::Dns("card.example.org")], Some(denied)),
        (&[Name::Dns("Cards.example.org")], Some(unknown)),
        (&[Name::Dns(".example.org")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns//sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/../sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/a%2Fb/sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/*/sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/a\nb/sa/cards")], Some(unknown)),
        (&[Name::Uri("spiffe://example.org/ns/\u{1b}[2J/sa/cards")], Some(unknown)),
    ] {
        let said = ask(&stage, &ca, Some(&ca.client(names))).await.map_err(Said::of);
        match (said, expected) {
            (Ok(()), None) => {}
            (Err(said), Some(reason)) => {
                let code = if reason == denied { Code::PermissionDenied } else { Code::Unauthenticated };
                assert!(!said.check(code, reason).error.to_string().contains(NUMBER), "the number is masked: {said:?}");
            }
            (said, expected) => panic!("{said:?} instead of {expected:?}"),
        }
    }
    let said = Said::of(ask(&stage, &ca, None).await.expect_err("it shows nothing"));
    assert!(said.check(Code::Unauthenticated, unknown).error.to_string().contains("client certificate"));
}

/// The handshake checks less of a certificate than it takes to know whom it names.
#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_told_so_and_not_that_it_has_ended() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller("cards.example.org", "merchants = [\"*\"]")).await;
    let mut seen = 0;
    for issued in [
        // A DNS name with a byte that is no ASCII; one that ends too soon; no names at all; a serial number of 40 bytes.
        ca.with_names(vec![0x30, 0x05, 0x82, 0x03, b'a', 0xff, b'b']),
        ca.with_names(vec![0x30, 0x05, 0x82, 0x7f, b'a', b'b', b'c']),
        ca.with_names(vec![0x04, 0x01, 0x00]),
        ca.with_names(Vec::new()),
        ca.with_a_long_serial_number("cards.example.org"),
    ] {
        let security = token_broker::client::Security {
            ca_pem: Some(ca.pem.clone().into_bytes()),
            identity_pem: Some((issued.certificate.into_bytes(), issued.key.into_bytes())),
            token_file: None,
        };
        // Some our own client does not show, and some the handshake refuses.
        let Ok(client) = token_broker::client::Client::with_security(&stage.secure_endpoint(), security) else { continue };
        let error = client.token(MERCHANT, NUMBER).await.expect_err("nobody is named");
        let Some(reason) = error.reason() else { continue };
        let text = error.to_string();
        assert_eq!(reason.as_str(), "CALLER_UNAUTHENTICATED", "{text}");
        assert!(text.contains("can't be read") && !text.contains("has ended"), "{text}");
        seen += 1;
    }
    assert!(seen >= 2, "{seen}");
}

#[tokio::test]
async fn a_certificate_that_ends_while_connected_ends_the_calls() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = [\"*\"]")).await;
    let end = SystemTime::now() + Duration::from_secs(3);
    let brief = ca.issue(&[Name::Uri(CARDS)], end - Duration::from_secs(60), end);
    let client = client(&stage.secure_endpoint(), &ca, Some(&brief));
    client.token(MERCHANT, NUMBER).await.expect("it holds still");
    let ended = async {
        loop {
            if let Err(error) = client.token(MERCHANT, NUMBER).await {
                return Said::of(error);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let said = timeout(PATIENCE, ended).await.expect("it ends");
    said.check(Code::Unauthenticated, "CALLER_UNAUTHENTICATED");
    // The certificate's end is a whole second.
    assert!(SystemTime::now() >= end - Duration::from_secs(1));
}

#[tokio::test]
async fn a_denial_says_nothing_of_who_is_configured_and_a_narrowed_policy_counts_at_once() {
    let ca = Authority::new();
    let narrow = caller(CARDS, &format!("merchants = [\"{MERCHANT}\"]\nnumbers = [\"{NUMBER}\"]"));
    let stage = secured(&ca, &narrow).await;
    let issued = ca.client(&[Name::Uri(CARDS)]);
    let client = client(&stage.secure_endpoint(), &ca, Some(&issued));
    client.token(MERCHANT, NUMBER).await.expect("it may");
    for (merchant, number) in [(MERCHANT, "+447871230000"), ("nobody", NUMBER)] {
        let said = Said::of(client.token(merchant, number).await.expect_err("it may not"));
        said.check(Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    }
    stage.reload(&format!("{}{}", caller(CARDS, "merchants = []"), user(NUMBER, PASSWORD)));
    let narrowed = async { while client.token(MERCHANT, NUMBER).await.is_ok() {} };
    timeout(PATIENCE, narrowed).await.expect("the policy is taken over");
    let said = Said::of(client.token(MERCHANT, NUMBER).await.expect_err("not any more"));
    said.check(Code::PermissionDenied, "CALLER_NOT_ALLOWED");
}

#[tokio::test]
async fn health_needs_no_identity_and_reflection_does() {
    let ca = Authority::new();
    let stage = secured(&ca, &caller(CARDS, "merchants = []")).await;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.pem));
    let endpoint = Endpoint::from_shared(stage.secure_endpoint()).expect("is a URL");
    let channel = endpoint.tls_config(tls).expect("the CA is good").connect().await.expect("it shakes hands");
    let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest { service: String::new() }).await;
    assert_eq!(answer.expect("health is for everybody").into_inner().status, 1);

    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    };
    let list =
        ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let asked = ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(list)).await;
    assert_eq!(asked.expect_err("nobody is known").code(), Code::Unauthenticated);
}
