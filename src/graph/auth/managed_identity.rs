//! Asks Azure for a token of the identity that it gave to this machine or application (facts
//! 141-144).
//!
//! Three platforms, three forms: the metadata service of virtual machines, App Service with
//! Functions and Container Apps, and the agent of Azure Arc. All are at addresses that only this
//! machine reaches, so no proxy is used.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::response::Parts;

use super::endpoint::{self, Denial, Grant};
use super::exchange::exchange;
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::graph::transport::Transport;
use crate::mirror::account::IdentityEndpoint;
use crate::percent;

/// How long the platform may take. The metadata service answers within a second; off Azure nothing
/// answers.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A token of at least this length is renewed at half of its life, so that a platform that is away
/// for hours does no harm.
const LONG_LIFE: Duration = Duration::from_secs(2 * 3600);

/// The largest key of Arc's agent.
const MAX_ARC_KEY_BYTES: u64 = 4096;

/// Why there is no token.
#[derive(Debug)]
pub(super) struct IdentityRefusal {
    pub(super) needs_person: bool,
    pub(super) status: Option<u16>,
    /// `error`, such as `unauthorized_client`.
    pub(super) code: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// What happened, and what to do about it if a person is needed.
    pub(super) message: String,
}

impl IdentityRefusal {
    fn local(needs_person: bool, message: String) -> Self {
        Self { needs_person, status: None, code: None, retry_after: None, message }
    }
}

/// Gets a token for `resource` (fact 144: Graph's address, not a scope). An empty `client_id` is the
/// system-assigned identity.
pub(super) async fn grant(
    source: &IdentityEndpoint,
    client_id: &str,
    resource: &str,
    transport: &dyn Transport,
    env: &Env,
) -> Result<Grant, IdentityRefusal> {
    let call = IdentityCall::new(source, client_id, resource)?;
    let mut answer = call.send(None, transport).await?;
    if let IdentityEndpoint::Arc { keys, .. } = source
        && answer.0.status == http::StatusCode::UNAUTHORIZED
    {
        let key = arc_key(&answer.0.headers, keys).map_err(|error| {
            IdentityRefusal::local(
                true,
                format!("the Arc agent's challenge: {}", error_chain(&error)),
            )
        })?;
        answer = call.send(Some(key), transport).await?;
    }
    let (head, body) = answer;
    let mut granted = endpoint::read(head.status, &head.headers, &body, env.now())
        .map_err(|denial| refusal(source, client_id, denial))?
        .grant;
    if granted.refresh_in.is_none() && granted.life >= LONG_LIFE {
        granted.refresh_in = Some(granted.life / 2);
    }
    Ok(granted)
}

/// A request to the platform, except for the proof that Arc demands.
struct IdentityCall {
    url: String,
    /// The name and the value of the header that shows that no web page makes the request.
    header: (&'static str, HeaderValue),
}

impl IdentityCall {
    fn new(
        source: &IdentityEndpoint,
        client_id: &str,
        resource: &str,
    ) -> Result<Self, IdentityRefusal> {
        let metadata = ("metadata", HeaderValue::from_static("true"));
        let (address, version, header) = match source {
            IdentityEndpoint::MachineMetadata(base) => {
                (format!("{base}/metadata/identity/oauth2/token"), "2018-02-01", metadata)
            }
            IdentityEndpoint::Arc { url, .. } => (url.clone(), "2019-11-01", metadata),
            IdentityEndpoint::AppService { url, key } => {
                let value = std::env::var(key).ok();
                let value = value.and_then(|value| HeaderValue::try_from(value.trim()).ok());
                let mut value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
                    let message = format!("managed_identity: the environment has no {key}");
                    IdentityRefusal::local(true, message)
                })?;
                value.set_sensitive(true);
                (url.clone(), "2019-08-01", ("x-identity-header", value))
            }
        };
        let mut url =
            format!("{address}?api-version={version}&resource={}", percent::encode(resource));
        if !client_id.is_empty() {
            url.push_str("&client_id=");
            url.push_str(&percent::encode(client_id));
        }
        Ok(Self { url, header })
    }

    async fn send(
        &self,
        proof: Option<HeaderValue>,
        transport: &dyn Transport,
    ) -> Result<(Parts, Bytes), IdentityRefusal> {
        let (name, value) = &self.header;
        let request =
            http::Request::get(&self.url).header(ACCEPT, "application/json").header(*name, value);
        let request = match proof {
            Some(proof) => request.header(AUTHORIZATION, proof),
            None => request,
        };
        let request = request.body(Bytes::new()).map_err(|_| {
            let message = "managed_identity: the identity endpoint's address is unusable";
            IdentityRefusal::local(true, message.to_owned())
        })?;
        exchange(transport, request, TIMEOUT).await.map_err(|lost| {
            let message = format!(
                "the platform's identity endpoint {lost}; managed_identity works only on machines \
                 and applications of Azure, and with Azure Arc"
            );
            IdentityRefusal::local(false, message)
        })
    }
}

