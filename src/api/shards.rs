//! Several processes with the same configuration that answer as one.

use std::sync::{Arc, PoisonError, RwLock};

use crate::mirror::shard::WindowOwners;

/// The windows of other shards: the daemon writes them, the API reads them. Cheap to clone; clones
/// share them.
#[derive(Clone, Debug, Default)]
pub struct OwnerBoard(Arc<RwLock<Arc<WindowOwners>>>);

impl OwnerBoard {
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
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(window).copied()
    }
}
