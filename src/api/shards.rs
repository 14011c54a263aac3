//! Several processes with the same configuration that answer as one.
//!
//! The asked shard knows which other has a window, and sends readers there, or passes their request
//! on. Lists come from all: it asks the others, with the credentials of its own reader, and merges
//! their answers with its own. A shard that does not answer is named.

mod busy;
mod events;
mod free;
mod gathered;
mod peers;
mod relay;
mod status;
mod windows;

use std::sync::{Arc, PoisonError, RwLock};

use crate::mirror::shard::WindowOwners;

pub(super) use busy::many as busy;
pub(super) use events::list as events;
pub(super) use free::free;
pub use peers::Peers;
pub(super) use relay::{changes, name_shard, pass_on};
pub(super) use status::status;
pub(super) use windows::list as windows;

/// The windows of other shards: the daemon writes them, the API reads them. Cheap to clone; clones
/// share them.
#[derive(Clone, Debug, Default)]
pub struct OwnerBoard(Arc<RwLock<Arc<WindowOwners>>>);

impl OwnerBoard {
    /// A board with these.
    pub fn new(owners: WindowOwners) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(owners))))
    }

    /// Replaces them.
    pub fn set(&self, owners: WindowOwners) {
        let owners = Arc::new(owners);
        // Readers do not wait until a million old ones are dropped.
        let old =
            std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), owners);
        drop(old);
    }

    /// The other shard that has a window; `None` if this one has it, or none.
    pub fn owner(&self, window: &str) -> Option<u32> {
        self.all().get(window).copied()
    }

    /// All of them, as they are now.
    pub(super) fn all(&self) -> Arc<WindowOwners> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
