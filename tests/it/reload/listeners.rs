//! Listeners, their tokens and the socket's group change while the daemon runs.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::process::PATIENCE;
use crate::socket::Api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_log_levels_and_tokens_change_at_run_time() {
    let fixture = DaemonFixture::new(94, &["alice"]).await;
    let good = text(&fixture, &[("alice", "")]);
    fixture.configure(&good);
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    assert!(!daemon.log().contains("round over"));
    let old = fixture.path("api.sock").display().to_string();
    let new = fixture.path("other.sock");

    // An address that is taken leaves everything unchanged.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    for name in ["token", "read.token"] {
        fs::write(fixture.path(name), name).unwrap();
        fs::set_permissions(fixture.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let with_tcp = good.replace(
        &format!("socket = \"{old}\""),
        &format!("socket = \"{}\"\nlisten = \"{address}\"\ntoken_file = \"token\"", new.display()),
    );
    fixture.configure(&with_tcp);
    let answer = fixture.api.post("/v1/reload").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", answer.body);
    let refused = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(refused.contains("cannot listen on"), "{refused}");
    assert!(refused.contains("stop that program, or set another api.listen"), "{refused}");
    assert!(!new.exists(), "the new socket was left behind");
    assert_eq!(last(&fixture).await["outcome"], "failed");

    drop(taken);
    let held = fixture.api.clone();
    let stream = tokio::spawn(async move { held.try_get("/v1/changes?after=now&wait=60s").await });
    fixture.configure(&with_tcp.replace("[log]", "[log]\nlevel = \"debug\""));
    let answer = fixture.api.post("/v1/reload").await.json();
    assert_eq!(
        answer["settings"],
        json!(["api.socket", "api.listen", "api.token_file", "log.level"])
    );
    assert!(stream.await.unwrap().is_some(), "the waiting request was not answered");
    eventually("the old socket is gone", async || {
        (!fixture.path("api.sock").exists()).then_some(())
    })
    .await;
    let api = Api::at(&new);
    api.post("/v1/windows/alice/sync?wait=30s").await.json();
    assert!(daemon.log().contains("round over"), "the new log level is not in force");

    // A rotated token takes effect, and the old one is rejected from then on.
    let status = |token: &'static str| {
        let url = format!("http://{address}");
        let mut command = fixture.command();
        command.env("CALMIRROR_TOKEN", token).args(["--api", &url, "status"]);
        async move { crate::process::finish(&mut command).await.code }
    };
    assert_eq!((status("token").await, status("rotated").await), (Some(0), Some(77)));
    fs::write(fixture.path("token"), "rotated").unwrap();
    assert_eq!(api.post("/v1/reload").await.status, StatusCode::OK);
    assert_eq!((status("token").await, status("rotated").await), (Some(77), Some(0)));

    // Back to the old configuration, without TCP.
    fixture.configure(&good);
    assert_eq!(api.post("/v1/reload").await.status, StatusCode::OK);
    assert_eq!(fixture.api.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(status("rotated").await, Some(69));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_taken_over_and_redaction_changes_at_once() {
    let fixture = DaemonFixture::new(96, &["alice"]).await;
    let good = text(&fixture, &[("alice", "")]);
    fs::write(fixture.path("token"), "t0ken").unwrap();
    fs::set_permissions(fixture.path("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let port = {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap().port()
    };
    let listening = |on: &str, more: &str| {
        let api = format!("[api]\nlisten = \"{on}:{port}\"\ntoken_file = \"token\"\n{more}\n");
        good.replace("[api]\n", &api)
    };
    fixture.configure(&listening("127.0.0.1", ""));
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let status = || {
        let url = format!("http://127.0.0.1:{port}");
        let mut command = fixture.command();
        command.env("CALMIRROR_TOKEN", "t0ken").args(["--api", &url, "status"]);
        async move { crate::process::finish(&mut command).await.code }
    };
    assert_eq!(status().await, Some(0));
    // A wildcard and a specific address exclude each other on one port.
    for on in ["0.0.0.0", "127.0.0.1"] {
        fixture.configure(&listening(on, ""));
        let told = fixture.cli(&["reload"]).await;
        assert_eq!((told.code, status().await), (Some(0), Some(0)), "{on}: {told:?}");
    }
    // A later failure in the same reload restores the old listener.
    let taken = fixture.path("api.sock.d");
    fs::write(&taken, "precious").unwrap();
    let socket = fixture.path("api.sock").display().to_string();
    fixture.configure(&listening("0.0.0.0", "").replace(&socket, &taken.display().to_string()));
    let told = fixture.cli(&["--api", &socket, "reload"]).await;
    assert_eq!((told.code, status().await), (Some(1), Some(0)), "{told:?}");

    // A host name is accepted as soon as it is configured.
    let named = async || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = "GET /healthz HTTP/1.1\r\nhost: mirror.example.org\r\nauthorization: Bearer t0ken\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).map(str::to_owned)
    };
    assert_eq!(named().await.as_deref(), Some("421"));
    fixture.configure(&listening("127.0.0.1", "hosts = [\"mirror.example.org\"]"));
    let told = fixture.api.post("/v1/reload").await.json();
    assert_eq!(told["settings"], json!(["api.hosts"]));
    assert_eq!(named().await.as_deref(), Some("200"));
    fixture.configure(&listening("127.0.0.1", ""));
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    assert_eq!(named().await.as_deref(), Some("421"));

    // Private events are masked from the next response on, also for waiting readers.
    fixture.configure(&listening("127.0.0.1", "mask_private = true"));
    let mut stream = UnixStream::connect(&fixture.api.0).await.unwrap();
    let request = "GET /v1/changes?after=now HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let mut held = UnixStream::connect(&fixture.api.0).await.unwrap();
    let request = "GET /v1/changes?after=now&wait=5m HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    held.write_all(request.as_bytes()).await.unwrap();
    eventually("the request is waiting", async || {
        let figures = fixture.api.get("/metrics").await.body;
        let figures = String::from_utf8(figures.to_vec()).unwrap();
        figures.contains("calmirror_feed_readers{kind=\"wait\"} 1").then_some(())
    })
    .await;
    let told = fixture.api.post("/v1/reload").await.json();
    assert_eq!(told["settings"], json!(["api.mask_private"]));
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    tokio::time::timeout(PATIENCE, ended).await.expect("the stream ends").unwrap();
    let mut answer = String::new();
    let ended = held.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, ended).await.expect("the held request ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    daemon.stop().await;
}

/// The status of a request without a token; `None` if nothing listens.
async fn probe(address: std::net::SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    // Probes of Kubernetes name the address of the pod, and Prometheus the name that it was given.
    let request = format!("GET {path} HTTP/1.1\r\nhost: pod-7:8382\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_need_no_token_and_get_nothing_else() {
    let fixture = DaemonFixture::new(97, &["alice"]).await;
    let good = text(&fixture, &[("alice", "")]);
    let [first, second] = {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        [free(), free()].map(|free| free.local_addr().unwrap())
    };
    let at = |address| good.replace("[api]\n", &format!("[api]\nprobe_listen = \"{address}\"\n"));
    fixture.configure(&at(first));
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    for path in ["/healthz", "/readyz", "/readyz?settled=1", "/metrics"] {
        assert_eq!(probe(first, path).await.as_deref(), Some("200"), "{path}");
    }
    for path in ["/", "/v1/status", "/v1/windows", "/v1/changes", "/v1/events", "/openapi.json"] {
        assert_eq!(probe(first, path).await.as_deref(), Some("404"), "{path}");
    }
    fixture.configure(&at(second));
    let told = fixture.api.post("/v1/reload").await.json();
    assert_eq!(told["settings"], json!(["api.probe_listen"]));
    assert_eq!(probe(second, "/healthz").await.as_deref(), Some("200"));
    eventually("the old address is closed", async || {
        probe(first, "/healthz").await.is_none().then_some(())
    })
    .await;
    // The address becomes that of the API, and then again that of the probes.
    fs::write(fixture.path("token"), "t0ken").unwrap();
    fs::set_permissions(fixture.path("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let listen = format!("[api]\nlisten = \"{second}\"\ntoken_file = \"token\"\n");
    fixture.configure(&good.replace("[api]\n", &listen));
    let told = fixture.cli(&["reload"]).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    // Another name than its own: refused before a token is asked for.
    assert_eq!(probe(second, "/healthz").await.as_deref(), Some("421"));
    fixture.configure(&at(second));
    let told = fixture.cli(&["reload"]).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(probe(second, "/healthz").await.as_deref(), Some("200"));
    fixture.configure(&good);
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    eventually("no probes any more", async || {
        probe(second, "/healthz").await.is_none().then_some(())
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_of_an_open_socket_can_change() {
    let Some((name, number)) = another_group() else {
        return skip("this process belongs to one group only");
    };
    let fixture = DaemonFixture::new(98, &["alice"]).await;
    let good = text(&fixture, &[("alice", "")]);
    fixture.configure(&good);
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let about = || {
        let about = fs::metadata(fixture.path("api.sock")).unwrap();
        (about.ino(), about.gid(), about.mode() & 0o777)
    };
    let (inode, own, mode) = about();
    assert_eq!(mode, 0o660);
    let held = fixture.api.clone();
    let reader = tokio::spawn(async move { held.try_get("/v1/changes?after=now&wait=60s").await });
    let grouped =
        |name: &str| good.replace("[api]\n", &format!("[api]\nsocket_group = \"{name}\"\n"));
    // A group that does not exist leaves everything unchanged.
    fixture.configure(&grouped("no such group"));
    let told = fixture.cli(&["reload"]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("no such group"), "{}", told.err);
    assert_eq!(
        (about(), last(&fixture).await["outcome"].clone()),
        ((inode, own, mode), json!("failed"))
    );

    fixture.configure(&grouped(&name));
    let told = fixture.api.post("/v1/reload").await.json();
    assert_eq!(told["settings"], json!(["api.socket_group"]));
    assert_eq!(about(), (inode, number, mode), "the same socket in another group");
    assert!(!reader.is_finished(), "a connected reader was cut off");
    fixture.configure(&good);
    assert_eq!(fixture.api.post("/v1/reload").await.status, StatusCode::OK);
    assert_eq!(about(), (inode, own, mode), "the same socket in the old group");
    reader.abort();
    daemon.stop().await;
}
