//! A client of the daemon's API over its Unix socket or TCP, with one connection per request.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::endpoint::Endpoint;
use super::exit::{CONFIGURATION, CliError, FAILED, PERMISSION, STORE, UNAVAILABLE, USAGE};
use super::terminal::printable;
use crate::config::Diagnostic;
use crate::percent;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a response may take: the longest wait that the API grants, plus time to send it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6 * 60);

/// A client of one daemon.
#[derive(Clone)]
pub(super) struct ApiClient {
    place: Endpoint,
    token: Option<String>,
}

/// A complete response.
#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) status: StatusCode,
    /// `X-Calmirror-Cursor`.
    pub(super) cursor: Option<String>,
    pub(super) body: Bytes,
}

/// The body of a successful response that is read as it arrives.
pub(super) struct Download {
    response: reqwest::Response,
    place: Endpoint,
    bytes: u64,
}

/// The members of a problem response that are shown.
#[derive(Deserialize)]
pub(super) struct ProblemDetails {
    title: String,
    detail: String,
    #[serde(default)]
    faults: Vec<Diagnostic>,
}

impl ApiClient {
    /// A client of the daemon at `place`.
    pub(super) fn new(place: Endpoint, token: Option<String>) -> Self {
        Self { place, token }
    }

    /// Sends a GET request.
    ///
    /// # Errors
    /// [`UNAVAILABLE`] if there is no complete response, [`PERMISSION`] if the socket may not be
    /// opened. A response with an error status is not an error here.
    pub(super) async fn get(&self, path: &str) -> Result<ApiResponse, CliError> {
        self.ask(Method::GET, path).await
    }

    /// Sends a POST request without a body. Errors as [`Self::get`].
    pub(super) async fn post(&self, path: &str) -> Result<ApiResponse, CliError> {
        self.ask(Method::POST, path).await
    }

    /// Sends a request for a body that may be large or slow. It may take any time as long as bytes
    /// arrive.
    ///
    /// # Errors
    /// As [`Self::get`], and the problem of a response with an error status.
    pub(super) async fn download(&self, method: Method, path: &str) -> Result<Download, CliError> {
        let sent = async { self.request(method, path)?.send().await };
        let response = sent.await.map_err(|broken| self.unreachable(&broken))?;
        if !response.status().is_success() {
            let answer = complete(response).await.map_err(|broken| self.unreachable(&broken))?;
            return Err(answer.problem());
        }
        Ok(Download { response, place: self.place.clone(), bytes: 0 })
    }

    async fn ask(&self, method: Method, path: &str) -> Result<ApiResponse, CliError> {
        let asked = async {
            let request = self.request(method, path)?.timeout(ANSWER_TIMEOUT);
            complete(request.send().await?).await
        };
        asked.await.map_err(|broken: reqwest::Error| self.unreachable(&broken))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::Result<reqwest::RequestBuilder> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .no_gzip()
            // The daemon serves plain HTTP: no certificate is ever checked.
            .tls_certs_only([]);
        let (client, host) = match &self.place {
            Endpoint::Socket(socket) => (client.unix_socket(socket.as_path()), "localhost"),
            Endpoint::Tcp(authority) => (client, authority.as_str()),
        };
        let request = client.build()?.request(method, format!("http://{host}{path}"));
        // A redirect to another shard would lose the token.
        let request = request.header("calmirror-relay", "1");
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// The error of a request without a response.
    fn unreachable(&self, broken: &reqwest::Error) -> CliError {
        let cause = innermost(broken);
        let message = format!("the daemon cannot be reached at {}: {cause}", self.place);
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::PermissionDenied) {
            return CliError::new(PERMISSION, message)
                .remedy("join the socket's group (api.socket_group), or use sudo");
        }
        CliError::new(UNAVAILABLE, message).remedy(
            "is it running (systemctl status calmirror)? If it is elsewhere, set --api SOCKET-OR-URL or $CALMIRROR_API",
        )
    }
}

/// The innermost cause of an error, which says most.
fn innermost(broken: &reqwest::Error) -> &(dyn Error + 'static) {
    let first: &(dyn Error + 'static) = broken;
    std::iter::successors(Some(first), |error| (*error).source()).last().unwrap_or(first)
}

/// Reads the rest of a response.
async fn complete(response: reqwest::Response) -> reqwest::Result<ApiResponse> {
    let (status, cursor) = (response.status(), response.headers().get("x-calmirror-cursor"));
    let cursor = cursor.and_then(|cursor| cursor.to_str().ok()).map(str::to_owned);
    Ok(ApiResponse { status, cursor, body: response.bytes().await? })
}

impl Download {
    /// The next bytes; `None` after the last ones.
    ///
    /// # Errors
    /// [`UNAVAILABLE`] if the response is cut off.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, CliError> {
        let chunk = self.response.chunk().await.map_err(|broken| {
            let Self { place, bytes, .. } = self;
            let cause = innermost(&broken);
            let message = format!("{place} cut the response off after {bytes} bytes: {cause}");
            CliError::new(UNAVAILABLE, message)
                .remedy("the daemon stopped, or its log has the reason: try again")
        })?;
        self.bytes += chunk.as_ref().map_or(0, Bytes::len) as u64;
        Ok(chunk)
    }
}

/// The path with the parameters that have a value.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut path = path.to_owned();
    for (name, value) in parameters.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        let separator = if path.contains('?') { '&' } else { '?' };
        path.push_str(&format!("{separator}{name}={}", percent::encode(value)));
    }
    path
}

