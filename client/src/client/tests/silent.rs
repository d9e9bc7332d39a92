//! Replicas that accept and say nothing, from the first or from some time on; and calls that are over before an answer can be there.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, transport::Server};

use super::{liveness::ANSWER_TIMEOUT, *};
use crate::proto::{
    server::token_broker_service_server::{TokenBrokerService, TokenBrokerServiceServer},
    v1::GetTokenResponse,
};

/// No call of the ones here takes nearly as long, however busy the machine is; and sooner than a call's own time is over.
const FAR_TOO_LONG: Duration = Duration::from_secs(29);

/// What the replicas of a test are told, and what they saw.
struct Stage {
    /// Calls are answered.
    answering: watch::Sender<bool>,
    /// By number: whose bytes are passed on.
    speaking: watch::Sender<BTreeSet<u8>>,
    calls: AtomicUsize,
    connections: AtomicUsize,
    health: watch::Sender<usize>,
}

impl Stage {
    fn new(speaking: &[u8]) -> Arc<Self> {
        let speaking = watch::Sender::new(speaking.iter().copied().collect());
        let (answering, health) = (watch::Sender::new(true), watch::Sender::new(0));
        Arc::new(Self { answering, speaking, calls: AtomicUsize::new(0), connections: AtomicUsize::new(0), health })
    }

    fn speak(&self, numbers: &[u8]) {
        self.speaking.send_replace(numbers.iter().copied().collect());
    }
}

/// Answers with its number as the token, and is as healthy as the test is patient.
struct Broker(u8, Arc<Stage>);

#[tonic::async_trait]
impl TokenBrokerService for Broker {
    async fn get_token(&self, _request: Request<GetTokenRequest>) -> Result<Response<GetTokenResponse>, Status> {
        self.1.calls.fetch_add(1, Ordering::SeqCst);
        self.1.answering.subscribe().wait_for(|answering| *answering).await.expect("the test goes on");
        let token = Token { access_token: self.0.to_string(), ..Token::default() };
        Ok(Response::new(GetTokenResponse { token: Some(token) }))
    }
}

/// Replicas at 127.0.0.1, .2 …, each behind a relay that passes bytes on only while its number is among those who speak. What
/// is sent to a stopped process is taken by its kernel in the same way.
struct World {
    stage: Arc<Stage>,
    port: u16,
    connector: Connector,
    _tasks: JoinSet<()>,
}

impl World {
    async fn new(replicas: u8, speaking: &[u8]) -> Self {
        Self::with(replicas, speaking, ANSWER_TIMEOUT).await
    }

    /// One whose clients soon take silence for an absence: for tests that wait until they do.
    async fn impatient(replicas: u8, speaking: &[u8]) -> Self {
        Self::with(replicas, speaking, Duration::from_secs(1)).await
    }

    async fn with(replicas: u8, speaking: &[u8], answer_timeout: Duration) -> Self {
        let stage = Stage::new(speaking);
        let (mut tasks, mut port, mut addresses) = (JoinSet::new(), 0, Vec::new());
        for number in 1..=replicas {
            let behind = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            let target = behind.local_addr().expect("is bound");
            let broker = TokenBrokerServiceServer::new(Broker(number, Arc::clone(&stage)));
            let counted = Arc::clone(&stage);
            let count = tonic::service::InterceptorLayer::new(move |request| {
                counted.health.send_modify(|count| *count += 1);
                Ok::<_, Status>(request)
            });
            // Health isn't served, which is an answer too.
            let server = Server::builder().layer(count).add_service(broker);
            tasks.spawn(async move { drop(server.serve_with_incoming(TcpListenerStream::new(behind)).await) });
            let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, number), port)).await.expect("the port is free");
            port = listener.local_addr().expect("is bound").port();
            addresses.push(listener.local_addr().expect("is bound"));
            tasks.spawn(relay(listener, target, number, Arc::clone(&stage)));
        }
        let connector = Connector::with_answer_timeout(move |_host| Ok::<Vec<SocketAddr>, _>(addresses.clone()), answer_timeout);
        Self { stage, port, connector, _tasks: tasks }
    }

    fn balanced(&self) -> Client {
        let url = format!("http://replicas.test:{}", self.port);
        Client::balanced_with(&url, Security::default(), self.connector.clone()).expect("is an endpoint")
    }

    fn one(&self) -> Client {
        let endpoint = prepare(&format!("http://replicas.test:{}", self.port), &Security::default()).expect("is an endpoint");
        Client::over(Route::Single(Arc::new(Single::new(endpoint, self.connector.clone()))), None)
    }
}

