//! The Graph edge: the only room that knows HTTP.
//!
//! [`client::Client`] asks one question at a time and answers with what the protocol looks at
//! (`mirror::page`) or with a [`error::GraphError`] that says what to do about it. Below it lie
//! the [`transport`] seam (the real one is reqwest, a simulated one needs no socket), the
//! [`wire`] shapes over raw JSON, the [`budget`]s that keep a mailbox within Graph's limits, and
//! [`auth`], which keeps one access token an account.
//!
//! What this room refuses: to follow a link to any origin but the configured one, to follow a
//! redirect, to send a token anywhere else, to repeat a request (but once, after a refused
//! token), and to show a token, a secret, a link or the contents of an event to anybody.

pub mod auth;
pub mod budget;
pub mod client;
pub mod error;
mod item;
pub mod origin;
mod page_memory;
pub mod retry_after;
#[cfg(test)]
mod script;
pub mod transport;
pub mod wire;

pub use auth::{Account, Credential, Tokens};
pub use budget::{Budgets, MailboxBudget};
pub use client::{GraphClient, PageStart, RequestOptions, Target};
pub use error::{ErrorClass, GraphError, Quarantine};
pub use page_memory::Reservation;
pub use transport::{HttpTransport, Transport};
pub use wire::ListPage;
