//! The states of a window.

use std::fmt;

use super::str_enum::str_enum;

str_enum! {
    /// What a window is doing, in the order in which counts are shown.
    #[derive(Hash, PartialOrd, Ord)]
    pub enum WindowState {
        /// A round that started without a link is under way or due.
        Enumerating = "enumerating",
        /// Every segment has a delta link and no pending entries.
        Settled = "settled",
        /// A round from a delta link is under way.
        Following = "following",
        /// The last attempt failed or was incomplete; the next one is due at `next_due`.
        BackingOff = "backing_off",
        /// A mass removal, or a move of the edges that would cause one, is held back.
        Held = "held",
        /// The mailbox or calendar is gone or forbidden. It is retried slowly and the mirror is
        /// kept.
        Quarantined = "quarantined",
        /// A person has to sign in or consent.
        SignInRequired = "sign_in_required",
        /// The disk is too full to write.
        StoreFull = "store_full",
    }
}

impl fmt::Display for WindowState {
    /// Writes the API's word, so that a state has one spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WindowState {
    /// Whether the window needs attention: true for all but the three normal states.
    pub fn is_trouble(self) -> bool {
        !matches!(self, Self::Enumerating | Self::Settled | Self::Following)
    }
}
