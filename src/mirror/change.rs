//! Feed entries: one per event whose visible content changed.

/// The number of a change in a store. Numbers increase; 0 means "before the first".
pub type Seq = u64;

/// What a commit did to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The store had no event with this id.
    Created,
    /// The event's visible content changed.
    Updated,
    /// The event is no longer in the mirror.
    Removed,
}

impl ChangeKind {
    /// The API's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Removed => "removed",
        }
    }
}

/// Why an event left the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    /// Graph reports that the event is no longer in this view (fact 62).
    Deleted,
    /// The window's edges moved past the event.
    LeftWindow,
    /// The window was removed from the configuration, or its name now means another window.
    WindowDropped,
}

impl RemovalReason {
    /// The API's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::LeftWindow => "left_window",
            Self::WindowDropped => "window_dropped",
        }
    }
}