async fn relay(listener: TcpListener, target: SocketAddr, number: u8, stage: Arc<Stage>) {
    let mut streams = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.expect("accepts");
        stage.connections.fetch_add(1, Ordering::SeqCst);
        let far = TcpStream::connect(target).await.expect("listens");
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        streams.spawn(pass(near_in, far_out, number, stage.speaking.subscribe()));
        streams.spawn(pass(far_in, near_out, number, stage.speaking.subscribe()));
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: u8, mut speaking: watch::Receiver<BTreeSet<u8>>) {
    let mut buffer = vec![0; 1 << 14];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or_default();
        if count == 0 || speaking.wait_for(|speaking| speaking.contains(&number)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn token(client: &Client) -> Result<String, ClientError> {
    client.token("m", "+447871239999").await.map(|token| token.access_token)
}

fn replicas(client: &Client) -> &Replicas {
    let Route::Balanced(replicas) = &client.route else { panic!("is balanced") };
    replicas
}

/// Calls until the replica of this number answers.
async fn answered_by(client: &Client, number: &str) {
    let answered = async { while !token(client).await.is_ok_and(|answer| answer == number) {} };
    tokio::time::timeout(FAR_TOO_LONG, answered).await.expect("it answers again");
}

#[tokio::test]
async fn a_replica_that_never_spoke_gets_no_calls() {
    let world = World::new(3, &[2, 3]).await;
    let client = world.balanced();
    for _ in 0..20 {
        assert_ne!(token(&client).await.expect("another answers"), "1");
    }
    world.stage.speak(&[1, 2, 3]);
    answered_by(&client, "1").await;
}

#[tokio::test]
async fn a_replica_that_falls_silent_costs_no_call_and_comes_back() {
    for time in [Duration::from_secs(2), DEFAULT_TIMEOUT] {
        let world = World::new(2, &[1, 2]).await;
        let client = world.balanced().timeout(time);
        replicas(&client).all(2).await;
        world.stage.speak(&[2]);
        // More than one of them is under way as it falls silent.
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let client = client.clone();
            calls.spawn(async move { token(&client).await });
        }
        for answer in calls.join_all().await {
            assert_eq!(answer.expect("the other answers"), "2", "{time:?}");
        }
        // And the next ones don't meet it at all.
        world.stage.answering.send_replace(true);
        let at_once = client.clone().timeout(Duration::from_secs(1));
        for _ in 0..20 {
            assert_eq!(token(&at_once).await.expect("the other answers"), "2");
        }
        world.stage.speak(&[1, 2]);
        answered_by(&client, "1").await;
    }
}

/// Each call ends before it can be told that its replica is silent.
#[tokio::test]
async fn calls_in_a_hurry_find_a_silent_replica_too() {
    let world = World::impatient(2, &[1, 2]).await;
    let client = world.balanced();
    replicas(&client).all(2).await;
    world.stage.speak(&[2]);
    let hurried = client.clone().timeout(Duration::from_millis(10));
    let found = async {
        while replicas(&client).in_turn() > 1 {
            drop(token(&hurried).await);
        }
    };
    tokio::time::timeout(FAR_TOO_LONG, found).await.expect("it is found");
    for _ in 0..20 {
        assert_eq!(token(&client).await.expect("the other answers"), "2");
    }
}

/// Two sign-ins for one call would be one too many.
#[tokio::test]
async fn a_call_that_waits_for_its_sign_in_waits_at_one_replica() {
    let world = World::new(2, &[1, 2]).await;
    let client = world.balanced();
    replicas(&client).all(2).await;
    world.stage.answering.send_replace(false);
    let (before, waiting) = (*world.stage.health.borrow(), token(&client));
    let answering = async {
        // It is asked three times whether it lives, and answers.
        let mut health = world.stage.health.subscribe();
        health.wait_for(|count| *count >= before + 1 + 3).await.expect("the test goes on");
        world.stage.answering.send_replace(true);
    };
    let both = async { tokio::join!(waiting, answering).0 };
    tokio::time::timeout(FAR_TOO_LONG, both).await.expect("ends").expect("there is a token");
    assert_eq!(world.stage.calls.load(Ordering::SeqCst), 1);
    assert_eq!(world.stage.connections.load(Ordering::SeqCst), 2);
}

/// Where there is no other to ask, it is waited for.
#[tokio::test]
async fn a_silence_of_the_only_replica_is_sat_out() {
    let world = World::impatient(1, &[1]).await;
    let client = world.balanced();
    replicas(&client).all(1).await;
    world.stage.speak(&[]);
    let speaking = async {
        replicas(&client).all(0).await;
        world.stage.speak(&[1]);
    };
    let both = async { tokio::join!(token(&client), speaking).0 };
    let answer = tokio::time::timeout(FAR_TOO_LONG, both).await.expect("ends");
    assert_eq!(answer.expect("there is a token"), "1");
}

/// That a caller's time is over says nothing of the replica.
#[tokio::test]
async fn a_short_time_costs_no_connection() {
    for balanced in [true, false] {
        let world = World::new(1, &[1]).await;
        let client = if balanced { world.balanced() } else { world.one() };
        token(&client).await.expect("there is a token");
        world.stage.answering.send_replace(false);
        for millis in [1, 2, 5, 10, 50, 100] {
            let hurried = client.clone().timeout(Duration::from_millis(millis));
            for _ in 0..10 {
                let error = token(&hurried).await.expect_err("it is not answered");
                assert_eq!(error.status().map(Status::code), Some(Code::DeadlineExceeded), "{error}");
                // A caller may also just go.
                drop(tokio::time::timeout(Duration::from_millis(millis), token(&client)).await);
            }
        }
        world.stage.answering.send_replace(true);
        token(&client).await.expect("there is a token");
        assert_eq!(world.stage.connections.load(Ordering::SeqCst), 1, "{balanced}");
    }
}

/// A name with one address, as a service's: who is behind it next may speak.
#[tokio::test]
async fn one_address_that_falls_silent_is_connected_to_anew() {
    let world = World::impatient(1, &[1]).await;
    let client = world.one();
    token(&client).await.expect("there is a token");
    world.stage.speak(&[]);
    let hurried = client.clone().timeout(Duration::from_millis(10));
    let anew = async {
        while world.stage.connections.load(Ordering::SeqCst) == 1 {
            drop(token(&hurried).await);
        }
    };
    tokio::time::timeout(FAR_TOO_LONG, anew).await.expect("it is given up");
    world.stage.speak(&[1]);
    answered_by(&client, "1").await;
}

#[tokio::test]
async fn a_call_in_a_hurry_leaves_its_connection_to_the_next() {
    let world = World::new(1, &[1]).await;
    let (asked, looked_up) = sync_channel(8);
    let (go, gone) = sync_channel::<()>(8);
    let (gone, address) = (std::sync::Mutex::new(gone), SocketAddr::from((Ipv4Addr::LOCALHOST, world.port)));
    let connector = Connector::new(move |_host| {
        asked.send(()).expect("is counted");
        drop(gone.lock().map(|gone| gone.recv()));
        Ok(vec![address])
    });
    let url = format!("http://slow.test:{}", world.port);
    let one = Arc::new(Single::new(prepare(&url, &Security::default()).expect("is an endpoint"), connector));
    let client = Client::over(Route::Single(Arc::clone(&one)), None);
    token(&client.clone().timeout(Duration::from_millis(200))).await.expect_err("its name is looked up");
    go.send(()).expect("it waits");
    one.reached().await.expect("the look-up went on");
    token(&client).await.expect("there is a token");
    assert_eq!(looked_up.try_iter().count(), 1, "looked up once");
}

/// Nor is one asked that ends, until it says that it doesn't.
#[tokio::test]
async fn a_retry_goes_to_another_than_who_has_just_turned_it_away() {
    let world = World::new(3, &[1, 2, 3]).await;
    let client = world.balanced();
    let replicas = replicas(&client);
    replicas.all(3).await;
    let first = replicas.next(None).await.expect("there are three");
    for _ in 0..9 {
        assert!(!replicas.next(Some(&first)).await.expect("there are two").is(&first));
    }
    replicas.ends(&first);
    let noted = async {
        while replicas.willing() == 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(FAR_TOO_LONG, noted).await.expect("it is noted");
    for _ in 0..9 {
        assert!(!replicas.next(None).await.expect("there are two").is(&first));
    }
    let back = async {
        while replicas.willing() < 3 {
            drop(token(&client).await);
        }
    };
    tokio::time::timeout(FAR_TOO_LONG, back).await.expect("it is asked, and serves");
}

/// A name that stands for nobody is no reason to wait.
#[tokio::test]
async fn a_name_without_addresses_is_told_at_once() {
    let connector = Connector::new(|_host| Ok(Vec::new()));
    let client = Client::balanced_with("http://nobody.test:1", Security::default(), connector).expect("is an endpoint");
    let told = tokio::time::timeout(FAR_TOO_LONG, token(&client)).await.expect("not after 30 s");
    let error = told.expect_err("there is nobody");
    assert_eq!(error.to_string(), "nobody.test has no address");
}
