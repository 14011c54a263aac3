//! Everything a store returns, as JSON without names of Rust types, so that later versions can be
//! compared with what one version recorded.

use std::collections::BTreeMap;

use calmirror::mirror::change::{ChangeKind, RemovalReason};
use calmirror::mirror::page::{EventHash, EventId, EventKind, Item, Link};
use calmirror::mirror::position::{PendingEntry, Phase, Position, WindowId};
use calmirror::store::{Change, EventQuery, RegisteredWindow, Store};
use serde_json::{Map, Value, json};

use super::calendars::wanted;
use crate::compare::changes_after;
use crate::rig::noon;

/// The store's content. Registers the configured windows, which changes nothing.
pub(super) async fn of_store(store: &Store) -> Value {
    let stored = store.windows().await.unwrap();
    let listed: Vec<Value> = stored
        .iter()
        .map(|window| json!({"name": &*window.name, "number": window.id.0, "leaving": window.dropping}))
        .collect();
    let identities: BTreeMap<String, Value> = store
        .identities()
        .await
        .unwrap()
        .iter()
        .map(|(name, identity)| {
            let identity = json!({
                "account": &*identity.account,
                "tenant": &*identity.tenant,
                "mailbox": &*identity.mailbox,
                "calendar": identity.calendar.to_string(),
                "immutable_ids": identity.immutable_ids,
            });
            (name.to_string(), identity)
        })
        .collect();
    let attached = store.register(wanted(), noon()).await.unwrap();
    let mut windows = Map::new();
    for (wanted, attached) in wanted().iter().zip(&attached) {
        let mut window = attached_answer(attached);
        window["segments"] = segments(store, attached.id).await;
        window["events"] = events(store, attached.id).await;
        windows.insert(wanted.name.to_string(), window);
    }
    let mut leaving = Map::new();
    for window in stored.iter().filter(|window| window.dropping) {
        leaving.insert(window.id.0.to_string(), events(store, window.id).await);
    }
    let changes = changes_after(store, 0, None, 100_000).await;
    assert!(changes.at_end);
    let feed: Vec<Value> = changes.value.iter().map(|change| line(store, change)).collect();
    json!({
        "listed": listed,
        "identities": identities,
        "windows": windows,
        "leaving": leaving,
        "feed": feed,
        "last_seq": changes.seq,
        "floor": store.min_seq(),
    })
}

fn attached_answer(attached: &RegisteredWindow) -> Value {
    json!({
        "number": attached.id.0,
        "start": attached.edges.start.to_string(),
        "end": attached.edges.end.to_string(),
        "edges_at": attached.edges_at.to_string(),
        "resync": attached.resync.map(|reason| reason.as_str()),
        "replaces": attached.replaces.iter().map(|window| window.0).collect::<Vec<u32>>(),
        "count": attached.events,
        "rounds": attached.rounds,
        "resyncs": attached.resyncs,
        "last_resync": attached.last_resync.as_ref().map(|last| json!({
            "at": last.at.to_string(), "reason": last.reason.as_str(),
        })),
        "last_success": attached.last_success.map(|at| at.to_string()),
        "audit": attached.audit.map(|audit| json!({
            "since": audit.since.to_string(),
            "at": audit.at.map(|at| at.to_string()),
            "differences": audit.differences,
        })),
        "paused_until": attached.paused_until.map(|at| at.to_string()),
        "settled": attached.settled,
        "snapshots": attached.snapshots.bits(),
        "segment_days": attached.segment_days,
    })
}

async fn segments(store: &Store, window: WindowId) -> Value {
    let mut segments = Map::new();
    for segment in store.segments(window).await.unwrap() {
        let position = store.position(window, segment).await.unwrap().unwrap();
        let todo = store.pending(window, segment).await.unwrap();
        let mut answer = position_answer(&position);
        answer["todo"] = todo.iter().map(todo_answer).collect();
        segments.insert(segment.to_string(), answer);
    }
    segments.into()
}

