//! The printed feed and the stored cursor.

use super::*;
use crate::cli::exit::USAGE;

#[test]
fn a_cursor_is_saved_and_restored() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cursor");
    assert_eq!(read_cursor(&file), Ok(None));
    write_cursor(&file, "one").unwrap();
    write_cursor(&file, "two~7.AbC-_1").unwrap();
    assert_eq!(read_cursor(&file), Ok(Some("two~7.AbC-_1".to_owned())));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
}

#[tokio::test]
async fn an_unusable_state_file_is_reported_before_any_request() {
    let directory = tempfile::tempdir().unwrap();
    // No daemon listens on this socket.
    let place = super::super::endpoint::Endpoint::Socket(directory.path().join("none.sock"));
    let client = ApiClient::new(place, None);
    let file = directory.path().join("cursor");
    let refused = async |file: &Path| {
        let (mut out, mut aside) = (Vec::new(), Vec::new());
        let ended = changes(&client, &args(Some(file), None), true, &mut out, &mut aside).await;
        let failure = ended.unwrap_err();
        assert!(failure.message.contains(&file.display().to_string()), "{failure}");
        assert!(failure.remedy.is_some(), "{failure}");
        failure
    };
    for text in [&b"two words"[..], b"one\ntwo", b"{}", b"\xff\xfe", &[b'A'; 257]] {
        fs::write(&file, text).unwrap();
        let failure = refused(&file).await;
        assert_eq!(failure.exit, FAILED);
        assert!(failure.message.ends_with("does not contain a cursor"), "{failure}");
    }
    for file in [directory.path().join("none/cursor"), directory.path().to_owned()] {
        assert_eq!(refused(&file).await.exit, FAILED);
    }
    for text in ["", "\n", "AYdt_-~7\n"] {
        fs::write(&file, text).unwrap();
        let args = args(Some(&file), None);
        let ended = changes(&client, &args, true, &mut Vec::new(), &mut Vec::new()).await;
        assert_eq!(ended.unwrap_err().exit, UNAVAILABLE, "{text:?}");
    }
}

#[tokio::test]
async fn a_cursor_refused_by_the_daemon_is_blamed_on_the_state_file() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("cursor");
    let (client, serving) = feed(directory.path()).await;
    fs::write(&state, "flipped").unwrap();
    let ask = async |args: ChangesArgs| {
        changes(&client, &args, true, &mut Vec::new(), &mut Vec::new()).await.unwrap_err()
    };
    let failure = ask(args(Some(&state), None)).await;
    assert_eq!(failure, invalid_cursor_error(&state));
    // A cursor from the command line is a usage error instead.
    fs::remove_file(&state).unwrap();
    assert_eq!(ask(args(Some(&state), Some("flipped"))).await.exit, USAGE);
    serving.abort();
}

#[test]
fn the_request_contains_the_given_options() {
    let mut args = args(None, None);
    assert_eq!(path(&args, None), "/v1/changes");
    args.window = Some("room a/b".into());
    args.follow = true;
    assert_eq!(path(&args, Some("c~1")), "/v1/changes?after=c~1&window=room%20a%2Fb&wait=30s");
}

/// Serves a feed of three lines on a socket: two lines in the first response, then one.
async fn feed(directory: &Path) -> (ApiClient, tokio::task::JoinHandle<()>) {
    feed_of(directory, false).await
}

