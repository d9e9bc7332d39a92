//! A day in paused time with a vault that answers with 4xx and grants nobody a token: how often does it get a password?

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    broker::{Broker, Request},
    caller::CallerId,
    clock::SystemClock,
    config::{Renewal, UserConfig},
    live::{CallerLimits, Configuration, Live, Serving, Settings, Snapshot},
    policy::Policy,
    signin::Parts,
    telemetry::{
        audit::Audit,
        traces::{Span, Traces},
    },
    tokens::cache::Cache,
    user::{MerchantId, Number, UserKey},
    users::{hold_file::HoldFile, holds::Rules, refresh_queue::RefreshQueue},
    vault::{SignIn, SigningIn},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const REPLIES: usize = 200;
/// From one call of a user to the next.
const PAUSE: Duration = Duration::from_secs(20);

/// Answers always the same, and counts what it gets.
#[derive(Debug)]
struct Closed {
    status: u16,
    body: Vec<u8>,
    sent: Mutex<HashMap<String, u32>>,
}

impl SignIn for Closed {
    fn sign_in<'a>(&'a self, user: &'a UserKey, password: &'a Secret, _: &'a Span) -> SigningIn<'a> {
        let version = format!("{} {}", user.number.expose(), password.expose());
        *self.sent.lock().expect("no panic").entry(version).or_default() += 1;
        Box::pin(async { classify(&reply(self.status, &[], &self.body), &asked()).map(|granted| granted.grant) })
    }
}

/// A reply as nobody has documented it: of any status 4xx, in any wrapping, with any name.
fn generated(random: &mut fastrand::Rng) -> (u16, Vec<u8>) {
    let status = random.u16(400..500);
    let name: String = (0..random.usize(1..20)).map(|_| random.alphanumeric()).collect();
    let known =
        ["invalid_grant", "INVALID_CLIENT", "LOGIN_ATTEMPTS_EXCEEDED", "WAF_LOCK_NOT_IN_LIST", "CUSTOMER_NOT_FOUND_EXCEPTION"];
    let name = if random.u8(..3) == 0 { (*random.choice(&known).expect("there are some")).to_owned() } else { name };
    let body = match random.u8(..8) {
        0 => String::new(),
        1 => format!("<html><h1>{status} {name}</h1></html>"),
        2 => format!(r#"{{"error":{{"code":"{name}"}}}}"#),
        3 => format!(r#"{{"timestamp":"2026","status":{status},"error":"{name}","path":"/oauth/token"}}"#),
        4 => format!(r#"{{"errorId":{},"error":"{name}","message":"m"}}"#, random.u16(1_000..2_000)),
        5 => format!("error={name}&error_description=no"),
        6 => format!(r#"[{{"message":"{name}"}}"#),
        _ => format!(r#"{{"error":"{name}""#),
    };
    let mut body = body.into_bytes();
    match random.u8(..4) {
        0 => body.splice(..0, *b"\xef\xbb\xbf").for_each(drop),
        1 => body.insert(random.usize(..=body.len()), 0xff),
        _ => {}
    }
    (status, body)
}

fn user(n: usize) -> UserConfig {
    let key = UserKey {
        merchant: MerchantId::parse(format!("m{n}")).expect("is valid"),
        number: Number::parse(format!("+4478{n:08}")).expect("is valid"),
    };
    UserConfig { key, password: Secret::from("a"), attempt: 0 }
}

#[allow(clippy::disallowed_methods, reason = "time is paused")]
fn now() -> Instant {
    Instant::now()
}

/// Callers ask for each of some users all day, and the configuration is read again every hour.
async fn a_day(vault: Arc<Closed>, users: usize, seed: u64) {
    let configured = || (0..users).map(user).collect::<Vec<_>>();
    let clock = Arc::new(SystemClock);
    let parts = Parts {
        clock: clock.clone(),
        cache: Cache::new(users),
        hold_file: HoldFile::default(),
        tier: crate::tier::Tier::default(),
        refresh_queue: Arc::new(RefreshQueue::new(clock)),
        metrics: Arc::default(),
        traces: Traces::default(),
        audit: Audit::default(),
        runtime: Handle::current(),
        seed,
    };
    let settings = Settings {
        upstream: Arc::from("the vault"),
        sign_in: vault,
        timeout: Duration::from_secs(10),
        rules: Rules { min_sign_in_interval: Duration::from_secs(5), refusal_hold: DAY },
        renewal: Renewal::Ahead,
        sign_out: false,
        max_concurrent_sign_ins: 64,
        idle_after: DAY,
        caller_limits: CallerLimits { sign_ins_per_minute: u32::MAX, forced_sign_ins_per_minute: u32::MAX },
    };
    let configuration = || Configuration {
        users: configured(),
        policy: Policy::Everyone,
        settings: settings.clone(),
        serving: Serving::default(),
    };
    let broker = Broker::new(parts, Live::new(Snapshot::new(configuration())), CancellationToken::new());
    let began = now();
    let mut reloaded = began;
    while began.elapsed() < DAY {
        for user in configured() {
            let deadline = now() + Duration::from_secs(1);
            let request = Request {
                key: Arc::new(user.key),
                min_remaining: Duration::ZERO,
                rejected_token_ids: Vec::new(),
                deadline,
                span: Span::default(),
            };
            broker.get_token(broker.in_force(), &CallerId::Anonymous, &request, || ()).await.expect_err("nobody gets a token");
        }
        if reloaded.elapsed() > DAY / 24 {
            reloaded = now();
            broker.reconfigure(configuration());
        }
        sleep(PAUSE).await;
    }
}

/// "One version of a credential is sent at most three times": what is documented as a wait, and what says that nobody judged it,
/// is tried on, ever more rarely the one, as after any outage the other.
#[tokio::test(start_paused = true)]
async fn a_closed_vault_gets_each_password_three_times_a_day_at_most() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut most: HashMap<&str, u32> = HashMap::new();
    for _ in 0..REPLIES {
        let (status, body) = generated(&mut random);
        let users = random.usize(1..=4);
        let class = match read(status, &body) {
            Err(Failure::Refused { .. }) => "refused",
            Err(Failure::Undocumented { .. }) => "undocumented",
            Err(Failure::Throttled { .. }) => "throttled",
            Err(Failure::Unavailable { .. }) => "outage",
            other => panic!("{status} {} is read as {other:?}", body.escape_ascii()),
        };
        let vault = Arc::new(Closed { status, body, sent: Mutex::default() });
        a_day(Arc::clone(&vault), users, random.u64(..)).await;
        let sent = vault.sent.lock().expect("no panic").values().copied().max().unwrap_or_default();
        let bound = match class {
            "refused" => 1,
            "undocumented" => 3,
            // 60 s, doubling from the third on: eleven of them fill a day.
            "throttled" => 14,
            _ => u32::MAX,
        };
        let (status, body) = (vault.status, vault.body.escape_ascii());
        assert!(sent <= bound, "{users} users, {status} {body}: sent {sent} times");
        let most = most.entry(class).or_default();
        *most = sent.max(*most);
    }
    println!("{REPLIES} replies, sent at most: {most:?}");
}
