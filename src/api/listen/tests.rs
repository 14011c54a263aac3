//! Sockets, their permissions, and limits of connections.
use super::*;
use axum::routing::get;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_socket_file_has_its_mode_and_is_removed_with_its_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/api.sock");
    let group = fs::metadata(directory.path()).unwrap().gid().to_string();
    let endpoint = bind_unix(&path, Some(&group)).unwrap();
    assert_eq!(mode(&path), 0o660);
    assert_eq!(fs::read_dir(directory.path().join("run")).unwrap().count(), 1);
    drop(endpoint);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_longest_allowed_path_can_be_bound() {
    let directory = tempfile::tempdir().unwrap();
    let name = "s".repeat(103 - directory.path().join("").as_os_str().len());
    let path = directory.path().join(name);
    assert_eq!(path.as_os_str().len(), 103);
    drop(bind_unix(&path, None).unwrap());
}

#[tokio::test]
async fn a_socket_that_has_the_configured_group_is_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let endpoint = bind_unix(&path, None).unwrap();
    let about = || {
        let about = fs::metadata(&path).unwrap();
        (about.gid(), about.ctime(), about.ctime_nsec())
    };
    let before = about();
    // File times have a resolution of a few milliseconds.
    tokio::time::sleep(Duration::from_millis(50)).await;
    endpoint.owner().set_group(Some(&before.0.to_string())).unwrap();
    endpoint.owner().set_group(None).unwrap();
    assert_eq!(about(), before);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_one_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    // The standard library's listener leaves its file behind, without a process behind it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let endpoint = bind_unix(&path, None).unwrap();
    assert!(matches!(bind_unix(&path, None), Err(BindError::InUse(_))));
    assert!(path.exists(), "the socket in use was removed");
    drop(endpoint);
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind_unix(&path, None), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let elsewhere = directory.path().join("other.sock");
    let unknown = bind_unix(&elsewhere, Some("no such group"));
    assert!(matches!(unknown, Err(BindError::UnknownGroup(_))));
    assert!(!elsewhere.exists());
}

#[tokio::test]
async fn only_our_own_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let new = directory.path().join("api.sock.new");
    let target = directory.path().join("precious");
    fs::write(&target, "precious").unwrap();
    // A file, a link to a file, a directory.
    for make in [
        &(|| fs::write(&new, "mine").unwrap()) as &dyn Fn(),
        &|| std::os::unix::fs::symlink(&target, &new).unwrap(),
        &|| fs::create_dir(&new).unwrap(),
    ] {
        make();
        let kind = fs::symlink_metadata(&new).unwrap().file_type();
        let refused = bind_unix(&path, None);
        assert!(matches!(&refused, Err(BindError::Leftover(at)) if *at == new), "{refused:?}");
        assert_eq!(
            fs::symlink_metadata(&new).unwrap().file_type(),
            kind,
            "the obstacle was changed"
        );
        assert!(!path.exists());
        if kind.is_dir() { fs::remove_dir(&new).unwrap() } else { fs::remove_file(&new).unwrap() }
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    // The socket left by a start that was killed in between.
    drop(std::os::unix::net::UnixListener::bind(&new).unwrap());
    drop(bind_unix(&path, None).unwrap());
    assert!(!new.exists());
}

#[tokio::test]
async fn a_listener_does_not_remove_its_successors_socket_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let endpoint = bind_unix(&path, None).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    drop(endpoint);
    assert!(path.exists());
}

#[tokio::test]
async fn a_running_request_is_finished_after_shutdown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let endpoint = bind_unix(&path, None).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (arrive, mut arrived) = mpsc::channel(1);
    let release = Arc::new(Notify::new());
    let released = release.clone();
    let handler = move || async move {
        arrive.send(()).await.unwrap();
        released.notified().await;
        "done"
    };
    let router = Router::new().route("/", get(handler));
    let (_router, router) = watch::channel(router);
    let serving = tokio::spawn(serve_unix(endpoint, router, async { drop(stopped.await) }));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    arrived.recv().await.unwrap();
    stop.send(()).unwrap();
    while UnixStream::connect(&path).await.is_ok() {
        tokio::task::yield_now().await;
    }
    release.notify_one();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    serving.await.unwrap();
    assert!(!path.exists());
}

/// Serves `router` on a socket to at most `room` connections.
async fn serving(router: Router, room: usize) -> (tempfile::TempDir, PathBuf, JoinSet<()>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        // The sender has to stay open.
        let (_router, router) = watch::channel(router);
        serve_limited(listener, router, std::future::pending(), room).await;
    });
    (directory, path, server)
}

