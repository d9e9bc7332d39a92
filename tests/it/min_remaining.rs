//! `min_remaining`: a longer life than a token has left is fetched once, and said to be out of reach once a sign-in gave less.

use std::time::{Duration, Instant};

use token_broker_sandbox::Mode;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::support::{PATIENCE, Said, Setting, Stage, left};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Nothing but what is known keeps a sign-in from beginning.
const NO_FLOOR: &str = "min_sign_in_interval = \"0s\"";
const AT_EXPIRY: &str = "min_sign_in_interval = \"0s\"\nrenewal = \"at_expiry\"";

/// Asks for what no token has, many times over; how long they live, as the broker says.
async fn out_of_reach(stage: &Stage, wanted: Duration) -> u64 {
    let mut longest = 0;
    for _ in 0..20 {
        let said = Said::of(stage.living(wanted).await.expect_err("no token lives so long"));
        said.check(Code::FailedPrecondition, "MIN_REMAINING_UNATTAINABLE");
        longest = said.metadata["longest_seconds"].parse().expect("is a number");
    }
    longest
}

#[tokio::test]
async fn a_day_asked_of_a_vault_that_gives_an_hour_costs_one_sign_in_however_tokens_are_renewed() {
    for vault in [NO_FLOOR, AT_EXPIRY, "min_sign_in_interval = \"60s\""] {
        let mut setting = Setting::vault(vault).lifetime(HOUR);
        setting.options.mode = Mode::RevokeOld;
        let stage = setting.start().await;
        let longest = out_of_reach(&stage, DAY).await;
        assert!((3_540..3_600).contains(&longest), "{longest}");
        let others = stage.good_token().await;
        // Two callers that want more than there is, each something else, and one that wants what there is.
        tokio::join!(out_of_reach(&stage, DAY), out_of_reach(&stage, 2 * HOUR));
        assert!(left(&stage.living(HOUR / 2).await.expect("lives so long")) >= HOUR / 2);
        assert_eq!(stage.sandbox.sign_ins(), 1, "{vault}");
        assert!(stage.sandbox.is_live(&others.access_token), "nobody revoked it");
    }
}

/// Whatever the sign-in was for, it showed what the vault gives.
#[tokio::test]
async fn what_a_miss_or_a_complaint_brought_is_known_too() {
    for (mode, vault) in [(Mode::Fresh, NO_FLOOR), (Mode::SameToken, NO_FLOOR), (Mode::RevokeOld, AT_EXPIRY)] {
        let mut setting = Setting::vault(vault).lifetime(HOUR);
        setting.options.mode = mode;
        let stage = setting.start().await;
        let first = stage.good_token().await;
        out_of_reach(&stage, DAY).await;
        assert_eq!(stage.sandbox.sign_ins(), 1, "the miss");
        stage.complain(&first.token_id).await.expect("there is a token");
        out_of_reach(&stage, DAY).await;
        assert_eq!(stage.sandbox.sign_ins(), 2, "the complaint, with whichever token");
    }
}

#[tokio::test]
async fn what_the_last_token_had_and_this_one_has_no_more_is_one_sign_in() {
    let stage = Setting::vault(AT_EXPIRY).lifetime(HOUR).start().await;
    // What passes until the answer is here is no part of a token's life, and the next comes sooner.
    stage.sandbox.set_delay(Duration::from_secs(2));
    let first = stage.good_token().await;
    stage.sandbox.set_delay(Duration::ZERO);
    let wanted = left(&first);
    sleep(Duration::from_millis(1)).await;
    let next = stage.living(wanted).await.expect("another has so much");
    assert!(left(&next) >= wanted && next.token_id != first.token_id);
    out_of_reach(&stage, DAY).await;
    assert_eq!(stage.sandbox.sign_ins(), 2);
}

#[tokio::test]
async fn a_longer_life_is_fetched_once_the_token_falls_due() {
    for vault in [AT_EXPIRY, NO_FLOOR] {
        let stage = Setting::vault(vault).lifetime(Duration::from_secs(3)).start().await;
        let before = Instant::now();
        stage.good_token().await;
        stage.sandbox.set_lifetime(4 * HOUR);
        let longer = async {
            while let Err(error) = stage.living(2 * HOUR).await {
                Said::of(error).check(Code::FailedPrecondition, "MIN_REMAINING_UNATTAINABLE");
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, longer).await.expect("then it is fetched");
        // Its end is a whole second, and it falls due in the second half of its life.
        assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());
        assert_eq!(stage.sandbox.sign_ins(), 2, "{vault}");
    }
}
