//! The real transport against a small server on a port of its own.

mod network;
pub(crate) mod servers;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::env::Env;
use crate::graph::script::{edges, options, sign_in};
use crate::graph::{Budgets, GraphClient, PageStart, SignInSettings, Tokens};
use crate::metrics::Gauge;
use crate::mirror::account::Credential;
use crate::mirror::failure::ErrorClass;
use crate::mirror::window::CalendarRef;

/// What the server does after it has read a request.
#[derive(Clone)]
enum Deed {
    /// Writes this and keeps the connection.
    Write(Vec<u8>),
    /// Writes this and closes.
    Close(Vec<u8>),
    /// Writes this and then nothing more.
    Stall(Vec<u8>),
}

/// A server that does the same for every request. Ends with the test.
struct Server {
    base: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    last: Arc<std::sync::Mutex<String>>,
    tasks: JoinSet<()>,
}

async fn serve(deed: Deed) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let mut server = Server {
        base,
        connections: Arc::default(),
        requests: Arc::default(),
        last: Arc::default(),
        tasks: JoinSet::new(),
    };
    let connections = server.connections.clone();
    let (requests, last) = (server.requests.clone(), server.last.clone());
    server.tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            open.spawn(converse(stream, deed.clone(), requests.clone(), last.clone()));
        }
    });
    server
}

async fn converse(
    mut stream: TcpStream,
    deed: Deed,
    requests: Arc<AtomicUsize>,
    last: Arc<std::sync::Mutex<String>>,
) {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => read.push(byte),
                Err(_) => return,
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        *last.lock().unwrap() = String::from_utf8(std::mem::take(&mut read)).unwrap();
        match &deed {
            Deed::Write(bytes) => stream.write_all(bytes).await.unwrap_or_default(),
            Deed::Close(bytes) => return stream.write_all(bytes).await.unwrap_or_default(),
            Deed::Stall(bytes) => {
                stream.write_all(bytes).await.unwrap_or_default();
                std::future::pending().await
            }
        }
    }
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn gzipped(body: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body).unwrap();
    gzip.finish().unwrap()
}

fn get(server: &Server, path: &str) -> http::Request<Bytes> {
    http::Request::get(format!("{}{path}", server.base)).body(Bytes::new()).unwrap()
}

/// Sends one request and reads the whole answer.
async fn fetch(server: &Server) -> Result<(http::StatusCode, Bytes), TransportError> {
    let transport = HttpTransport::new().unwrap();
    let (head, body) = transport.send(get(server, "/canary?$token=canary")).await?.into_parts();
    Ok((head.status, body.read(1 << 20).await?))
}

async fn fault(deed: Deed) -> TransportErrorKind {
    let error = fetch(&serve(deed).await).await.unwrap_err();
    let mut shown = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        shown += &format!(" {error} {error:?}");
        cause = error.source();
    }
    assert!(!shown.contains("canary"), "{shown}");
    error.kind()
}

#[tokio::test]
async fn compressed_bodies_are_requested_and_decoded() {
    let server = serve(Deed::Write(answer("content-encoding: gzip\r\n", &gzipped(b"hello")))).await;
    let (status, body) = fetch(&server).await.unwrap();
    assert_eq!((status, &*body), (http::StatusCode::OK, &b"hello"[..]));
    let asked = server.last.lock().unwrap().to_ascii_lowercase();
    assert!(asked.contains("accept-encoding: gzip\r\n"), "{asked}");
    assert!(asked.contains("user-agent: calmirror/"), "{asked}");
}

#[tokio::test]
async fn incomplete_bodies_are_errors() {
    let whole = gzipped(&b"hello ".repeat(1000));
    let cut = &whole[..whole.len() / 2];
    assert_eq!(
        fault(Deed::Close(answer("content-encoding: gzip\r\n", cut))).await,
        TransportErrorKind::Body
    );
    let gzip = answer("content-encoding: gzip\r\n", b"no gzip at all");
    assert_eq!(fault(Deed::Close(gzip)).await, TransportErrorKind::Body);
    let mut short = answer("", b"hello");
    short.truncate(short.len() - 1);
    assert_eq!(fault(Deed::Close(short)).await, TransportErrorKind::Reset);
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec();
    assert_eq!(fault(Deed::Close(chunked)).await, TransportErrorKind::Reset);
}

