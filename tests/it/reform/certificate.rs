//! A client certificate that is rotated while the daemon runs.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use calmirror::graph::transport::{BodyStream, TransportError};
use futures_util::future::BoxFuture;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/graph");

/// Records the client assertions of token requests.
struct AssertionRecorder {
    graph: Memory,
    assertions: Arc<Mutex<Vec<String>>>,
}

impl Transport for AssertionRecorder {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        let form = String::from_utf8_lossy(request.body());
        let assertion = form.split('&').find_map(|field| field.strip_prefix("client_assertion="));
        if let Some(assertion) = assertion {
            self.assertions.lock().unwrap().push(assertion.to_owned());
        }
        self.graph.send(request)
    }
}

/// The thumbprint named in an assertion, after its signature is verified with the certificate of a
/// fixture.
fn thumbprint(assertion: &str, signer: &str) -> String {
    let pem = fs::read(format!("{FIXTURES}/{signer}")).unwrap();
    let mut rules = Validation::new(Algorithm::PS256);
    (rules.validate_exp, rules.validate_aud) = (false, false);
    let key = DecodingKey::from_rsa_pem(&pem).unwrap();
    jsonwebtoken::decode::<Value>(assertion, &key, &rules).unwrap_or_else(|error| {
        panic!("not signed by {signer}: {error}");
    });
    let head = URL_SAFE_NO_PAD.decode(assertion.split('.').next().unwrap()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    head["x5t#S256"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_rotated_certificate_signs_the_next_token_request() {
    let pem = |name: &str| fs::read_to_string(format!("{FIXTURES}/{name}")).unwrap();
    let graph = graph(11, &["alice"], 5);
    let assertions = Arc::<Mutex<Vec<String>>>::default();
    let notary =
        AssertionRecorder { graph: Memory(graph.0.clone()), assertions: assertions.clone() };
    let text = text(&[("a", "alice", "")])
        .replace("client_secret_file = \"secret\"", "certificate_file = \"secret\"");
    let live = Live::over(Arc::new(notary), graph, &pem("certificate.pem"), &text).await;
    live.settled("a").await;
    fs::write(live.directory.path().join("secret"), pem("rotated.pem")).unwrap();
    // While the token is valid no other one is requested.
    live.daemon.fleet.sync("a", Some(HOUR)).await.unwrap();
    assert_eq!(assertions.lock().unwrap().len(), 1);

    let told = live.daemon.reloads.ask(false).await.unwrap();
    assert_eq!((told.windows.unchanged, told.changes.len(), told.accounts.len()), (1, 0, 0));
    assert_eq!(assertions.lock().unwrap().len(), 1, "a valid token was replaced");
    live.simulator.expire_tokens();
    let round = live.daemon.fleet.sync("a", Some(HOUR)).await.unwrap().finished.unwrap();
    assert_eq!((round.state, round.resyncs, round.failures), (WindowState::Settled, 0, 0));
    let assertions = std::mem::take(&mut *assertions.lock().unwrap());
    let [before, after] = &assertions[..] else { panic!("{} tokens", assertions.len()) };
    let before = thumbprint(before, "certificate.pem");
    let after = thumbprint(after, "rotated.pem");
    assert_ne!(before, after);
    live.stop().await;
}