/// Why the challenge of Arc's agent cannot be met.
#[derive(Debug, thiserror::Error)]
enum ArcKeyError {
    #[error("it names no file with a key")]
    NoFile,
    #[error("it names a file outside {directory}", directory = .0.display())]
    Foreign(PathBuf),
    #[error("{path} cannot be read; the daemon's user has to be in the group himds", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is larger than a key", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} holds no key", path = path.display())]
    NoKey { path: PathBuf },
}

/// The proof that Arc's agent demands: the content of a file that only its group may read. A path
/// outside `directory` is refused, because any process that answers on the port could ask for any
/// file.
fn arc_key(headers: &HeaderMap, directory: &Path) -> Result<HeaderValue, ArcKeyError> {
    let challenge = headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let path = challenge.and_then(|value| value.trim().strip_prefix("Basic realm="));
    let path = Path::new(path.ok_or(ArcKeyError::NoFile)?.trim_matches('"'));
    if path.parent() != Some(directory) || path.extension().is_none_or(|ext| ext != "key") {
        return Err(ArcKeyError::Foreign(directory.to_owned()));
    }
    let read = |source| ArcKeyError::Read { path: path.to_owned(), source };
    let mut key = String::new();
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(MAX_ARC_KEY_BYTES + 1).read_to_string(&mut key).map_err(read)?;
    if key.len() as u64 > MAX_ARC_KEY_BYTES {
        return Err(ArcKeyError::TooLarge { path: path.to_owned() });
    }
    let proof = HeaderValue::try_from(format!("Basic {}", key.trim()));
    let mut proof = proof.map_err(|_| ArcKeyError::NoKey { path: path.to_owned() })?;
    proof.set_sensitive(true);
    Ok(proof)
}

