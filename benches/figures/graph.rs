//! The simulated Graph on a socket, for the figures: with or without gzip, and with a time stamp of
//! every delta request.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::simulator::{
    Edit, Mutation, Population, SimulatedResponse, Simulator, SimulatorSettings,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The start of every window; the window extends beyond the calendars' events.
pub(crate) const START: &str = "2026-01-01T00:00:00Z";
/// The end of every window.
pub(crate) const END: &str = "2027-01-01T00:00:00Z";
/// The middle of the window.
const AROUND: &str = "2026-07-01T12:00:00Z";

/// A running simulated Graph, stopped when dropped.
pub(crate) struct Graph {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    simulator: Simulator,
    address: SocketAddr,
    gzip: AtomicBool,
    requests: AtomicU64,
    arrivals: Mutex<Vec<Arrival>>,
}

/// A request for a delta page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) mailbox: usize,
    pub(crate) at: Timestamp,
}

/// The address of the mailbox with this number.
pub(crate) fn mailbox(number: usize) -> String {
    format!("m{number:05}@contoso.example")
}

impl Graph {
    /// Starts a Graph with this many mailboxes with empty calendars.
    pub(crate) async fn start(mailboxes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let simulator = Simulator::new(SimulatorSettings::new(7, Env::real()));
        simulator.set_base_url(&format!("http://{address}/v1.0"));
        // A cache for every page, so that no figure measures rendering.
        simulator.set_page_cache(4 << 30);
        for number in 0..mailboxes {
            simulator.add_mailbox(&mailbox(number));
        }
        let shared = Arc::new(Shared {
            simulator,
            address,
            gzip: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            arrivals: Mutex::default(),
        });
        let serving = tokio::spawn(serve(shared.clone(), listener));
        Self { shared, serving }
    }

    /// Fills every calendar with single events of about 3 KB.
    pub(crate) fn populate(&self, events: usize) {
        self.populate_with(events, 300);
    }

    /// Fills every calendar with single events whose bodies have so many bytes.
    pub(crate) fn populate_with(&self, events: usize, body_bytes: usize) {
        for mailbox in self.shared.simulator.mailboxes() {
            let plan = Population {
                singles: events,
                series: 0,
                all_day: 0,
                body_bytes,
                around: AROUND.parse().unwrap(),
                spread_days: 120,
            };
            self.shared.simulator.populate(&mailbox, None, plan);
        }
    }

    /// Adds one event to a calendar.
    pub(crate) fn add(&self, mailbox: &str, number: usize) {
        let start: Timestamp = AROUND.parse().unwrap();
        let edit = Edit::CreateSingle {
            subject: format!("Added {number}"),
            start: start + SignedDuration::from_hours(number as i64),
            minutes: 30,
        };
        let mutation = Mutation { mailbox: mailbox.to_owned(), calendar: None, edit };
        self.shared.simulator.mutate(mutation).unwrap();
    }

    /// Sets whether responses are compressed for clients that accept it.
    pub(crate) fn set_gzip(&self, gzip: bool) {
        self.shared.gzip.store(gzip, Ordering::Relaxed);
    }

    /// Sets the latency of every response.
    pub(crate) fn set_latency(&self, latency: std::ops::Range<Duration>) {
        self.shared.simulator.set_latency(latency);
    }

    /// The origin: `http://127.0.0.1:…`.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// An access token.
    pub(crate) fn token(&self) -> String {
        self.shared.simulator.access_token()
    }

    /// The number of delta requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The delta requests since the last call, in order of arrival.
    pub(crate) fn take_arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.shared.arrivals.lock().unwrap())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    // All connections are dropped with this task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        socket.set_nodelay(true).ok();
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| carry(&shared, request));
            // A client may close its connection.
            http1::Builder::new().serve_connection(TokioIo::new(socket), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(
    shared: &Shared,
    request: http::Request<Incoming>,
) -> io::Result<http::Response<Full<Bytes>>> {
    if let Some(mailbox) = asked(request.uri().path()) {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.arrivals.lock().unwrap().push(Arrival { mailbox, at: Timestamp::now() });
    }
    let (mut parts, body) = request.into_parts();
    if !shared.gzip.load(Ordering::Relaxed) {
        parts.headers.remove(http::header::ACCEPT_ENCODING);
    }
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    match shared.simulator.answer(http::Request::from_parts(parts, body)).await {
        SimulatedResponse::Response(response) => Ok(response.map(Full::new)),
        _ => Err(io::Error::other("no faults are planned")),
    }
}

/// The number of the mailbox whose delta stream a path requests.
pub(crate) fn asked(path: &str) -> Option<usize> {
    let (before, _) = path.split_once("@contoso.example/calendarView/delta")?;
    before.strip_prefix("/v1.0/users/m")?.parse().ok()
}
