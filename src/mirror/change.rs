//! What the feed says: one entry per event whose look to a reader differs.

/// The increasing number of a change in a store. 0 means "before the first".
pub type Seq = u64;

/// What happened to an event, as the store saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The store had none of this id.
    Created,
    /// A reader sees something else than before.
    Updated,
    /// It is no longer in the mirror.
    Removed,
}

impl ChangeKind {
    /// The word by which the API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Removed => "removed",
        }
    }
}

/// Why an event left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    /// Graph says it is no longer in this view (fact 62).
    Deleted,
    /// The window's edges moved past it.
    LeftWindow,
    /// The window was removed from the configuration, or became another one under its old name.
    WindowDropped,
}

impl RemovalReason {
    /// The word by which the API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::LeftWindow => "left_window",
            Self::WindowDropped => "window_dropped",
        }
    }
}