#[tokio::test]
async fn connections_that_end_early_or_send_garbage_are_resets() {
    assert_eq!(fault(Deed::Close(Vec::new())).await, TransportErrorKind::Reset);
    assert_eq!(fault(Deed::Close(b"HTTP/1.1 20".to_vec())).await, TransportErrorKind::Reset);
    assert_eq!(fault(Deed::Close(b"SSH-2.0-canary\r\n".to_vec())).await, TransportErrorKind::Reset);
}

#[tokio::test]
async fn a_refused_connection_is_no_connection() {
    let server = serve(Deed::Close(Vec::new())).await;
    let Server { base, mut tasks, .. } = server;
    tasks.shutdown().await;
    let request = http::Request::get(&base).body(Bytes::new()).unwrap();
    let error = HttpTransport::new().unwrap().send(request).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Connect);
    let host = base.strip_prefix("http://").unwrap();
    assert_eq!(
        error.to_string(),
        format!("{host} refused the connection; check the address and the firewall")
    );
}

#[test]
fn every_cause_of_a_failed_connection_has_a_message_of_its_own() {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Other};
    use rustls::CertificateError::{
        BadEncoding, BadSignature, Expired, NotValidForName, NotValidYet, UnknownIssuer,
    };
    let uri = Uri::from_static("https://graph.microsoft.com/canary?$token=canary");
    let tls = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let certificate = |error| tls(rustls::Error::InvalidCertificate(error));
    let mut said = Vec::new();
    for (error, start) in [
        (ConnectionRefused.into(), "graph.microsoft.com refused"),
        (HostUnreachable.into(), "there is no route to graph.microsoft.com"),
        (ConnectionReset.into(), "the connection to graph.microsoft.com ended"),
        (
            certificate(UnknownIssuer),
            "the certificate of graph.microsoft.com is from an unknown authority",
        ),
        (
            certificate(NotValidForName),
            "the certificate of graph.microsoft.com is for another name",
        ),
        (
            certificate(Expired),
            "the certificate of graph.microsoft.com has expired; check this machine's clock",
        ),
        (certificate(NotValidYet), "the certificate of graph.microsoft.com is not valid yet"),
        (
            certificate(BadSignature),
            "the certificate of graph.microsoft.com is signed with another",
        ),
        (certificate(BadEncoding), "the certificate of graph.microsoft.com was not accepted"),
        (tls(rustls::Error::HandshakeNotComplete), "TLS with graph.microsoft.com failed"),
        (Other.into(), "no connection to graph.microsoft.com could be made"),
    ] {
        // Connectors wrap errors in errors of their own.
        let error = io::Error::other(error);
        let unreached = UnreachableHost::read(&error, false, &uri, None);
        said.push(unreached.to_string());
        assert!(unreached.to_string().starts_with(start), "{unreached}");
    }
    let error = io::Error::from(Other);
    let late = UnreachableHost::read(&error, true, &uri, None);
    assert!(late.to_string().starts_with("no connection to graph.microsoft.com within 10 s"));
    let nameless = UnreachableHost::read(&error, false, &uri, None).without_name();
    assert!(nameless.to_string().starts_with("the name graph.microsoft.com could not be resolved"));
    said.extend([late.to_string(), nameless.to_string()]);
    assert!(said.iter().all(|said| !said.contains("canary")));
    let (all, different) =
        (said.len(), said.into_iter().collect::<std::collections::BTreeSet<_>>());
    assert_eq!(different.len(), all);
}

