//! A way to a server that loses what is sent on it: whoever asks hears nothing, and the server never knows.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Passes on what is sent. Dropped, it hangs up.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    accepted: Arc<AtomicUsize>,
    /// On connections before this one all is lost.
    first_good: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("is bound").port();
        let (accepted, first_good) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, good) = (Arc::clone(&accepted), Arc::clone(&first_good));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (n, good) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&good));
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                    connections.spawn(pass(client, server, move || n >= good.load(Ordering::SeqCst)));
                }
            }
        });
        Self { port: at, accepted, first_good, _accepting: accepting }
    }

    /// From now on loses what is sent on the connections that there are, but not on new ones.
    pub(crate) fn lose(&self) {
        self.first_good.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: TcpStream, is_good: impl Fn() -> bool) {
    let ((mut asks, mut hears), (mut answers, mut asked)) = (client.into_split(), server.into_split());
    let asking = async {
        let mut chunk = [0; 4_096];
        while let Ok(length @ 1..) = asks.read(&mut chunk).await {
            if is_good() && asked.write_all(&chunk[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        _ = tokio::io::copy(&mut answers, &mut hears) => {}
    }
}
