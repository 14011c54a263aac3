//! Answers the listings `calendarView` and `instances`, paged by `$skip` (facts 38, 60, 72).

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::behaviour::{InstanceListing, PrivateEvents};
use super::event::{CalendarContext, CalendarItem, EventForm, ItemPart};
use super::graph::{not_found, read_window, select_members, start_of};
use super::request::{GraphRequest, PreferHeader, RenderedResponse};
use super::state::SimulatorState;

impl SimulatorState {
    /// All items that a view of the window lists: single events first, then the instances of
    /// series.
    pub(super) fn view(
        &self,
        mailbox: usize,
        calendar: usize,
        window: (Timestamp, Timestamp),
    ) -> Vec<(std::sync::Arc<CalendarItem>, ItemPart)> {
        let Some(calendar) =
            self.mailboxes.get(mailbox).and_then(|mailbox| mailbox.calendars.get(calendar))
        else {
            return Vec::new();
        };
        let mut view: Vec<_> = calendar
            .items
            .values()
            .flat_map(|item| item.instances(window).into_iter().map(|part| (item.clone(), part)))
            .collect();
        view.sort_by_key(|(item, part)| (item.series.is_some(), start_of(item, *part)));
        view
    }

    /// The events that the plain `calendarView` lists, in `form`.
    pub(super) fn truth(
        &self,
        mailbox: usize,
        calendar: usize,
        window: (Timestamp, Timestamp),
        form: &EventForm,
    ) -> Vec<Value> {
        let place = self.rendering(mailbox, calendar);
        self.view(mailbox, calendar, window)
            .iter()
            .map(|(item, part)| place.whole(item, *part, form))
            .collect()
    }

    pub(super) fn list_view(
        &self,
        call: &GraphRequest,
        mailbox: usize,
        calendar: usize,
        prefer: &PreferHeader,
    ) -> RenderedResponse {
        let window = match read_window(call, Some(self.behaviour.max_days)) {
            Ok(window) => window,
            Err(refused) => return *refused,
        };
        let view = self.view(mailbox, calendar, window);
        let place = self.rendering(mailbox, calendar);
        self.listing(call, prefer, view.len(), |at| {
            view.get(at).map(|(item, part)| place.whole(item, *part, &prefer.form))
        })
    }

    /// Whether the event cannot be fetched by its id.
    pub(super) fn is_listed_only(&self, item: &CalendarItem) -> bool {
        self.behaviour.private_events == PrivateEvents::ListedOnly
            && item.content.sensitivity == "private"
    }

    pub(super) fn list_instances(
        &self,
        call: &GraphRequest,
        place: CalendarContext,
        item: &CalendarItem,
        prefer: &PreferHeader,
    ) -> RenderedResponse {
        let days = self.behaviour.limited_instances.then_some(self.behaviour.max_days);
        let window = match read_window(call, days) {
            Ok(window) => window,
            Err(refused) => return *refused,
        };
        let mut parts = item.instances(window);
        if self.behaviour.instances != InstanceListing::Complete {
            parts.retain(|part| !matches!(part, ItemPart::Exception(_)));
        }
        if parts.is_empty() && self.behaviour.instances == InstanceListing::OccurrencesOrNotFound {
            return not_found();
        }
        self.listing(call, prefer, parts.len(), |at| {
            parts.get(at).map(|part| place.whole(item, *part, &prefer.form))
        })
    }

    /// One page of a listing of `count` events.
    fn listing(
        &self,
        call: &GraphRequest,
        prefer: &PreferHeader,
        count: usize,
        event: impl Fn(usize) -> Option<Value>,
    ) -> RenderedResponse {
        let number = |name: &str| call.parameter(name).map(str::parse::<usize>);
        let (top, skip) = match (number("$top"), number("$skip")) {
            (Some(Err(_)) | Some(Ok(0)), _) | (_, Some(Err(_))) => {
                return RenderedResponse::error(
                    StatusCode::BAD_REQUEST,
                    "ErrorInvalidUrlQuery",
                    "The query specified in the URI is not valid.",
                );
            }
            (top, skip) => (top.and_then(Result::ok), skip.and_then(Result::ok).unwrap_or(0)),
        };
        let size = top.or(prefer.page_size).unwrap_or(10).clamp(1, 1000);
        let select = call.parameter("$select");
        let value: Vec<Value> = (skip..count.min(skip.saturating_add(size)))
            .filter_map(event)
            .map(|mut event| {
                select_members(&mut event, select);
                event
            })
            .collect();
        let mut page = json!({
            "@odata.context": format!("{}/$metadata#Collection(event)", self.base(call)),
            "value": value,
        });
        if count > skip.saturating_add(size) {
            let query = call.target.split_once('?').map(|(_, query)| query).unwrap_or_default();
            let kept: String = query
                .split('&')
                .filter(|pair| {
                    let name = pair.split('=').next().unwrap_or_default().to_lowercase();
                    !pair.is_empty() && name != "$skip" && name != "%24skip"
                })
                .map(|pair| format!("{pair}&"))
                .collect();
            page["@odata.nextLink"] =
                format!("{}?{kept}$skip={}", self.own_address(call), skip + size).into();
        }
        RenderedResponse::json(StatusCode::OK, &page)
    }
}