#[tokio::test]
async fn without_root_certificates_only_loopback_works_and_the_error_has_a_remedy() {
    let server = serve(Deed::Write(answer("", b"x"))).await;
    let mut route = Route::new(RouteSettings::default()).unwrap();
    route.remote = None;
    let transport = HttpTransport { route: Arc::new(route) };
    assert!(transport.send(get(&server, "/")).await.is_ok());
    let far = http::Request::get("https://graph.example/").body(Bytes::new()).unwrap();
    let error = transport.send(far).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Tls);
    assert!(error.to_string().contains("ca-certificates"));
}

#[tokio::test]
async fn redirects_are_returned_and_not_followed() {
    let server = serve(Deed::Write(
        b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ))
    .await;
    assert_eq!(fetch(&server).await.unwrap().0, http::StatusCode::FOUND);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_is_read_no_further_than_the_cap() {
    // A hundred megabytes, compressed to a tenth of one.
    let bomb = gzipped(&vec![b' '; 100 << 20]);
    assert_eq!(
        fault(Deed::Close(answer("content-encoding: gzip\r\n", &bomb))).await,
        TransportErrorKind::TooLarge
    );
    let body =
        || BodyStream::from_stream(stream::iter([Ok(Bytes::from("abc")), Ok(Bytes::from("de"))]));
    assert_eq!(&*body().read(5).await.unwrap(), b"abcde");
    assert_eq!(body().read(4).await.unwrap_err().kind(), TransportErrorKind::TooLarge);
    assert_eq!(&*body().read_start(4).await, b"abcd");
    assert_eq!(&*BodyStream::full("x").read(1).await.unwrap(), b"x");
    assert!(BodyStream::full("").read(0).await.unwrap().is_empty());
}

#[tokio::test]
async fn connections_are_reused_unless_a_new_one_is_requested() {
    let server = serve(Deed::Write(answer("", b"x"))).await;
    let transport = HttpTransport::new().unwrap();
    for (fresh, connections) in [(false, 1), (false, 1), (true, 2), (true, 3), (false, 3)] {
        let mut request = get(&server, "/");
        if fresh {
            request.extensions_mut().insert(FreshConnection);
        }
        let answer = transport.send(request).await.unwrap();
        answer.into_body().read(10).await.unwrap();
        assert_eq!(server.connections.load(Ordering::SeqCst), connections);
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_our_own_memory_is_no_timeout() {
    let memory = PageMemory::new(64 * 1024, Gauge::default());
    let (mut held, mut excess) = (Reservation::default(), Reservation::default());
    memory.reserve(&mut held, 1).await;
    memory.reserve(&mut excess, 1).await;
    let limit = Duration::from_secs(10);
    let read = BodyStream::full("abc").read_within(10, &memory, Instant::now() + limit);
    let free = async {
        tokio::time::sleep(3 * limit).await;
        drop(held);
    };
    let (read, ()) = tokio::join!(read, free);
    assert_eq!(&*read.unwrap().0, b"abc");
    // Waiting for a silent server is a timeout.
    let silent = BodyStream::from_stream(stream::pending());
    let read = silent.read_within(10, &memory, Instant::now() + limit).await;
    assert_eq!(read.unwrap_err().kind(), TransportErrorKind::Timeout);
}

#[tokio::test]
async fn an_endless_body_is_abandoned_by_the_client() {
    let mut half = answer("content-type: application/json\r\n", b"{\"value\":[]}");
    half.truncate(half.len() - 3);
    let server = serve(Deed::Stall(half)).await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let transport = Arc::new(HttpTransport::new().unwrap());
    let tokens =
        Tokens::new(sign_in(Credential::AccessTokenFile(token)), transport.clone(), Env::real());
    let budgets = Budgets::new(1, 1);
    let limit = Duration::from_millis(300);
    let client = GraphClient::new(transport, &server.base, budgets, Env::real(), limit).unwrap();
    let target = client.target(&tokens, &"me".into(), CalendarRef::Default);
    let error =
        client.page(&target, &options(), PageStart::Window(edges()), false).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_eq!(error.message(), "the request to graph failed: the answer did not arrive in time");
    assert!(
        server.last.lock().unwrap().to_ascii_lowercase().contains("authorization: bearer t\r\n")
    );
}
