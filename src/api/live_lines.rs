//! Lines of the feed that are not stored: the states of windows, and when events begin and end.
//!
//! They carry the cursor that the reader has at that time. What happened while a reader was away
//! has no lines later: instead, every response begins with one for each window in trouble.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::AppState;
use super::line_format::LineFormat;
use super::model::{ErrorJson, StrJson};
use super::problem::Problem;
use super::selection::SelectedWindows;
use super::upcoming::Upcoming;
use super::view::EventView;
use crate::mirror::status::WindowState;
use crate::worker::{StateChange, StateReader};

/// Changes of states that are looked at together.
const BATCH: usize = 256;

/// The most batches of a slice: most windows may be of no interest.
const MAX_BATCHES: usize = 16;

/// The live lines of one reader.
pub(super) struct LiveLines {
    app: Arc<AppState>,
    selection: SelectedWindows,
    states: Option<StateLines>,
    upcoming: Option<Upcoming>,
}

struct StateLines {
    /// The windows in trouble when the reader came, as far as they still are when they are written.
    list: StateReader,
    /// What changes after that.
    changes: StateReader,
    /// Changes that are to be written.
    found: VecDeque<Arc<StateChange>>,
}

#[derive(Serialize)]
struct StateLine<'a> {
    cursor: &'a str,
    at: Timestamp,
    window: &'a str,
    change: &'static str,
    state: StrJson<WindowState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson>,
}

impl LiveLines {
    /// The lines about the states of the selected windows, if `states`, and about the events that
    /// are `upcoming`.
    pub(super) fn new(
        app: &Arc<AppState>,
        selection: SelectedWindows,
        states: bool,
        upcoming: Option<Upcoming>,
    ) -> Self {
        let states = states.then(|| {
            let (list, changes) = app.fleet.states().readers();
            StateLines { list, changes, found: VecDeque::new() }
        });
        Self { app: app.clone(), selection, states, upcoming }
    }

    /// An accepted event has changed.
    pub(super) fn on_changes(&mut self) {
        if let Some(upcoming) = &mut self.upcoming {
            upcoming.on_changes();
        }
    }

    /// Whether there are lines to write, with those of windows in trouble.
    pub(super) fn has_lines(&self) -> bool {
        self.is_due() || self.states.as_ref().is_some_and(|states| states.list.lists())
    }

    /// Whether there are lines that end a wait.
    pub(super) fn is_due(&self) -> bool {
        self.states.as_ref().is_some_and(|states| !states.found.is_empty())
            || self.upcoming.as_ref().is_some_and(Upcoming::has_lines)
    }

    /// Waits until a line may be due.
    pub(super) async fn wait(&mut self) {
        let changed = async {
            match &mut self.states {
                Some(states) => states.changes.changed().await,
                None => std::future::pending().await,
            }
        };
        let upcoming = async {
            match &self.upcoming {
                Some(upcoming) => upcoming.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = upcoming => {}
        }
    }

    /// Looks for lines that are due.
    pub(super) async fn look(&mut self, view: &EventView) -> Result<(), Problem> {
        if let Some(StateLines { changes, found, .. }) = &mut self.states {
            for _ in 0..MAX_BATCHES {
                if !found.is_empty() || changes.is_at_end() {
                    break;
                }
                let read = changes.read(BATCH).into_iter();
                found.extend(read.filter(|change| self.selection.contains(&change.window)));
            }
        }
        match &mut self.upcoming {
            Some(upcoming) => upcoming.look(&self.app, &self.selection, view).await,
            None => Ok(()),
        }
    }

    /// Writes about `bytes` bytes of lines.
    pub(super) async fn write(
        &mut self,
        text: &mut Vec<u8>,
        (form, cursor, bytes): (LineFormat, &str, usize),
        view: &EventView,
    ) -> Result<(), Problem> {
        if let Some(StateLines { list, found, .. }) = &mut self.states {
            for _ in 0..MAX_BATCHES {
                if !list.lists() || text.len() >= bytes {
                    break;
                }
                for change in list.read(BATCH) {
                    if self.selection.contains(&change.window) {
                        write_state(&change, cursor, text, form);
                    }
                }
            }
            if list.lists() {
                return Ok(());
            }
            while text.len() < bytes
                && let Some(change) = found.pop_front()
            {
                write_state(&change, cursor, text, form);
            }
        }
        match &mut self.upcoming {
            Some(upcoming) => upcoming.write(text, (form, cursor, bytes), (&self.app, view)).await,
            None => Ok(()),
        }
    }
}

fn write_state(change: &StateChange, cursor: &str, text: &mut Vec<u8>, form: LineFormat) {
    let line = StateLine {
        cursor,
        at: change.at,
        window: &change.window,
        change: "state",
        state: change.state.into(),
        error: change.error.clone().map(ErrorJson::from),
    };
    // Words, numbers and times always serialize, and a Vec takes every byte.
    form.write(text, ("state", cursor), |text| {
        serde_json::to_writer(text, &line).ok();
    });
}
