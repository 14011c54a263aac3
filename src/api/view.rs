//! What a reader sees of events: as much as its level shows, of those that its filter accepts, the
//! members that it asked for.

use bytes::Bytes;
use serde::Serialize;

use super::problem::Problem;
use super::query::Parameters;
use super::redact::{Detail, is_kept, shown};
use crate::config::AccessLevel;
use crate::json::JsonMembers;
use crate::mirror::change::{ChangeKind, RemovalReason};
use crate::mirror::event::VERSION_MEMBERS;
use crate::mirror::event_filter::{EventFilter, FilterKey};
use crate::mirror::join_link::join_url;
use crate::store::Change;

/// The parameters of a filter.
pub(super) const FILTER: [&str; 6] = FilterKey::NAMES;

/// A member that events get only if it is asked for: the link to the online meeting.
const JOIN_URL: &str = "join_url";

/// The view of one request.
#[derive(Clone, Debug)]
pub(super) struct EventView {
    detail: Detail,
    pub(super) filter: EventFilter,
    /// The members to show; `None` for all.
    fields: Option<Vec<String>>,
    /// Whether changes are left out that change only the version.
    ignores_versions: bool,
}

impl EventView {
    /// The view of a reader with this level.
    ///
    /// # Errors
    /// 400 for invalid values, 403 for a filter on a member that the reader does not see.
    pub(super) fn parse(
        parameters: &Parameters,
        level: AccessLevel,
        mask_private: bool,
    ) -> Result<Self, Problem> {
        let detail = match level {
            AccessLevel::All if mask_private => Detail::MaskPrivate,
            AccessLevel::All => Detail::All,
            AccessLevel::Times | AccessLevel::Busy => Detail::Times,
        };
        let mut filter = EventFilter::default();
        for key in FilterKey::ALL {
            let Some(values) = parameters.text(key.name()) else { continue };
            let wrong = |error| Problem::bad_parameter(key.name(), format!("{error}"));
            filter.add(key, values).map_err(wrong)?;
            let is_busy_time = matches!(key, FilterKey::ShowAs | FilterKey::Cancelled);
            let hidden = match level {
                AccessLevel::All => false,
                AccessLevel::Times => !is_kept(key.member()),
                AccessLevel::Busy => !is_busy_time,
            };
            if hidden {
                return Err(Problem::NotAllowed("this consumer does not see what it filters by"));
            }
        }
        let fields = parameters.text("fields").map(fields).transpose()?;
        let ignores_versions = parameters.text("ignore").map(ignored).transpose()?.is_some();
        Ok(Self { detail, filter, fields, ignores_versions })
    }

    /// What distinguishes views, for tags.
    pub(super) fn tag(&self) -> impl Serialize {
        (self.detail, self.filter.canonical(), self.fields.clone())
    }

    /// As much of the event as the reader sees, whether or not the filter accepts it.
    pub(super) fn reduce(&self, event: Bytes) -> Bytes {
        shown(event, self.detail)
    }

    /// As much of the event as the reader sees; `None` if the filter refuses it.
    pub(super) fn accept(&self, event: Bytes) -> Option<Bytes> {
        let event = shown(event, self.detail);
        self.filter.matches(&event).then_some(event)
    }

    /// The event as the reader sees it; `None` if the filter refuses it.
    pub(super) fn show(&self, event: Bytes) -> Option<Bytes> {
        self.accept(event).map(|event| self.select(event))
    }

    /// The members of an accepted event that were asked for.
    fn select(&self, event: Bytes) -> Bytes {
        let Some(fields) = &self.fields else { return event };
        let names: Vec<&str> = fields.iter().map(String::as_str).collect();
        let Ok(members) = JsonMembers::parse(&event) else { return Bytes::from("{}") };
        let mut only = members.pick(&names);
        if names.contains(&JOIN_URL)
            && let Some(link) = join_url(&members)
        {
            // A string always serializes.
            only.raw(JOIN_URL, &serde_json::to_string(&link).unwrap_or_default());
        }
        only.finish().into()
    }

    /// An accepted event as a line of the feed has it: without members, the line alone says that
    /// the event exists.
    pub(super) fn in_line(&self, event: Bytes) -> Option<Bytes> {
        let is_thin = self.fields.as_ref().is_some_and(Vec::is_empty);
        (!is_thin).then(|| self.select(event))
    }

    /// A change as the reader sees it; `None` if the reader needs no line. `is_first`: the reader
    /// cannot have the event yet.
    pub(super) fn show_change(&self, change: Change, is_first: bool) -> Option<Change> {
        if self.ignores_versions && change.is_new_version {
            return None;
        }
        let Some(event) = change.event else {
            let summary = change.summary.map(|summary| self.select(shown(summary, self.detail)));
            return Some(Change { summary, ..change });
        };
        let visible = self.detail.shows_all(&event);
        match self.accept(event) {
            Some(event) => {
                let names = change.changed.map(|mut names| {
                    names.retain(|name| visible || is_kept(name));
                    names
                });
                Some(Change { event: self.in_line(event), changed: names, ..change })
            }
            None if is_first => None,
            None => Some(Change {
                kind: ChangeKind::Removed,
                reason: Some(RemovalReason::Filtered),
                event: None,
                changed: None,
                summary: None,
                ..change
            }),
        }
    }
}

/// The names of members separated by commas; none if the text is empty.
fn fields(text: &str) -> Result<Vec<String>, Problem> {
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '_' | '-');
        !name.is_empty() && name.chars().all(allowed)
    };
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').filter(|_| !text.is_empty()) {
        if !is_name(name) {
            let detail = "must be names of members separated by commas, such as id,subject,start";
            return Err(Problem::bad_parameter("fields", detail));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Checks that exactly the members of a version are ignored: the store knows when others changed
/// last, but not each of them.
fn ignored(text: &str) -> Result<(), Problem> {
    let mut names: Vec<&str> = text.split(',').collect();
    names.sort_unstable();
    let mut known = VERSION_MEMBERS;
    known.sort_unstable();
    if names == known {
        return Ok(());
    }
    let detail = format!("must be {}", VERSION_MEMBERS.join(","));
    Err(Problem::bad_parameter("ignore", detail))
}
