//! A peer on a real socket, which reads and writes bytes and nothing else.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{VaultConfig, config};

/// Listens on loopback, and counts the connections and the requests that it has read whole.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) requests: Arc<AtomicUsize>,
    /// What came, connection by connection.
    pub(super) seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Peer {
    /// Serves each connection on a thread of its own, which ends when the client's side does.
    pub(super) fn start(serve: impl Fn(&mut Served) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let peer = Self {
            address: listener.local_addr().expect("it is bound"),
            connections: Arc::default(),
            requests: Arc::default(),
            seen: Arc::default(),
        };
        let (connections, requests, seen) = (Arc::clone(&peer.connections), Arc::clone(&peer.requests), Arc::clone(&peer.seen));
        let serve = Arc::new(serve);
        let runtime = tokio::runtime::Handle::current();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let before = connections.fetch_add(1, Ordering::SeqCst);
                let stream = stream.expect("it was accepted");
                let (requests, seen, runtime) = (Arc::clone(&requests), Arc::clone(&seen), runtime.clone());
                let mut served = Served { stream, before, requests, seen, runtime };
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(&mut served));
            }
        });
        peer
    }

    /// Answers every request with the same bytes.
    pub(super) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |served| {
            while served.request() {
                served.write(&answer);
            }
        })
    }

    pub(super) fn config(&self) -> VaultConfig {
        config(&format!("http://{}", self.address))
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }

    pub(super) fn seen(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("no thread panicked");
        seen.iter().map(|bytes| String::from_utf8(bytes.clone()).expect("requests are ASCII")).collect()
    }
}

/// One connection at the peer's side.
pub(super) struct Served {
    pub(super) stream: TcpStream,
    /// How many came before it.
    pub(super) before: usize,
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) seen: Arc<Mutex<Vec<Vec<u8>>>>,
    runtime: tokio::runtime::Handle,
}

impl Served {
    /// Reads one request; false where the client closed instead.
    pub(super) fn request(&mut self) -> bool {
        let Some(request) = read_request(&mut self.stream) else { return false };
        self.seen.lock().expect("no thread panicked").push(request);
        self.requests.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Waits for the client to close.
    pub(super) fn is_left_within(&mut self, pace: Duration) -> bool {
        self.stream.set_read_timeout(Some(pace)).expect("the pace is above zero");
        self.stream.read(&mut [0]).is_ok()
    }

    /// Lets the connection end with a reset in place of an orderly close.
    pub(super) fn reset(&self) {
        let _tokio = self.runtime.enter();
        let stream = self.stream.try_clone().expect("there are file descriptors left");
        stream.set_nonblocking(true).expect("tokio wants it so");
        let stream = tokio::net::TcpStream::from_std(stream).expect("the runtime still runs");
        stream.set_zero_linger().expect("it is a TCP socket");
    }

    /// Writes; false once the client is gone.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }
}

/// Reads a request of HTTP/1.1 with a `Content-Length`, to its last byte.
pub(super) fn read_request(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        request.push(byte[0]);
    }
    let head = String::from_utf8(request.clone()).expect("heads are ASCII");
    let (_, length) = head.split_once("content-length: ").expect("a body is announced");
    let mut body = vec![0; length.lines().next()?.parse().expect("is a number")];
    stream.read_exact(&mut body).ok()?;
    request.extend(body);
    Some(request)
}