/// Parses JSON of the daemon.
pub(super) fn parse<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, CliError> {
    T::deserialize(value).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> CliError {
    CliError::new(FAILED, format!("cannot parse the response: {error}"))
        .remedy("are this program and the daemon the same version (calmirror --version)?")
}

impl ProblemDetails {
    /// The title and the detail, and the faults if they are several, one in a line.
    pub(super) fn message(&self) -> String {
        let Self { title, detail, faults } = self;
        let message = format!("{}: {}", title.to_lowercase(), printable(detail));
        match faults.as_slice() {
            [] | [_] => message,
            faults => faults.iter().fold(message, |message, fault| {
                format!("{message}\n{}", printable(&fault.to_string()))
            }),
        }
    }
}

impl ApiResponse {
    /// Whether the response says that the requested window does not exist.
    pub(super) fn is_unknown_window(&self) -> bool {
        let named = |bytes: &[u8]| bytes.windows(14).any(|part| part == b"unknown-window");
        self.status == StatusCode::NOT_FOUND && named(&self.body)
    }

    /// The response itself if it is a success, else its problem as an error.
    pub(super) fn success(self) -> Result<Self, CliError> {
        if self.status.is_success() { Ok(self) } else { Err(self.problem()) }
    }

    /// The problem as an error.
    fn problem(&self) -> CliError {
        let message = match serde_json::from_slice::<ProblemDetails>(&self.body) {
            Ok(problem) => problem.message(),
            Err(_) => format!("the daemon answered {}", self.status),
        };
        match self.status {
            StatusCode::BAD_REQUEST => CliError::new(USAGE, message),
            StatusCode::UNPROCESSABLE_ENTITY => CliError::new(CONFIGURATION, message),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CliError::new(PERMISSION, message)
                .remedy("set $CALMIRROR_TOKEN, or make api.token_file readable (it is sent only to api.listen and to loopback)"),
            StatusCode::SERVICE_UNAVAILABLE
                if self.body.windows(12).any(|w| w == b"store-failed") =>
            {
                CliError::new(STORE, message)
            }
            _ => CliError::new(FAILED, message),
        }
    }

    /// Parses the JSON body of a successful response.
    pub(super) fn json<T: DeserializeOwned>(self) -> Result<T, CliError> {
        let answer = self.success()?;
        serde_json::from_slice(&answer.body).map_err(|error| unreadable(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::{get, post};

    /// A substitute for the daemon that echoes request headers.
    fn stand_in() -> Router {
        let problem = r#"{"title":"Unknown window","detail":"no window is named \"\u001b[2Jx\""}"#;
        let told = |headers: HeaderMap| async move {
            let text = |name| {
                headers
                    .get(name)
                    .map(|value: &http::HeaderValue| value.to_str().unwrap().to_owned())
            };
            assert_eq!(text("calmirror-relay").as_deref(), Some("1"));
            format!("{:?} {:?}", text("host"), text("authorization"))
        };
        Router::new()
            .route("/told", get(told))
            .route("/sent", post(|| async { ([("x-calmirror-cursor", "c7")], "[1,2]") }))
            .route("/lost", get(move || async move { (StatusCode::NOT_FOUND, problem) }))
            .route("/shut", get(|| async { StatusCode::UNAUTHORIZED }))
            .route(
                "/full",
                get(|| async {
                    (
                        StatusCode::SERVICE_UNAVAILABLE,
                        r#"{"type":"…/store-failed","title":"t","detail":"d"}"#,
                    )
                }),
            )
    }

    #[tokio::test]
    async fn requests_over_a_unix_socket_work() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(async { axum::serve(listener, stand_in()).await });
        let client = ApiClient::new(Endpoint::Socket(path), None);

        let told = client.get("/told").await.unwrap();
        assert_eq!(told.body, r#"Some("localhost") None"#);
        let sent = client.post("/sent").await.unwrap();
        assert_eq!(sent.cursor.as_deref(), Some("c7"));
        assert_eq!(sent.json::<Vec<u8>>().unwrap(), [1, 2]);
        for (path, exit, message) in [
            ("/lost", FAILED, "unknown window: no window is named \" [2Jx\""),
            ("/shut", PERMISSION, "the daemon answered 401 Unauthorized"),
            ("/full", STORE, "t: d"),
        ] {
            let failure = client.get(path).await.unwrap().success().unwrap_err();
            assert_eq!((failure.exit, &*failure.message), (exit, message), "{path}");
        }
        serving.abort();
    }

    #[tokio::test]
    async fn over_tcp_the_token_is_sent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async { axum::serve(listener, stand_in()).await });
        let client = ApiClient::new(Endpoint::Tcp(authority.clone()), Some("t0ken".into()));
        let told = client.get("/told").await.unwrap();
        assert_eq!(told.body, format!(r#"Some("{authority}") Some("Bearer t0ken")"#));
        serving.abort();
    }

    #[tokio::test]
    async fn an_unreachable_daemon_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let client = ApiClient::new(Endpoint::Socket(path.clone()), None);
        let failure = client.get("/healthz").await.unwrap_err();
        assert_eq!(failure.exit, UNAVAILABLE);
        assert!(failure.message.contains(&path.display().to_string()), "{failure}");
        assert!(failure.remedy.is_some());
    }
}