fn greeting() -> Router {
    Router::new().route("/", get(async || "hello"))
}

async fn ask(stream: &mut UnixStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    answer.truncate(length);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_an_error_response() {
    let (_directory, path, _server) = serving(greeting(), 2).await;
    let (mut first, mut second) =
        (UnixStream::connect(&path).await.unwrap(), UnixStream::connect(&path).await.unwrap());
    for stream in [&mut first, &mut second] {
        assert!(ask(stream).await.starts_with("HTTP/1.1 200"));
    }
    let mut third = UnixStream::connect(&path).await.unwrap();
    let answer = ask(&mut third).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("too-many-connections"));
    assert_eq!(third.read(&mut [0]).await.unwrap(), 0, "the connection is closed");
    drop(first);
    // The slot is free as soon as the listener has noticed the close.
    loop {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        if ask(&mut stream).await.starts_with("HTTP/1.1 200") {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_oversized_head_is_refused_and_a_body_is_not_read() {
    let (_directory, path, _server) = serving(greeting(), 9).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let head =
        |kib: usize| format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(kib << 10));
    stream.write_all(head(48).as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    // In one part, or in two.
    for (bytes, parts, expected) in
        [(65_536, 1, "200"), (65_537, 1, "431"), (70_000, 1, "431"), (70_000, 2, "431")]
    {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let rest = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: \r\n\r\n".len();
        let head = format!(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n",
            "y".repeat(bytes - rest)
        );
        for part in head.as_bytes().chunks(bytes.div_ceil(parts)) {
            stream.write_all(part).await.ok();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{bytes}: {answer}");
    }
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let long = head(128);
    // The response may arrive, and the connection close, before the whole request is taken.
    stream.write_all(long.as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));

    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 405"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn every_response_forbids_content_type_sniffing() {
    let (_directory, path, _server) = serving(greeting(), 1).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    for (request, status) in
        [("GET / HTTP/1.1", 200), ("GET /no HTTP/1.1", 404), ("POST / HTTP/1.1", 405)]
    {
        stream.write_all(format!("{request}\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
    }
    // A response to an excess connection has the header too.
    let mut second = UnixStream::connect(&path).await.unwrap();
    let answer = ask(&mut second).await;
    assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn idle_and_slow_connections_are_closed() {
    let (_directory, path, _server) = serving(greeting(), 9).await;
    let begun = tokio::time::Instant::now();
    let mut silent = UnixStream::connect(&path).await.unwrap();
    assert_eq!(silent.read(&mut [0; 512]).await.unwrap(), 0);
    assert_eq!(begun.elapsed().as_secs(), 15);

    let begun = tokio::time::Instant::now();
    let mut dribbling = UnixStream::connect(&path).await.unwrap();
    for byte in b"GET / HTTP/1.1\r\nhost" {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if dribbling.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    dribbling.read_to_end(&mut answer).await.ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert!(begun.elapsed() <= HEAD_TIMEOUT + Duration::from_secs(2), "{:?}", begun.elapsed());

    // An idle connection is closed too, even after a response.
    let begun = tokio::time::Instant::now();
    let mut idle = UnixStream::connect(&path).await.unwrap();
    assert!(ask(&mut idle).await.starts_with("HTTP/1.1 200"));
    assert_eq!(idle.read(&mut [0; 512]).await.unwrap(), 0);
    assert!(begun.elapsed() <= HEAD_TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_disconnected() {
    let (produced, mut ended) =
        (Arc::new(std::sync::atomic::AtomicUsize::new(0)), oneshot::channel::<()>());
    let counted = produced.clone();
    let end = Arc::new(std::sync::Mutex::new(Some(ended.0)));
    let endless = move || {
        let counted = counted.clone();
        // Dropped with the stream.
        let end = end.lock().unwrap().take();
        let stream = futures_util::stream::unfold(end, move |end| {
            let counted = counted.clone();
            async move {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Some((Ok::<_, io::Error>(vec![b'x'; 64 << 10]), end))
            }
        });
        async { axum::body::Body::from_stream(stream) }
    };
    let (_directory, path, _server) = serving(Router::new().route("/", get(endless)), 9).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let begun = tokio::time::Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // The client never reads. The channel closes when the stream is dropped.
    assert!((&mut ended.1).await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 30);
    let produced = produced.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        produced < 64,
        "{produced} chunks of 64 KiB were produced for a client that reads nothing"
    );
}
