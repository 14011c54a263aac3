//! Access to Microsoft Graph; no other module sends requests to it.
//!
//! [`client::GraphClient`] sends one request at a time. It returns what the protocol needs
//! (`mirror::page`) or an [`error::GraphError`] that says how to react. It is built on
//! [`transport`] (reqwest, or a simulated transport without sockets), [`wire`] (parsing of raw
//! JSON), [`budget`] (Graph's limits per mailbox) and [`auth`] (one access token per account).
//!
//! Excluded by design: following a link to any origin but the configured one, following a redirect,
//! sending a token anywhere else, repeating a request (except once, after a refused token), and
//! showing a token, a secret, a link or the contents of an event.

pub mod auth;
pub mod budget;
pub mod client;
pub mod directory;
pub mod error;
mod item;
pub mod origin;
mod page_memory;
mod remedy;
mod request;
pub mod retry_after;
#[cfg(test)]
pub(crate) mod script;
pub mod transport;
pub mod wire;

pub use auth::{DeviceCode, LoginError, SignInSettings, SignedInUser, Tokens};
pub use budget::{Budgets, MailboxBudget};
pub use client::GraphClient;
pub use directory::DirectoryClient;
pub use error::GraphError;
pub use page_memory::Reservation;
pub use remedy::{listing_remedy, remedy};
pub use request::{PageStart, RequestOptions, Target};
pub use transport::{HttpTransport, Route, RouteSettings, Transport};
pub use wire::ListPage;
