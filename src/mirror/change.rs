//! Feed entries: one per event whose visible content changed.

use super::str_enum::str_enum;

/// The number of a change in a store. Numbers increase; 0 means "before the first".
pub type Seq = u64;

str_enum! {
    /// What a commit did to an event.
    pub enum ChangeKind {
        /// The store had no event with this id.
        Created = "created",
        /// The event's visible content changed.
        Updated = "updated",
        /// The event is no longer in the mirror.
        Removed = "removed",
    }
}

str_enum! {
    /// Why an event left the mirror.
    pub enum RemovalReason {
        /// Graph no longer has the event in this view: by a tombstone (fact 62), a listing or a
        /// sweep.
        Deleted = "deleted",
        /// The window's edges moved past the event.
        LeftWindow = "left_window",
        /// The window was removed from the configuration, or its name now means another window.
        WindowDropped = "window_dropped",
        /// The event exists, but the filter of this reader no longer accepts it. Never stored.
        Filtered = "filtered",
    }
}
