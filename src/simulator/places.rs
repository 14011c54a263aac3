//! Rooms and room lists (fact 193).

use http::StatusCode;
use serde_json::{Value, json};

use super::access_token::TokenHolder;
use super::delegation::insufficient_privileges;
use super::directory::RoomPlace;
use super::graph::not_found;
use super::ids::{guid, mix};
use super::request::{RenderedResponse, SimulatedRequest};
use super::state::SimulatorState;

/// The most rooms on a page.
const PAGE_SIZE: usize = 100;

impl SimulatorState {
    /// Answers a request under `/places`.
    pub(super) fn places_route(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
    ) -> Result<RenderedResponse, RenderedResponse> {
        if !self.has_permission(holder, &["place.read.all", "place.readwrite.all"]) {
            return Err(insufficient_privileges());
        }
        let all = self.directory.rooms.iter();
        if call.is(&["microsoft.graph.room"], 1) {
            let rooms = all.filter_map(|(id, room)| self.room_json(id, room));
            return self.places_page(call, "microsoft.graph.room", rooms.collect());
        }
        if call.is(&["microsoft.graph.roomlist"], 1) {
            let lists = self.directory.room_lists.keys().map(|address| {
                json!({
                    "id": place_id(address),
                    "displayName": address.split('@').next(),
                    "emailAddress": address,
                })
            });
            return self.places_page(call, "microsoft.graph.roomlist", lists.collect());
        }
        if call.is(&["*", "microsoft.graph.roomlist", "rooms"], 1) {
            let list = self.directory.room_lists.get(&call.segments[1].to_lowercase());
            let list = list.ok_or_else(not_found)?;
            let rooms = all.filter(|(id, _)| list.contains(*id));
            let rooms = rooms.filter_map(|(id, room)| self.room_json(id, room));
            return self.places_page(call, "microsoft.graph.room", rooms.collect());
        }
        let found = all.filter_map(|(id, room)| self.room_json(id, room)).find(|room| {
            call.is(&["*"], 1)
                && [&room["id"], &room["emailAddress"]].iter().any(|name| {
                    name.as_str().is_some_and(|name| name.eq_ignore_ascii_case(&call.segments[1]))
                })
        });
        let found = found.ok_or_else(not_found)?;
        Ok(RenderedResponse::json(StatusCode::OK, &found))
    }

    /// A room; `None` if its mailbox does not exist.
    fn room_json(&self, object_id: &str, room: &RoomPlace) -> Option<Value> {
        let owner = &self.mailboxes[self.mailbox(object_id)?];
        Some(json!({
            "id": place_id(object_id),
            "emailAddress": &*owner.person.address,
            "displayName": &*owner.person.name,
            "address": {"street": "4567 Main Street", "city": "Buffalo", "state": "NY",
                "postalCode": "98052", "countryOrRegion": "USA"},
            "geoCoordinates": null,
            "phone": "",
            "nickname": &*owner.person.name,
            "label": null,
            "capacity": room.capacity,
            "building": room.building,
            "floorLabel": room.floor.to_string(),
            "floorNumber": room.floor,
            "isWheelChairAccessible": false,
            "bookingType": "standard",
            "tags": [],
            "audioDeviceName": null,
            "videoDeviceName": null,
            "displayDeviceName": null,
        }))
    }

    fn places_page(
        &self,
        call: &SimulatedRequest,
        context: &str,
        mut places: Vec<Value>,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let number = |name: &str| call.parameter(name).map(str::parse::<usize>).transpose();
        let (Ok(top), Ok(skip)) = (number("$top"), number("$skip")) else {
            return Err(RenderedResponse::bad_request(
                "ErrorInvalidUrlQuery",
                "The query specified in the URI is not valid.",
            ));
        };
        places.truncate(self.directory.listing_limit.unwrap_or(usize::MAX));
        let (size, skip) = (top.unwrap_or(PAGE_SIZE).clamp(1, PAGE_SIZE), skip.unwrap_or(0));
        let total = places.len();
        let shown: Vec<Value> = places.into_iter().skip(skip).take(size).collect();
        let mut page = json!({
            "@odata.context": format!("{}/$metadata#places/{context}", self.base(call)),
            "value": shown,
        });
        if total > skip.saturating_add(size) {
            let top = top.map(|_| format!("$top={size}&")).unwrap_or_default();
            page["@odata.nextLink"] =
                format!("{}?{top}$skip={}", self.own_address(call), skip + size).into();
        }
        Ok(RenderedResponse::json(StatusCode::OK, &page))
    }
}

/// The id of a place, which is not that of a user.
fn place_id(of: &str) -> String {
    let salt = of.bytes().fold(0x706c, |salt, byte| mix(&[salt, u64::from(byte)]));
    guid(&[salt])
}
