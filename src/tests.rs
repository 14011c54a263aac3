//! Fixtures for the unit tests of several rooms: a window, how the store knows it, a fleet, a store
//! and its events, and a log.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber};

use crate::config::default_settings;
use crate::env::Env;
use crate::mirror::availability::Availability;
use crate::mirror::fleet::{CalendarSelection, FleetSource, FleetSpec};
use crate::mirror::page::{EventId, EventKind, Item, Span};
use crate::mirror::position::WindowId;
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::window::{CalendarRef, Edge, Edges, Window, WindowIdentity, WindowSettings};
use crate::store::{RegisteredWindow, Store, StoreOptions, WindowRegistration};

/// 2026-11-02T12:00:00Z.
pub(crate) const NOON: Timestamp = Timestamp::constant(1_793_620_800, 0);

/// A simulated environment at noon.
pub(crate) fn env() -> Env {
    Env::simulated(1, NOON)
}

/// A window over a mailbox's default calendar, one month back and three ahead.
pub(crate) fn window(mailbox: &str) -> Window {
    Window {
        name: mailbox.into(),
        account: "contoso".into(),
        mailbox: mailbox.into(),
        calendar: CalendarRef::Default,
        settings: Arc::new(WindowSettings {
            start: Edge::At("2026-10-01T00:00:00Z".parse().unwrap()),
            end: Edge::At("2027-02-01T00:00:00Z".parse().unwrap()),
            interval: Duration::from_secs(60),
            page_size: 20,
            audit: None,
            ..default_settings().unwrap()
        }),
    }
}

/// A fleet of the default calendars of all rooms, listed every hour.
pub(crate) fn fleet_spec() -> FleetSpec {
    FleetSpec {
        name: "staff".into(),
        account: "contoso".into(),
        source: FleetSource::Rooms,
        calendars: CalendarSelection::Default,
        window_name: "{mailbox}".into(),
        relist_every: Duration::from_secs(3600),
        settings: window("x").settings,
    }
}

pub(crate) fn identity(window: &Window) -> WindowIdentity {
    WindowIdentity {
        account: window.account.clone(),
        tenant: "t".into(),
        mailbox: window.mailbox.clone(),
        calendar: window.calendar.clone(),
        immutable_ids: window.settings.immutable_ids,
    }
}

/// What the store is asked to keep of a window, at noon.
pub(crate) fn registration(window: &Window) -> WindowRegistration {
    let WindowSettings { start, end, .. } = *window.settings;
    WindowRegistration {
        name: window.name.clone(),
        identity: identity(window),
        shape: window.shape(),
        start,
        end,
        edges: crate::mirror::schedule::edges(window, NOON),
    }
}

/// A settled window of the store.
pub(crate) fn registered(edges: Edges) -> RegisteredWindow {
    RegisteredWindow {
        id: WindowId(1),
        edges,
        edges_at: NOON,
        resync: None,
        replaces: Vec::new(),
        events: 0,
        rounds: 7,
        resyncs: 0,
        last_resync: None,
        last_success: None,
        audit: None,
        paused_until: None,
        settled: true,
        settled_once: true,
        held: false,
        snapshots: SegmentSet::EMPTY,
        segment_days: 1825,
    }
}

/// Options of a small store that fills the disk if it has to.
pub(crate) fn store_options(directory: &Path) -> StoreOptions {
    StoreOptions { cache_bytes: 1 << 20, min_free_bytes: 0, ..StoreOptions::new(directory) }
}

/// A store in this directory.
pub(crate) fn open(directory: &Path, env: &Env) -> Store {
    Store::open(&store_options(directory), env).unwrap().0
}

/// A single event.
pub(crate) fn single(id: &str, span: Span, content: impl Into<Bytes>) -> Item {
    let content = content.into();
    Item {
        id: EventId::new(id),
        kind: EventKind::Single,
        master: None,
        etag: None,
        span,
        all_day: false,
        availability: Availability::of_event(&content),
        full: true,
        content,
    }
}

/// Collects what is written, such as a log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the log of this thread to `subscriber` while the guard lives.
///
/// While only one subscriber is known, tracing decides for all threads by the subscriber of the
/// thread that reaches a place first. A test without one would then turn that place off for the
/// others; so a second subscriber is known from here on.
pub(crate) fn capture_log(subscriber: impl Into<Dispatch>) -> DefaultGuard {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&SECOND);
    tracing::dispatcher::set_default(&subscriber.into())
}

#[test]
fn a_log_is_captured_whichever_thread_reaches_a_place_first() {
    let lines = Lines::default();
    let writer = Mutex::new(lines.clone());
    let _logging = capture_log(tracing_subscriber::fmt().with_writer(writer).finish());
    let log = || tracing::info!("reached");
    std::thread::spawn(log).join().unwrap();
    log();
    assert_eq!(lines.text().matches("reached").count(), 1);
}
