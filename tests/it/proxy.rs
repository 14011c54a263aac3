//! A network between the daemon and a target.

use std::future::pending;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// What happens to data and to new connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Passage {
    Open,
    /// Connections are accepted, and nothing passes.
    Stalled,
    /// Connections are closed at once.
    Refused,
}

/// How many more bytes pass before all connections are closed: to the target, and to the daemon.
type ByteBudget = [Option<usize>; 2];

const TO_TARGET: usize = 0;
const TO_DAEMON: usize = 1;

/// A port that leads to a target, as long as nothing is broken.
pub(crate) struct ChaosProxy {
    pub(crate) port: u16,
    network: Arc<Network>,
    accepting: JoinHandle<()>,
}

struct Network {
    target: (String, u16),
    passage: watch::Sender<Passage>,
    budget: Mutex<ByteBudget>,
    /// Closes the connections that are open.
    closing: Mutex<CancellationToken>,
    /// Whether what was sent into a stalled connection arrives later, even if its sender has given
    /// up; if not, a stalled connection is lost.
    delivers_late: bool,
}

impl ChaosProxy {
    pub(crate) async fn new(target: (String, u16), delivers_late: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = Arc::new(Network {
            target,
            passage: watch::channel(Passage::Open).0,
            budget: Mutex::default(),
            closing: Mutex::default(),
            delivers_late,
        });
        let accepting = tokio::spawn(network.clone().accept(listener));
        Self { port, network, accepting }
    }

    /// Breaks the network in one of several ways; says how.
    pub(crate) fn harm(&self, chance: &mut Rng) -> String {
        let cut = |direction: usize, bytes: usize| {
            self.network.budget.lock().unwrap()[direction] = Some(bytes);
            format!("cut after {bytes} bytes {}", ["to the target", "to the daemon"][direction])
        };
        // Few bytes are within a handshake or an answer, many within a batch.
        match chance.u8(..6) {
            0 => cut(TO_TARGET, chance.usize(..3_000)),
            1 => cut(TO_TARGET, chance.usize(..300_000)),
            2 => cut(TO_DAEMON, 0),
            3 => cut(TO_DAEMON, chance.usize(..2_000)),
            4 => {
                self.network.cut();
                "refused".to_owned()
            }
            _ => {
                self.network.passage.send_replace(Passage::Stalled);
                "stalled".to_owned()
            }
        }
    }

    pub(crate) fn heal(&self) {
        *self.network.budget.lock().unwrap() = ByteBudget::default();
        if !self.network.delivers_late {
            self.network.cut();
        }
        self.network.passage.send_replace(Passage::Open);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Network {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if *self.passage.borrow() != Passage::Refused {
                connections.spawn(self.clone().connect(stream));
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connect(self: Arc<Self>, daemon: TcpStream) {
        let closed = self.closing.lock().unwrap().clone();
        let Ok(target) = TcpStream::connect(self.target.clone()).await else { return };
        let (from_daemon, to_daemon) = daemon.into_split();
        let (from_target, to_target) = target.into_split();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.pass(TO_TARGET, from_daemon, to_target) => {}
            () = self.pass(TO_DAEMON, from_target, to_daemon) => {}
        }
    }

    /// Passes data on in one direction until the connection ends.
    async fn pass(&self, direction: usize, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut passage = self.passage.subscribe();
        let mut buffer = [0; 16 << 10];
        loop {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            if passage.wait_for(|passage| *passage != Passage::Stalled).await.is_err() || read == 0
            {
                return;
            }
            let admitted = self.admit(direction, read);
            if to.write_all(&buffer[..admitted]).await.is_err() {
                return;
            }
            if admitted < read {
                self.cut();
                // The cancellation ends this, too.
                pending::<()>().await;
            }
        }
    }

    /// How many of so many bytes pass.
    fn admit(&self, direction: usize, wanted: usize) -> usize {
        let mut budget = self.budget.lock().unwrap();
        let Some(left) = &mut budget[direction] else { return wanted };
        let admitted = wanted.min(*left);
        *left -= admitted;
        admitted
    }

    /// Closes all connections, and refuses others.
    fn cut(&self) {
        self.passage.send_replace(Passage::Refused);
        std::mem::take(&mut *self.closing.lock().unwrap()).cancel();
    }
}
