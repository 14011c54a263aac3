//! A Graph in which nothing ever happens: every delta request gets an empty last page. It costs
//! less than the simulator, so that a million windows fit beside it.

use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::graph::{Arrival, asked};

/// The answer to every sign-in.
const GRANTED: &str = r#"{"token_type":"Bearer","access_token":"quiet","expires_in":86400}"#;

/// A running quiet Graph, stopped when dropped.
pub(crate) struct QuietGraph {
    origin: String,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    serving: JoinHandle<()>,
}

impl QuietGraph {
    /// Starts a Graph that has every mailbox.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let arrivals = Arc::default();
        let serving = tokio::spawn(serve(listener, origin.clone(), Arc::clone(&arrivals)));
        Self { origin, arrivals, serving }
    }

    /// The origin: `http://127.0.0.1:…`.
    pub(crate) fn origin(&self) -> String {
        self.origin.clone()
    }

    /// The delta requests since the last call, in order of arrival.
    pub(crate) fn take_arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.arrivals.lock().unwrap())
    }
}

impl Drop for QuietGraph {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, origin: String, arrivals: Arc<Mutex<Vec<Arrival>>>) {
    // All connections are dropped with this task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        socket.set_nodelay(true).ok();
        let (origin, arrivals) = (origin.clone(), arrivals.clone());
        connections.spawn(async move {
            let service = service_fn(|request: http::Request<Incoming>| {
                let answer = answer(&request, &origin, &arrivals);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            // A client may close its connection.
            http1::Builder::new().serve_connection(TokioIo::new(socket), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(
    request: &http::Request<Incoming>,
    origin: &str,
    arrivals: &Mutex<Vec<Arrival>>,
) -> http::Response<Full<Bytes>> {
    let path = request.uri().path();
    let body = match asked(path) {
        Some(mailbox) => {
            arrivals.lock().unwrap().push(Arrival { mailbox, at: Timestamp::now() });
            let link = link(origin, path);
            format!(r#"{{"value":[],"@odata.deltaLink":"{link}"}}"#)
        }
        None => GRANTED.to_owned(),
    };
    let response = http::Response::builder().header("content-type", "application/json");
    response.body(Full::new(body.into())).unwrap()
}

/// The delta link of a path, as long as Graph's.
pub(crate) fn link(origin: &str, path: &str) -> String {
    format!("{origin}{path}?$deltatoken={:0>600}", 1)
}