/// As [`feed`]; with `more` the feed has a fourth line.
async fn feed_of(directory: &Path, more: bool) -> (ApiClient, tokio::task::JoinHandle<()>) {
    use axum::extract::RawQuery;
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;
    let answer = move |RawQuery(query): RawQuery| async move {
        let query = query.unwrap_or_default();
        let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
        let (cursor, body) = match after {
            None => ("c2", "{\"seq\":1}\n{\"seq\":2}\n"),
            Some("c2") => ("c3", "{\"seq\":3}\n"),
            Some("c3") if more => ("c4", "{\"seq\":4}\n"),
            Some(cursor @ ("c3" | "c4")) => {
                if query.contains("wait=") {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
                let headers = [("x-calmirror-cursor", cursor.to_owned())];
                return (headers, "").into_response();
            }
            Some("flipped") => return StatusCode::BAD_REQUEST.into_response(),
            Some(_) => return StatusCode::GONE.into_response(),
        };
        ([("x-calmirror-cursor", cursor)], body).into_response()
    };
    let router = axum::Router::new().route("/v1/changes", axum::routing::get(answer));
    let path = directory.join("api.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    (ApiClient::new(super::super::endpoint::Endpoint::Socket(path), None), serving)
}

fn args(state: Option<&Path>, after: Option<&str>) -> ChangesArgs {
    let (after, state) = (after.map(str::to_owned), state.map(Path::to_owned));
    ChangesArgs { after, window: None, follow: false, state }
}

/// An output whose reader has gone.
struct OutputClosed;

impl Write for OutputClosed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_feed_is_printed_to_its_end_and_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("cursor");
    let (client, serving) = feed(directory.path()).await;
    let mut out = Vec::new();
    let args = args(Some(&state), None);
    assert_eq!(changes(&client, &args, true, &mut out, &mut Vec::new()).await, Ok(DONE));
    assert_eq!(out, b"{\"seq\":1}\n{\"seq\":2}\n{\"seq\":3}\n");
    assert_eq!(read_cursor(&state), Ok(Some("c3".to_owned())));
    let mut again = Vec::new();
    assert_eq!(changes(&client, &args, true, &mut again, &mut Vec::new()).await, Ok(DONE));
    assert!(again.is_empty());
    serving.abort();
}

#[tokio::test]
async fn lines_that_were_not_written_do_not_advance_the_saved_cursor() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("cursor");
    let (client, serving) = feed(directory.path()).await;
    let ended =
        changes(&client, &args(Some(&state), None), true, &mut OutputClosed, &mut Vec::new()).await;
    assert_eq!(ended, Err(CliError::new(DONE, "")), "quietly");
    assert_eq!(read_cursor(&state), Ok(None));
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn a_follower_survives_a_daemon_restart_and_resumes() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("cursor");
    let (client, serving) = feed(directory.path()).await;
    let args = ChangesArgs { follow: true, ..args(Some(&state), None) };
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let (asides, mut aside) = tokio::sync::mpsc::unbounded_channel();
    let following = tokio::spawn(async move {
        changes(&client, &args, true, &mut ErrorLine(said), &mut ErrorLine(asides)).await
    });
    assert_eq!(heard.recv().await.unwrap(), "{\"seq\":1}\n{\"seq\":2}\n");
    assert_eq!(heard.recv().await.unwrap(), "{\"seq\":3}\n");
    serving.abort();
    assert!(serving.await.is_err());
    // The daemon is away for minutes, which is several attempts, and returns with another line.
    tokio::time::sleep(Duration::from_secs(200)).await;
    std::fs::remove_file(directory.path().join("api.sock")).unwrap();
    let (_, serving) = feed_of(directory.path(), true).await;
    let back = tokio::time::Instant::now();
    assert_eq!(heard.recv().await.unwrap(), "{\"seq\":4}\n");
    assert!(back.elapsed() <= MAX_RECONNECT, "{:?}", back.elapsed());
    // It reports the wait once, whatever the number of attempts.
    let mut said = String::new();
    while let Ok(part) = aside.try_recv() {
        said.push_str(&part);
    }
    let lines: Vec<&str> = said.lines().collect();
    let [away, back] = *lines else { panic!("{said}") };
    assert!(away.starts_with("calmirror: the daemon cannot be reached at "), "{away}");
    assert!(away.ends_with("; waiting for it"), "{away}");
    assert_eq!(back, "calmirror: the daemon is back");
    following.abort();
    serving.abort();
}

/// A writer that sends each write to a channel.
struct ErrorLine(tokio::sync::mpsc::UnboundedSender<String>);

impl Write for ErrorLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !bytes.is_empty() {
            self.0.send(String::from_utf8(bytes.to_vec()).unwrap()).unwrap();
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_expired_cursor_has_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let (client, serving) = feed(directory.path()).await;
    let failure =
        changes(&client, &args(None, Some("old")), true, &mut Vec::new(), &mut Vec::new())
            .await
            .unwrap_err();
    assert_eq!(failure.exit, FAILED);
    assert!(failure.remedy.is_some_and(|remedy| remedy.contains("--after")));
    serving.abort();
}
