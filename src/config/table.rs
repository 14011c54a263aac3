//! A table of the configuration that keeps where each value comes from.

use std::collections::BTreeMap;

use config::ValueKind;

use super::origin::ValueOrigin;

/// One merged table; each value has its origin.
#[derive(Debug, Default)]
pub(super) struct LayeredTable {
    /// The prefix of its keys in messages: `graph`, `account.contoso`, `window[alice]`.
    pub(super) path: String,
    pub(super) origin: ValueOrigin,
    pub(super) values: BTreeMap<String, (ValueKind, ValueOrigin)>,
    /// Whether an entry was already rejected. A key that seems missing may be that entry, mistyped.
    pub(super) refused: bool,
}
