//! The settings that `[defaults]` sets for every window and that each window may override.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::diagnostic::Issue;
use super::edge::edge;
use super::origin::DiagnosticSink;
use super::reader::{RawValue, TableReader};
use super::table::LayeredTable;
use crate::mirror::window::{BodyFormat, Completion, Edge};

/// The shortest interval; below a second the daemon would loop.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// A move is a whole enumeration and an audit is an extra read, so neither may run every minute.
const HOUR: Duration = Duration::from_secs(3600);

/// A window's settings other than the identity of its calendar.
#[derive(Clone, Debug)]
pub(super) struct WindowSettings {
    pub(super) interval: Duration,
    pub(super) jitter: f64,
    /// `None` if the configured edge is invalid; the window's length is then not checked.
    pub(super) start: Option<Edge>,
    /// As for `start`.
    pub(super) end: Option<Edge>,
    pub(super) move_every: Duration,
    pub(super) page_size: u32,
    pub(super) body: BodyFormat,
    pub(super) time_zone: Arc<str>,
    pub(super) immutable_ids: bool,
    pub(super) complete: Completion,
    pub(super) audit: Option<Duration>,
    pub(super) confirm_after: Duration,
}

impl WindowSettings {
    /// The settings of `[defaults]`; built-in defaults replace invalid ones.
    pub(super) fn defaults(table: &LayeredTable, report: &mut DiagnosticSink) -> Option<Self> {
        let nothing = LayeredTable { defaults: table.defaults, ..LayeredTable::default() };
        let mut unsaid = DiagnosticSink::default();
        let shipped = Self::read(&mut TableReader::new(&nothing, &mut unsaid), None)?;
        Self::read(&mut TableReader::new(table, report), Some(&shipped))
    }

    /// Reads the table's settings over `base`; `None` only without a base.
    pub(super) fn read(reader: &mut TableReader<'_>, base: Option<&Self>) -> Option<Self> {
        Some(Self {
            interval: reader
                .take("interval", |written| written.duration(MIN_INTERVAL))
                .or(base.map(|base| base.interval))?,
            jitter: reader
                .take("jitter", |written| written.share())
                .or(base.map(|base| base.jitter))?,
            start: edge_of(reader, "start", base.and_then(|base| base.start)),
            end: edge_of(reader, "end", base.and_then(|base| base.end)),
            move_every: reader
                .take("move_every", |written| written.duration(HOUR))
                .or(base.map(|base| base.move_every))?,
            page_size: reader
                .take("page_size", |written| written.integer(1..=1000))
                .or(base.map(|base| base.page_size))?,
            body: reader
                .take("body", |written| {
                    written.choice(&[
                        ("html", BodyFormat::Html),
                        ("text", BodyFormat::Text),
                        ("none", BodyFormat::None),
                    ])
                })
                .or(base.map(|base| base.body))?,
            time_zone: reader
                .take("time_zone", time_zone)
                .or_else(|| base.map(|base| base.time_zone.clone()))?,
            immutable_ids: reader
                .take("immutable_ids", |written| written.flag())
                .or(base.map(|base| base.immutable_ids))?,
            complete: reader
                .take("complete", |written| {
                    written.choice(&[("master", Completion::Master), ("exact", Completion::Exact)])
                })
                .or(base.map(|base| base.complete))?,
            audit: reader
                .take("audit", |written| written.duration_or_off(HOUR))
                .or(base.map(|base| base.audit))?,
            confirm_after: reader
                .take("confirm_after", |written| written.duration(MIN_INTERVAL))
                .or(base.map(|base| base.confirm_after))?,
        })
    }
}

fn edge_of(reader: &mut TableReader<'_>, key: &'static str, base: Option<Edge>) -> Option<Edge> {
    let written = reader.take(key, |written| edge(written.text()?));
    if reader.has(key) { written } else { written.or(base) }
}

/// A time zone that Outlook knows, by its Windows name or an IANA name.
fn time_zone(written: RawValue<'_>) -> Result<Arc<str>, Issue> {
    let name = written.text()?;
    if localzone::win_zone_to_iana(name, None).is_some() || TimeZone::get(name).is_ok() {
        return Ok(name.into());
    }
    Err(Issue::new(
        format!("unknown time zone {name:?}"),
        "write an IANA name such as \"Europe/Berlin\", or a Windows one such as \"W. Europe Standard Time\"",
    ))
}
