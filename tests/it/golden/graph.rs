//! A Graph that accepts every link of a golden store, serves the calendars that the store mirrors,
//! and records the requests.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use calmirror::graph::transport::{BodyStream, Transport, TransportError};
use calmirror::mirror::page::{EventId, EventKind, Item};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::calendars::{delta, mailbox};

/// One request, without its origin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) prefer: String,
}

#[derive(Default)]
pub(super) struct Graph {
    /// The window's name and the calendar's items, by mailbox.
    calendars: BTreeMap<String, (String, Vec<Item>)>,
    /// Requests in order, by mailbox.
    asked: Mutex<BTreeMap<String, Vec<Asked>>>,
}

impl Graph {
    pub(super) fn add(&mut self, name: &str, items: Vec<Item>) {
        let mailbox = format!("{}@contoso.com", mailbox(name));
        self.calendars.insert(mailbox, (name.to_owned(), items));
    }

    /// The requests made for a window, in order.
    pub(super) fn asked(&self, name: &str) -> Vec<Asked> {
        let mailbox = format!("{}@contoso.com", mailbox(name));
        self.asked.lock().unwrap().get(&mailbox).cloned().unwrap_or_default()
    }

    fn answer(&self, path: &str, query: &str) -> Value {
        let parts: Vec<&str> = path.split('/').collect();
        let mailbox = parts[3].replace("%40", "@");
        let (name, items) = &self.calendars[&mailbox];
        let json = |item: &Item| serde_json::from_slice::<Value>(&item.content).unwrap();
        let of = |id: &str| id.replace("%2F", "/").replace("%3D", "=");
        let shown = items.iter().filter(|item| item.kind != EventKind::Master);
        match parts[parts.len() - 1] {
            "delta" if query.contains("token=") => {
                json!({"value": [], "@odata.deltaLink": delta(name, 100).as_str()})
            }
            "delta" => {
                let value: Vec<Value> = items.iter().map(json).collect();
                json!({"value": value, "@odata.deltaLink": delta(name, 100).as_str()})
            }
            "calendarView" => json!({"value": shown.map(json).collect::<Vec<_>>()}),
            "instances" => {
                let master = EventId::new(of(parts[parts.len() - 2]));
                let listed = shown.filter(|item| item.master.as_ref() == Some(&master));
                json!({"value": listed.map(json).collect::<Vec<_>>()})
            }
            id => {
                let found = items.iter().find(|item| item.id.as_str() == of(id));
                found.map_or(Value::Null, json)
            }
        }
    }
}

impl Transport for Graph {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        let uri = request.uri();
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let body = if path.contains("/oauth2/") {
            json!({"token_type": "Bearer", "expires_in": 3599, "access_token": "t0ken"})
        } else {
            let prefer = request.headers().get("prefer").map(|value| value.to_str().unwrap());
            let asked = Asked {
                path: uri.path_and_query().unwrap().to_string(),
                prefer: prefer.unwrap_or_default().to_owned(),
            };
            let mailbox = path.split('/').nth(3).unwrap().replace("%40", "@");
            self.asked.lock().unwrap().entry(mailbox).or_default().push(asked);
            self.answer(path, query)
        };
        let response = if body.is_null() {
            let error = json!({"error": {"code": "ErrorItemNotFound", "message": "none"}});
            http::Response::builder().status(404).body(BodyStream::full(error.to_string()))
        } else {
            http::Response::builder().body(BodyStream::full(body.to_string()))
        };
        Box::pin(async move { Ok(response.unwrap()) })
    }
}