fn position_answer(position: &Position) -> Value {
    let text = |link: &Link| link.as_str().to_owned();
    let phase = match &position.phase {
        Phase::Enumerating { next, reason, page } => json!({
            "enumerating": next.as_ref().map(text), "reason": reason.as_str(), "page": page,
        }),
        Phase::Sweeping { delta, reason } => {
            json!({"sweeping": delta.as_ref().map(text), "reason": reason.as_str()})
        }
        Phase::Settled { delta } => json!({"settled": delta.as_ref().map(text)}),
        Phase::Following { next } => json!({"following": text(next)}),
        Phase::Completing { delta } => json!({"completing": text(delta)}),
    };
    let remedy = &position.fallback;
    let due = |hours| noon() + jiff::SignedDuration::from_hours(hours);
    json!({
        "phase": phase,
        "has_todo": position.has_pending,
        "held_until": position.held_until.map(|at| at.to_string()),
        "pages": position.stall.pages,
        "idle": position.stall.is_idle(),
        // Where one failed page is recorded, one more exceeds the limit.
        "refused_before": position.stall.clone().page_failed(),
        "page_size": remedy.page_size(200),
        "page_size_elsewhere": remedy.page_size(50),
        "snapshot": remedy.is_snapshot(),
        "delta_due": [remedy.is_delta_due(due(23)), remedy.is_delta_due(due(24))],
    })
}

fn todo_answer(todo: &PendingEntry) -> Value {
    match todo {
        PendingEntry::Series { master, needs_master, needs_listing } => json!({
            "series": master.as_str(), "needs_master": needs_master, "needs_listing": needs_listing,
        }),
        PendingEntry::Waiting { item, earlier } => {
            json!({"waiting": item_answer(item), "earlier": earlier})
        }
        PendingEntry::Removal { id: EventHash(id) } => json!({"removal": id}),
    }
}

fn item_answer(item: &Item) -> Value {
    json!({
        "id": item.id.as_str(),
        "kind": match item.kind {
            EventKind::Single => "single",
            EventKind::Occurrence => "occurrence",
            EventKind::Exception => "exception",
            EventKind::Master => "master",
        },
        "master": item.master.as_ref().map(EventId::as_str),
        "etag": item.etag.as_deref(),
        "start": item.span.start.to_string(),
        "end": item.span.end.to_string(),
        "all_day": item.all_day,
        "whole": item.full,
        "content": content(&item.content),
    })
}

/// An event, with the content of a large body replaced by its length.
fn content(bytes: &[u8]) -> Value {
    let mut event: Value = serde_json::from_slice(bytes).unwrap();
    if let Some(body) = event.pointer_mut("/body/content")
        && let Some(text) = body.as_str().filter(|text| text.len() > 1000)
    {
        *body = text.len().into();
    }
    event
}

async fn events(store: &Store, window: WindowId) -> Value {
    let query =
        EventQuery { window, from: None, to: None, limit: 100_000, bytes: usize::MAX, after: None };
    store.events(query).await.unwrap().value.iter().map(|event| content(event)).collect()
}

fn line(store: &Store, change: &Change) -> Value {
    json!({
        "seq": change.seq,
        "cursor": store.cursor(change.seq),
        "at": change.at.to_string(),
        "window": &*change.window,
        "id": change.id.as_str(),
        "change": match change.kind {
            ChangeKind::Created => "created",
            ChangeKind::Updated => "updated",
            ChangeKind::Removed => "removed",
        },
        "reason": change.reason.map(|reason| match reason {
            RemovalReason::Deleted => "deleted",
            RemovalReason::LeftWindow => "left_window",
            RemovalReason::WindowDropped => "window_dropped",
            RemovalReason::Filtered => "filtered",
        }),
        "event": change.event.as_ref().map(|event| content(event)),
    })
}
