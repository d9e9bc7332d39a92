//! A user who is forgotten while its sign-in is under way, and comes back with a record of its own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use token_broker::{
    broker::{Answer, Broker, NoToken, Request},
    caller::CallerId,
    clock::SystemClock,
    live::{Live, Snapshot},
    telemetry::traces::Span,
};
use tokio::time::{Duration, Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{
    broker_in_memory::{configuration, key, parts, user},
    scripted_vault::{at, grant, secs},
};

#[tokio::test(start_paused = true)]
async fn what_a_forgotten_users_sign_in_brings_takes_nobody_elses_place() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // The first answer is slow, and the numbers tell the tokens apart.
    let settings = at("vault", move |_, _| {
        let nth = count.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            sleep(if nth == 1 { secs(3) } else { Duration::ZERO }).await;
            grant(&nth.to_string(), secs(86_400))
        })
    });
    let next = |snapshot: &Snapshot, users| snapshot.next(configuration(users, settings.clone()), Instant::now()).0;
    let first = Snapshot::new(configuration(vec![user(1, "a")], settings.clone()));
    // All that was done before the sign-in begins, so that nothing tells that this user is to be remembered.
    let back = next(&next(&next(&first, Vec::new()), Vec::new()), vec![user(1, "a")]);
    let live = Live::new(first);
    let broker = Arc::new(Broker::new(parts(Arc::new(SystemClock), 1, 7), live.clone(), CancellationToken::new()));
    let renewing = Arc::clone(&broker);
    let renewing = tokio::spawn(async move { renewing.renew_ahead().await });

    let slow = tokio::spawn(ask(&broker));
    sleep(secs(1)).await;
    live.store(Arc::new(back));
    assert_eq!(ask(&broker).await.map(text), Ok("2".to_owned()));
    assert_eq!(slow.await.expect("it does not panic").map(text), Ok("1".to_owned()), "whoever waits for it gets it");
    // By then whatever moka does not keep is freed.
    sleep(secs(60)).await;
    assert_eq!(ask(&broker).await.map(text), Ok("2".to_owned()));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    renewing.abort();
}

fn ask(broker: &Arc<Broker>) -> impl Future<Output = Result<Answer, NoToken>> + Send + use<> {
    let request = Request {
        key: Arc::new(key(1)),
        min_remaining: Duration::ZERO,
        rejected_token_ids: Vec::new(),
        deadline: Instant::now() + secs(30),
        span: Span::default(),
    };
    let broker = Arc::clone(broker);
    async move { broker.get_token(broker.in_force(), &CallerId::Anonymous, &request, || ()).await }
}

fn text(answer: Answer) -> String {
    answer.cached.token.access_token.expose().to_owned()
}
