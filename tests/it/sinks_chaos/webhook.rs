//! A receiver of webhooks that fails in the ways that receivers do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::target::ChaosTarget;
use crate::copies::{EventsByWindow, FoldedLines, secret_file, without_versions};
use crate::process::DaemonFixture;
use crate::proxy::ChaosProxy;

/// What the receiver answers.
#[derive(Clone, Copy, Debug, Default)]
enum HookAnswer {
    #[default]
    Accepts,
    Fails,
    /// Too many requests, and the next may come at once.
    Limits,
    /// The changes are stored, and the answer comes so much later.
    Late(Duration),
}

#[derive(Default)]
struct HookState {
    lines: FoldedLines,
    answer: HookAnswer,
}

type SharedHook = Arc<Mutex<HookState>>;

pub(super) struct HookTarget {
    hook: SharedHook,
    proxy: ChaosProxy,
    secret: String,
    serving: JoinHandle<()>,
}

impl HookTarget {
    pub(super) async fn new(fixture: &DaemonFixture) -> Self {
        let hook = SharedHook::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/hook", post(receive)).with_state(hook.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        // A request that arrives after the one that follows it would be applied out of order.
        let proxy = ChaosProxy::new((address.ip().to_string(), address.port()), false).await;
        Self { hook, proxy, secret: secret_file(fixture), serving }
    }
}

impl Drop for HookTarget {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(State(hook): State<SharedHook>, body: Bytes) -> Response {
    let answer = {
        let mut hook = hook.lock().unwrap();
        if matches!(hook.answer, HookAnswer::Accepts | HookAnswer::Late(_)) {
            hook.lines.apply(&body);
        }
        hook.answer
    };
    match answer {
        HookAnswer::Accepts => StatusCode::NO_CONTENT.into_response(),
        HookAnswer::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        HookAnswer::Limits => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response()
        }
        HookAnswer::Late(wait) => {
            tokio::time::sleep(wait).await;
            StatusCode::OK.into_response()
        }
    }
}

impl ChaosTarget for HookTarget {
    fn name(&self) -> &'static str {
        "hook"
    }

    fn keys(&self) -> String {
        format!(
            "type = \"webhook\"\nurl = \"http://127.0.0.1:{}/hook\"\n{}\nallow_private = true\n",
            self.proxy.port, self.secret
        )
    }

    fn harm<'a>(&'a mut self, chance: &'a mut Rng) -> BoxFuture<'a, String> {
        let answer = match chance.u8(..6) {
            0 => HookAnswer::Fails,
            1 => HookAnswer::Limits,
            2 => HookAnswer::Late(Duration::from_millis(chance.u64(..2_000))),
            _ => HookAnswer::Accepts,
        };
        self.hook.lock().unwrap().answer = answer;
        let done = match answer {
            HookAnswer::Accepts => self.proxy.harm(chance),
            other => format!("{other:?}"),
        };
        Box::pin(std::future::ready(done))
    }

    fn heal(&mut self) -> BoxFuture<'_, ()> {
        self.hook.lock().unwrap().answer = HookAnswer::Accepts;
        self.proxy.heal();
        Box::pin(std::future::ready(()))
    }

    fn held(&self) -> BoxFuture<'_, Option<EventsByWindow>> {
        let events = self.hook.lock().unwrap().lines.events();
        Box::pin(std::future::ready(Some(events)))
    }

    fn expected(&self, event: &Value) -> Value {
        without_versions(event)
    }
}
