//! Owns the workers. (Signatures first; being filled in.)

use std::sync::Arc;
use std::time::Duration;

use crate::mirror::position::WindowId;
use crate::mirror::status::WindowStatus;

/// What readers and commands may ask of the running fleet. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {}

/// Why a command to a window could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No window of that name is running.
    #[error("no window is named {0:?}")]
    UnknownWindow(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// A round that was started on request.
#[derive(Clone, Debug)]
pub struct Started {
    /// The window.
    pub window: Arc<str>,
    /// The number of the round that serves the request.
    pub round: u64,
    /// The window's status once the round was over, if it was over within the wait.
    pub finished: Option<WindowStatus>,
}

#[expect(
    clippy::unimplemented,
    clippy::missing_errors_doc,
    unused_variables,
    reason = "signatures only, for now"
)]
impl Fleet {
    /// Every window's status, ordered by name.
    pub fn windows(&self) -> Vec<WindowStatus> {
        unimplemented!()
    }
    /// One window's status.
    pub fn window(&self, name: &str) -> Option<WindowStatus> {
        unimplemented!()
    }
    /// The number under which the store keeps a window.
    pub fn id(&self, name: &str) -> Option<WindowId> {
        unimplemented!()
    }
    /// Starts a round now; with `wait` also waits for its end.
    pub async fn sync(&self, name: &str, wait: Option<Duration>) -> Result<Started, FleetError> {
        unimplemented!()
    }
    /// Starts a full resync now. `accept_removals` ends a hold.
    pub async fn resync(
        &self,
        name: &str,
        accept_removals: bool,
        wait: Option<Duration>,
    ) -> Result<Started, FleetError> {
        unimplemented!()
    }
}
