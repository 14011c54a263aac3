//! Lines of the feed that are not stored: the states of windows, and when events begin and end.
//!
//! They carry the cursor that the reader has at that time. A reader that was away gets no lines of
//! that time. It learns the states anew: first comes a line for each window in trouble.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::AppState;
use super::feed_reader::LineFormat;
use super::model::{ErrorJson, StrJson};
use super::problem::Problem;
use super::selection::SelectedWindows;
use super::upcoming::Upcoming;
use super::view::EventView;
use crate::mirror::status::WindowState;
use crate::worker::StateChange;

/// Windows in trouble that are looked at together.
const BATCH: usize = 256;

/// The live lines of one reader.
pub(super) struct LiveLines {
    app: Arc<AppState>,
    selection: SelectedWindows,
    states: Option<StateLines>,
    upcoming: Option<Upcoming>,
}

/// The lines about the states of windows.
struct StateLines {
    changes: Receiver<StateChange>,
    /// A change that was received while waiting.
    received: Option<StateChange>,
    /// Changes were missed, because there were too many.
    missed: bool,
    /// Where the list of the windows in trouble goes on; `None` after its end.
    troubled: Option<TroubledFrom>,
}

/// The first window of a list, or those after a name.
enum TroubledFrom {
    Start,
    After(Arc<str>),
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

impl StateLine<'_> {
    fn write(self, text: &mut Vec<u8>, form: LineFormat) {
        // Words, numbers and times always serialize, and a Vec takes every byte.
        form.write(text, ("state", self.cursor), |text| {
            serde_json::to_writer(text, &self).ok();
        });
    }
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
        let states = states.then(|| StateLines {
            changes: app.fleet.state_changes(),
            received: None,
            missed: false,
            troubled: Some(TroubledFrom::Start),
        });
        Self { app: app.clone(), selection, states, upcoming }
    }

    /// The store has changed.
    pub(super) fn on_changes(&mut self) {
        if let Some(upcoming) = &mut self.upcoming {
            upcoming.on_changes();
        }
    }

    /// Whether the list of the windows in trouble has not ended.
    pub(super) fn lists_troubled(&self) -> bool {
        self.states.as_ref().is_some_and(|states| states.troubled.is_some())
    }

    /// Whether lines about states were missed: the reader has to begin again.
    pub(super) fn missed(&self) -> bool {
        self.states.as_ref().is_some_and(|states| states.missed)
    }

    /// Waits until a line may be due.
    pub(super) async fn wait(&mut self) {
        let state = async {
            let Some(states) = &mut self.states else { return std::future::pending().await };
            if states.received.is_some() || states.missed {
                return;
            }
            loop {
                match states.changes.recv().await {
                    Ok(change) if self.selection.contains(&change.window) => {
                        states.received = Some(change);
                        return;
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => {
                        states.missed = true;
                        return;
                    }
                    // The daemon stops.
                    Err(RecvError::Closed) => return std::future::pending().await,
                }
            }
        };
        let upcoming = async {
            match &self.upcoming {
                Some(upcoming) => upcoming.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = state => {}
            () = upcoming => {}
        }
    }

    /// Writes the lines that are due.
    pub(super) async fn write(
        &mut self,
        text: &mut Vec<u8>,
        form: LineFormat,
        cursor: &str,
        view: &EventView,
    ) -> Result<(), Problem> {
        if let Some(states) = &mut self.states {
            while let Some(change) = states.next() {
                if !self.selection.contains(&change.window) {
                    continue;
                }
                let StateChange { at, window, state, error } = change;
                let (state, error) = (state.into(), error.map(ErrorJson::from));
                StateLine { cursor, at, window: &window, change: "state", state, error }
                    .write(text, form);
            }
        }
        if let Some(upcoming) = &mut self.upcoming {
            upcoming.write(text, form, cursor, (&self.app, &self.selection, view)).await?;
        }
        Ok(())
    }

    /// Writes about `bytes` bytes of the lines of the windows that are in trouble now.
    pub(super) fn write_troubled(
        &mut self,
        text: &mut Vec<u8>,
        form: LineFormat,
        cursor: &str,
        bytes: usize,
    ) {
        let Some(states) = &mut self.states else { return };
        let now = self.app.env.now();
        while let Some(from) = states.troubled.take_if(|_| text.len() < bytes) {
            let after = match &from {
                TroubledFrom::Start => None,
                TroubledFrom::After(name) => Some(&**name),
            };
            let windows = self.app.fleet.troubled(after, BATCH);
            states.troubled = windows
                .last()
                .filter(|_| windows.len() == BATCH)
                .map(|last| TroubledFrom::After(last.name.as_str().into()));
            for window in windows {
                if !self.selection.contains(&window.name) {
                    continue;
                }
                let at = window.last_error.as_ref().map_or(now, |error| error.at);
                let (state, error) = (window.state.into(), window.last_error.map(ErrorJson::from));
                StateLine { cursor, at, window: &window.name, change: "state", state, error }
                    .write(text, form);
            }
        }
    }
}

impl StateLines {
    /// The next change that was received.
    fn next(&mut self) -> Option<StateChange> {
        if let Some(change) = self.received.take() {
            return Some(change);
        }
        match self.changes.try_recv() {
            Ok(change) => Some(change),
            Err(TryRecvError::Lagged(_)) => {
                self.missed = true;
                None
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}
