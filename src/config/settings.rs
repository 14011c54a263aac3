//! What `[defaults]` sets for every window, and each window may set for itself.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::edge::edge;
use super::fault::Wrong;
use super::keys::Section;
use super::layers::Table;
use super::origin::Report;
use super::reader::{Reader, Written};
use crate::mirror::window::{BodyFormat, Completion, Edge};

/// Faster than once a second is no interval but a loop.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// A move is a whole enumeration, and a hold or an audit is one more look: not every minute.
const HOUR: Duration = Duration::from_secs(3600);

/// The settings of a window other than which calendar it is.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) interval: Duration,
    pub(super) jitter: f64,
    /// `None` if what is written is no edge: then nothing can be said about the window's length.
    pub(super) start: Option<Edge>,
    /// See `start`.
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

impl Settings {
    /// What `[defaults]` says; where it is wrong, what it would be had nobody written it.
    pub(super) fn defaults(table: &Table, report: &mut Report) -> Option<Self> {
        let nothing = Table::default();
        let mut unsaid = Report::default();
        let shipped = Self::read(&mut Reader::new(Section::Defaults, &nothing, &mut unsaid), None)?;
        Self::read(&mut Reader::new(Section::Defaults, table, report), Some(&shipped))
    }

    /// What the table says, over `base`; `None` only if there is no base to fall back on.
    pub(super) fn read(reader: &mut Reader<'_>, base: Option<&Self>) -> Option<Self> {
        Some(Self {
            interval: reader
                .take("interval", |written| written.duration(SHORTEST_INTERVAL))
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
                .and_then(|size| u32::try_from(size).ok())
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
                .take("confirm_after", |written| written.duration(SHORTEST_INTERVAL))
                .or(base.map(|base| base.confirm_after))?,
        })
    }
}

fn edge_of(reader: &mut Reader<'_>, key: &'static str, base: Option<Edge>) -> Option<Edge> {
    let written = reader.take(key, |written| edge(written.text()?));
    if reader.has(key) { written } else { written.or(base) }
}

/// A zone that Outlook knows: by its Windows name, or by an IANA one.
fn time_zone(written: Written<'_>) -> Result<Arc<str>, Wrong> {
    let name = written.text()?;
    if localzone::win_zone_to_iana(name, None).is_some() || TimeZone::get(name).is_ok() {
        return Ok(name.into());
    }
    Err(Wrong::new(
        format!("unknown time zone {name:?}"),
        "write an IANA name such as \"Europe/Berlin\", or a Windows one such as \"W. Europe Standard Time\"",
    ))
}
