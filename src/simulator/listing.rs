//! Answers the listings `calendarView` and `instances` (facts 38, 60, 72), and pages them and lists of
//! calendars by `$skip`.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;

use super::behaviour::InstanceListing;
use super::calendar::Calendar;
use super::event::{CalendarContext, CalendarItem, ItemPart};
use super::graph::{not_found, read_window, select_members};
use super::request::{PreferHeader, RenderedResponse, SimulatedRequest};
use super::state::SimulatorState;

impl Calendar {
    /// All items that a view of the window lists: single events first, then the instances of
    /// series.
    pub(super) fn view(&self, window: (Timestamp, Timestamp)) -> Vec<(&CalendarItem, ItemPart)> {
        let instances = |item: &Arc<CalendarItem>| item.instances(window).into_iter();
        let items = self.items.values();
        let mut view: Vec<_> =
            items.flat_map(|item| instances(item).map(move |part| (&**item, part))).collect();
        view.sort_by_key(|(item, part)| {
            (item.series.is_some(), item.zone.instant(item.span_of(*part).start))
        });
        view
    }
}

impl SimulatorState {
    pub(super) fn list_view(
        &self,
        call: &SimulatedRequest,
        calendar: &Calendar,
        prefer: &PreferHeader,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let window = read_window(call, Some(self.behaviour.max_days))?;
        self.listing(call, calendar.place, &calendar.view(window), prefer)
    }

    pub(super) fn list_instances(
        &self,
        call: &SimulatedRequest,
        place: CalendarContext,
        item: &CalendarItem,
        prefer: &PreferHeader,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let days = self.behaviour.limited_instances.then_some(self.behaviour.max_days);
        let window = read_window(call, days)?;
        let mut parts = item.instances(window);
        if self.behaviour.instances != InstanceListing::Complete {
            parts.retain(|part| !matches!(part, ItemPart::Exception(_)));
        }
        if parts.is_empty() && self.behaviour.instances == InstanceListing::OccurrencesOrNotFound {
            return Err(not_found());
        }
        let view: Vec<_> = parts.into_iter().map(|part| (item, part)).collect();
        self.listing(call, place, &view, prefer)
    }

    /// One page of a listing of the events `view`.
    fn listing(
        &self,
        call: &SimulatedRequest,
        place: CalendarContext,
        view: &[(&CalendarItem, ItemPart)],
        prefer: &PreferHeader,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let part = self.listing_part(call, prefer, view.len())?;
        let select = call.parameter("$select");
        let shown = view.iter().skip(part.skip).take(part.size).map(|(item, part)| {
            let mut event = place.whole(item, *part, &prefer.form);
            select_members(&mut event, select);
            event
        });
        let mut page = json!({
            "@odata.context": format!("{}/$metadata#Collection(event)", self.base(call)),
            "value": shown.collect::<Vec<_>>(),
        });
        if let Some(next) = part.next {
            page["@odata.nextLink"] = next.into();
        }
        Ok(RenderedResponse::json(StatusCode::OK, &page))
    }

    /// The part of a listing of `total` objects that a request asks for.
    pub(super) fn listing_part(
        &self,
        call: &SimulatedRequest,
        prefer: &PreferHeader,
        total: usize,
    ) -> Result<ListingPart, RenderedResponse> {
        let number = |name: &str| call.parameter(name).map(str::parse::<usize>).transpose();
        let (top, skip) = match (number("$top"), number("$skip")) {
            (Ok(top), Ok(skip)) if top != Some(0) => (top, skip.unwrap_or(0)),
            _ => {
                return Err(RenderedResponse::bad_request(
                    "ErrorInvalidUrlQuery",
                    "The query specified in the URI is not valid.",
                ));
            }
        };
        let size = top.or(prefer.page_size).unwrap_or(10).clamp(1, 1000);
        let next = (total > skip.saturating_add(size)).then(|| {
            let query = call.target.split_once('?').map(|(_, query)| query).unwrap_or_default();
            let kept: String = query
                .split('&')
                .filter(|pair| {
                    let name = pair.split('=').next().unwrap_or_default().to_lowercase();
                    !pair.is_empty() && name != "$skip" && name != "%24skip"
                })
                .map(|pair| format!("{pair}&"))
                .collect();
            format!("{}?{kept}$skip={}", self.own_address(call), skip + size)
        });
        Ok(ListingPart { skip, size, next })
    }
}

/// A part of a listing.
pub(super) struct ListingPart {
    /// How many objects come before it.
    pub(super) skip: usize,
    /// The most objects in it.
    pub(super) size: usize,
    /// The link to the next part.
    pub(super) next: Option<String>,
}
