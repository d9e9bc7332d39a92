//! The examples of the client crate's documentation, run as they stand there. (That of its middleware, which takes features, is run
//! there.)

#[allow(unreachable_pub, reason = "they stand in the documentation")]
#[path = "../../client/examples/documentation/client.rs"]
mod client;
#[allow(unreachable_pub, reason = "they stand in the documentation")]
#[path = "../../client/examples/documentation/token.rs"]
mod token;

use crate::support::Setting;

#[tokio::test]
async fn the_examples_of_the_documentation_get_tokens() {
    let stage = Setting::default().start().await;
    token::ask(&stage.endpoint).await.expect("is well told");
    assert_eq!(stage.sandbox.sign_ins(), 1);
    let header = client::header(&stage.endpoint).await.expect("there is a token");
    assert!(header.strip_prefix("Bearer ").is_some_and(|token| stage.sandbox.is_live(token)));
}
