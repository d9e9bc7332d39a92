//! What the server holds is never believed further than it is sealed.

use std::time::Duration;

use super::ground::{Ground, answers, caller, complain, metric, metric_is, numbers, shared_entries, token};
use crate::support::{MERCHANT, NUMBER, PASSWORD, user};

const WRITTEN: &str = "token_broker_shared_operations_total{operation=\"write\",result=\"done\"}";

#[tokio::test]
async fn entries_that_were_changed_swapped_or_made_up_are_none() {
    let ground = Ground::with_users(2).await;
    let numbers = numbers(2);
    let first = ground.replica().await;
    let mut tokens = Vec::new();
    for number in &numbers {
        tokens.push(first.client.token(MERCHANT, number).await.expect("there is a token").token_id);
    }
    metric_is(&first.admin, WRITTEN, 2).await;
    let names = ground.redis.names("tb1:t:");
    let (one, other) = (ground.redis.get(&names[0]), ground.redis.get(&names[1]));
    let mut changed = one.clone();
    *changed.last_mut().expect("is not empty") ^= 1;
    let mut refiled = one.clone();
    refiled[1..5].copy_from_slice(&2_u32.to_be_bytes());
    let mut sign_ins = 2;
    for (put, result) in [
        ([&changed, &other], "tampered"),
        ([&other, &one], "tampered"),
        ([&refiled, &other], "foreign"),
        ([&one[..7].to_vec(), &other], "foreign"),
        ([&b"nonsense that is longer than a head".to_vec(), &other], "foreign"),
    ] {
        ground.redis.replace(&names[0], put[0]);
        ground.redis.replace(&names[1], put[1]);
        let replica = ground.replica().await;
        for number in &numbers {
            let answered = replica.client.token(MERCHANT, number).await.expect("there is a token");
            assert!(ground.sandbox.is_live(&answered.access_token));
        }
        assert!(metric(&replica.admin, &shared_entries(result)).await > 0, "{result}");
        assert!(ground.sandbox.sign_ins() > sign_ins, "{result}");
        sign_ins = ground.sandbox.sign_ins();
    }
}

#[tokio::test]
async fn a_former_token_that_is_put_back_is_not_taken_by_who_knows_better() {
    let mut ground = Ground::new().await;
    ground.vault = "min_sign_in_interval = \"0s\"".to_owned();
    let replica = ground.replica().await;
    let dead = token(&replica.client).await;
    metric_is(&replica.admin, WRITTEN, 1).await;
    let name = &ground.redis.names("tb1:t:")[0];
    let former = ground.redis.get(name);
    let second = complain(&caller(&replica.endpoint), &dead.token_id).await.expect("there is a token");
    metric_is(&replica.admin, WRITTEN, 2).await;
    ground.redis.replace(name, &former);
    let third = complain(&caller(&replica.endpoint), &second.token_id).await.expect("there is a token");
    assert!(third.token_id != dead.token_id && third.token_id != second.token_id);
    assert!(metric(&replica.admin, &shared_entries("replayed")).await > 0);
    assert_eq!(ground.sandbox.sign_ins(), 3);
}

#[tokio::test]
async fn an_entry_kept_for_ever_or_beyond_its_end_gives_no_life() {
    let ground = Ground::new().await;
    ground.sandbox.set_lifetime(Duration::from_secs(3));
    let first = ground.replica().await;
    let held = token(&first.client).await;
    metric_is(&first.admin, WRITTEN, 1).await;
    let name = ground.redis.names("tb1:t:").remove(0);
    ground.redis.command(&format!("PEXPIRE {name} 600000"));
    let second = ground.replica().await;
    let same = token(&second.client).await;
    assert_eq!(same.token_id, held.token_id);
    assert!(crate::support::left(&same) <= Duration::from_secs(3));
    ground.redis.command(&format!("PERSIST {name}"));
    let third = ground.replica().await;
    assert_ne!(token(&third.client).await.token_id, held.token_id, "who keeps it for ever is not who wrote it");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let fourth = ground.replica().await;
    assert!(ground.sandbox.is_live(&token(&fourth.client).await.access_token));
}

#[tokio::test]
async fn replicas_of_other_passwords_and_other_keys_share_nothing() {
    let mut ground = Ground::new().await;
    let first = ground.replica().await;
    let held = token(&first.client).await;
    metric_is(&first.admin, WRITTEN, 1).await;
    // Another attempt is another version of the credential.
    ground.users = user(NUMBER, PASSWORD) + "attempt = 1\n";
    let second = ground.replica().await;
    let theirs = token(&second.client).await;
    assert_ne!(theirs.token_id, held.token_id);
    metric_is(&second.admin, WRITTEN, 1).await;
    answers(&first.endpoint, &held.token_id).await;
    let names = format!("name_key_file = \"{}\"", ground.files.path().join("other-names").display());
    ground.shared = names;
    let third = ground.replica().await;
    assert!(![&held.token_id, &theirs.token_id].contains(&&token(&third.client).await.token_id));
    assert_eq!(ground.sandbox.sign_ins(), 3);
}
