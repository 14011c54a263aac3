//! How far a start is, for the service manager and the log.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

/// The step that a start is at. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct StartProgress(Arc<Mutex<Option<Cow<'static, str>>>>);

impl StartProgress {
    /// Begins a step.
    pub fn set(&self, step: impl Into<Cow<'static, str>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(step.into());
    }

    /// The current step; at first, the store is opened.
    pub fn step(&self) -> Cow<'static, str> {
        let step = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        step.unwrap_or(Cow::Borrowed("opening the store"))
    }
}
