//! What is repeated, and what is said where nobody is there.

use tonic::metadata::MetadataValue;

use super::*;

#[test]
fn repeats_only_what_a_repeat_may_help() {
    let pushed = |mut status: Status, millis: &'static str| {
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from_static(millis));
        status
    };
    let lost = |code| {
        let mut status = Status::new(code, "the connection broke");
        status.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        status
    };
    let table = [
        (lost(Code::Unavailable), "elsewhere, this one is lost"),
        (lost(Code::Unknown), "elsewhere, this one is lost"),
        (lost(Code::DeadlineExceeded), "no"),
        (Status::unavailable("it ends"), "elsewhere"),
        (pushed(Status::unavailable("wait"), "300"), "after 300ms"),
        (pushed(Status::resource_exhausted("wait"), "1"), "after 1ms"),
        (pushed(Status::unavailable("wait for long"), "-1"), "no"),
        (Status::internal("a fault"), "no"),
        (Status::not_found("nobody"), "no"),
        (Status::deadline_exceeded("late"), "no"),
    ];
    for (status, wanted) in table {
        let found = match Again::after(&status) {
            Again::Lost => "elsewhere, this one is lost".to_owned(),
            Again::Elsewhere => "elsewhere".to_owned(),
            Again::Later(wait) => format!("after {wait:?}"),
            Again::No => "no".to_owned(),
        };
        assert_eq!(found, wanted, "{status:?}");
    }
}

#[tokio::test]
async fn says_so_at_once_where_no_replica_can_be_reached() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let address = listener.local_addr().expect("has one");
    drop(listener);
    let broker = Client::balanced(&format!("http://{address}"), Security::default()).expect("is an endpoint");
    let error = broker.token("merchant", "+447871239999").await.expect_err("nobody is there");
    assert_eq!(error.status().map(Status::code), Some(Code::Unavailable), "{error}");
    assert!(error.to_string().contains("no replica behind 127.0.0.1"), "{error}");
}
