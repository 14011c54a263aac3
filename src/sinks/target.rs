//! Where a sink sends changes.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::batch::{SinkBatch, SinkPosition};
use super::error::SinkError;

/// The mark of a target to which this process has not sent anything since its share of the windows
/// changed, by its configuration or because a person asked for it.
pub const NEW_SHARE: &str = "new share";

/// A target: a receiver of webhooks, a database, a message log. After an error it is dropped, and
/// another one is made for the next attempt.
pub trait SinkTarget: Send {
    /// Connects and prepares what is missing, such as tables. Comes before anything else. The mark
    /// is that of the last receipt that had one, or [`NEW_SHARE`].
    fn open<'a>(
        &'a mut self,
        mark: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeptPosition, SinkError>>;

    /// Sends a batch. It is durable at the target, as far as the target promises that, when this
    /// returns. The same batch, or one that overlaps with it, may come again.
    fn deliver<'a>(&'a mut self, batch: &'a SinkBatch)
    -> BoxFuture<'a, Result<Receipt, SinkError>>;

    /// Shows that a batch could be sent, without one: for a person who sets the sink up.
    fn test<'a>(
        &'a mut self,
        sink: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>>;
}

/// Where the position of a sink is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptPosition {
    /// In the store of the daemon.
    InStore,
    /// In the target, which has lost what it was sent.
    Lost,
    /// In the target, written together with the changes; `None` in an empty one.
    InTarget(Option<SinkPosition>),
}

/// What a target says of a delivery, for the log of attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The HTTP status.
    pub status: Option<u16>,
    /// The id of the message.
    pub id: Option<String>,
    /// What the target recognises itself by when it is opened again, for the store.
    pub mark: Option<String>,
}