/// Interprets a refusal (fact 142): 404 and 410 mean that the service is being updated.
fn refusal(source: &IdentityEndpoint, client_id: &str, denial: Denial) -> IdentityRefusal {
    let updating = matches!(source, IdentityEndpoint::MachineMetadata(_))
        && matches!(denial.status, 404 | 410);
    let needs_person = denial.needs_person && !updating;
    let said = denial.said();
    let message = if !needs_person {
        format!("the platform's identity endpoint grants no token now ({said})")
    } else {
        let remedy = match (source, denial.status) {
            (IdentityEndpoint::AppService { key, .. }, 401 | 403) => {
                format!("the daemon's {key} does not fit; restart the application")
            }
            (IdentityEndpoint::Arc { .. }, 401 | 403) => {
                "add the daemon's user to the group himds".to_owned()
            }
            _ if client_id.is_empty() => "give this machine or application a system-assigned \
                identity, or name a user-assigned one by client_id"
                .to_owned(),
            _ => "give this machine or application the identity with that client_id, or remove \
                  client_id for the system-assigned one"
                .to_owned(),
        };
        format!("the platform refused a token ({said}); {remedy}")
    };
    let retry_after = denial.retry_after.filter(|_| !needs_person);
    let Denial { status, code, .. } = denial;
    IdentityRefusal { needs_person, status: Some(status), code, retry_after, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::script::{self, Script, ScriptedResponse, reply};

    const RESOURCE: &str = "https://graph.microsoft.com";

    async fn ask(
        source: &IdentityEndpoint,
        client_id: &str,
        answers: Vec<ScriptedResponse>,
    ) -> (Result<Grant, IdentityRefusal>, Vec<http::Request<Bytes>>) {
        let script = Script::new(answers, []);
        let granted = grant(source, client_id, RESOURCE, &*script, &script::env()).await;
        (granted, script.asked())
    }

    fn metadata() -> IdentityEndpoint {
        IdentityEndpoint::MachineMetadata("http://169.254.169.254".to_owned())
    }

    /// The variable stands for `IDENTITY_HEADER`; Cargo sets it.
    fn app_service() -> IdentityEndpoint {
        let url = "http://127.0.0.1:1/oauth2/msi".to_owned();
        IdentityEndpoint::AppService { url, key: "CARGO_PKG_NAME" }
    }

    fn arc(keys: &Path) -> IdentityEndpoint {
        let url = "http://127.0.0.1:1/oauth2/token".to_owned();
        IdentityEndpoint::Arc { url, keys: keys.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn each_platform_is_asked_in_its_form() {
        let day =
            r#"{"access_token":"t","expires_in":"86399","expires_on":"1","token_type":"Bearer"}"#;
        let (granted, asked) = ask(&metadata(), "", vec![reply(200, day)]).await;
        let granted = granted.unwrap();
        assert_eq!(granted.life.as_secs(), 86_399);
        assert_eq!(granted.refresh_in, Some(granted.life / 2), "a day's token is renewed early");
        assert_eq!(
            asked[0].uri().to_string(),
            "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fgraph.microsoft.com"
        );
        assert_eq!(asked[0].headers()["metadata"], "true");
        let ends = script::env().now().as_second() + 5000;
        let app = format!(r#"{{"access_token":"t","expires_on":"{ends}","resource":"x"}}"#);
        let (granted, asked) = ask(&app_service(), "id 1", vec![reply(200, app)]).await;
        let granted = granted.unwrap();
        assert_eq!((granted.life.as_secs(), granted.refresh_in), (5000, None));
        let url = asked[0].uri().to_string();
        assert!(url.ends_with("?api-version=2019-08-01&resource=https%3A%2F%2Fgraph.microsoft.com&client_id=id%201"), "{url}");
        assert_eq!(asked[0].headers()["x-identity-header"], "calmirror");
        assert!(asked[0].headers()["x-identity-header"].is_sensitive());
    }

    #[tokio::test(start_paused = true)]
    async fn arcs_agent_wants_the_content_of_a_file_in_its_directory() {
        let keys = tempfile::tempdir().unwrap();
        let file = keys.path().join("a.key");
        std::fs::write(&file, "c2VjcmV0\n").unwrap();
        let challenge = |path: &Path| {
            reply(401, "").with("www-authenticate", format!("Basic realm={}", path.display()))
        };
        let day = r#"{"access_token":"t","expires_in":"86399"}"#;
        let (granted, asked) =
            ask(&arc(keys.path()), "", vec![challenge(&file), reply(200, day)]).await;
        assert_eq!(granted.unwrap().token.expose(), "t");
        assert!(asked[0].headers().get(AUTHORIZATION).is_none());
        assert_eq!(asked[1].headers()[AUTHORIZATION], "Basic c2VjcmV0");
        let large = keys.path().join("b.key");
        std::fs::write(&large, "x".repeat(4097)).unwrap();
        for (path, said) in [
            (Path::new("/etc/shadow"), "a file outside"),
            (&keys.path().join("../a.key"), "a file outside"),
            (&keys.path().join("a.txt"), "a file outside"),
            (&keys.path().join("none.key"), "the group himds"),
            (&large, "larger than a key"),
        ] {
            let (refused, asked) = ask(&arc(keys.path()), "", vec![challenge(path)]).await;
            let refused = refused.unwrap_err();
            assert!(refused.needs_person && refused.message.contains(said), "{refused:?}");
            assert_eq!(asked.len(), 1, "{path:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_say_whether_to_wait_or_what_to_do() {
        let none = r#"{"error":"invalid_request","error_description":"canary not found"}"#;
        let unreached =
            || ScriptedResponse::Fault(crate::graph::transport::TransportErrorKind::Connect);
        for (source, id, answer, needs_person, said) in [
            (metadata(), "", reply(404, ""), false, "grants no token now (status 404)"),
            (metadata(), "", reply(410, ""), false, "grants no token now (status 410)"),
            (metadata(), "", reply(429, ""), false, "status 429"),
            (metadata(), "", reply(500, ""), false, "status 500"),
            (
                metadata(),
                "",
                unreached(),
                false,
                "works only on machines and applications of Azure",
            ),
            (metadata(), "", ScriptedResponse::Silence, false, "did not answer in time; "),
            (metadata(), "", reply(400, none), true, "a system-assigned identity"),
            (metadata(), "x", reply(400, none), true, "the identity with that client_id"),
            (app_service(), "", reply(401, ""), true, "CARGO_PKG_NAME does not fit"),
            (app_service(), "", reply(404, ""), true, "a system-assigned identity"),
            (arc(Path::new("/")), "", reply(403, ""), true, "the group himds"),
        ] {
            let (refused, _) = ask(&source, id, vec![answer]).await;
            let refused = refused.unwrap_err();
            assert!(refused.message.contains(said), "{refused:?}");
            assert_eq!(refused.needs_person, needs_person, "{refused:?}");
            assert!(!format!("{refused:?}").contains("canary"));
        }
    }
}
