//! Lists what a fleet consists of: members of groups, users, rooms and calendars.
//!
//! A listing is read to its end or fails. The directory counts as one more mailbox of the account
//! in the budgets; what a mailbox lists counts for that mailbox. Transient errors are left to the
//! caller.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::auth::Tokens;
use super::client::{GraphClient, GraphRequest};
use super::error::{DirectoryError, GraphError, RequestKind};
use super::request::{RequestHeaders, Target, push_segment};
use super::wire::{WireError, without_bom};
use crate::mirror::failure::ErrorClass;
use crate::mirror::fleet::{ListedCalendar, ListedMailbox, Place};
use crate::mirror::window::CalendarRef;
use crate::percent;

/// Most pages of a listing: about a million users, or 100,000 rooms.
const MAX_PAGES: usize = 1000;
/// The largest pages that Graph has of users, of rooms (fact 193) and of calendars, which are
/// listed ten at a time without this.
const USERS: &str = "$select=id,mail,userPrincipalName,displayName&$count=true&$top=999";
const ROOMS: &str = "$top=100";
const CALENDARS: &str = "$select=id,name,isDefaultCalendar,canEdit,owner&$top=100";

/// What the mailboxes of a listing are called in the budgets; no mailbox has this name.
const BUDGET: &str = "";

/// Lists what fleets consist of, with the token of one account.
pub struct DirectoryClient {
    client: GraphClient,
    tokens: Arc<Tokens>,
    target: Target,
}

impl GraphClient {
    /// The directory as an account sees it. A pause that Graph asks for lasts as long as this.
    pub fn directory(&self, tokens: &Arc<Tokens>) -> DirectoryClient {
        let target = self.target(tokens, &BUDGET.into(), CalendarRef::Default);
        DirectoryClient { client: self.clone(), tokens: tokens.clone(), target }
    }
}

impl DirectoryClient {
    /// The users in a group and in the groups in it (fact 189), by the group's id or address.
    ///
    /// # Errors
    /// [`DirectoryError::NoGroup`] if no group has the address; of Graph's errors, those with the
    /// classes `Gone` (no group has the id) and `Forbidden`, and those of every request.
    pub async fn members(&self, group: &str) -> Result<Vec<ListedMailbox>, GraphError> {
        let id = match group.contains('@') {
            true => Some(self.group_id(group).await?),
            false => None,
        };
        let mut url = self.url("/groups/");
        push_segment(&mut url, id.as_deref().unwrap_or(group))?;
        // The cast to users is an advanced query of the directory.
        url.push_str("/transitiveMembers/microsoft.graph.user?");
        self.users_of(url).await
    }

    /// The users that an OData filter selects.
    ///
    /// # Errors
    /// `Refused` if Graph does not understand the filter, and those of every request.
    pub async fn users(&self, filter: &str) -> Result<Vec<ListedMailbox>, GraphError> {
        self.users_of(self.url(&format!("/users?$filter={}&", percent::encode(filter)))).await
    }

    /// All rooms (fact 193).
    ///
    /// # Errors
    /// Those of every request.
    pub async fn rooms(&self) -> Result<Vec<ListedMailbox>, GraphError> {
        self.rooms_at(self.url("/places/microsoft.graph.room?")).await
    }

    /// The rooms of a list, by the address of the list (fact 193).
    ///
    /// # Errors
    /// `Gone` if there is no such list, and those of every request.
    pub async fn rooms_of(&self, list: &str) -> Result<Vec<ListedMailbox>, GraphError> {
        let mut url = self.url("/places/");
        push_segment(&mut url, list)?;
        url.push_str("/microsoft.graph.roomlist/rooms?");
        self.rooms_at(url).await
    }

    /// The calendars of a mailbox (fact 187), by the user's id or address, or `me`.
    ///
    /// # Errors
    /// `Gone` if there is no such mailbox, and those of every request.
    pub async fn calendars(&self, user: &str) -> Result<Vec<ListedCalendar>, GraphError> {
        let target = self.mailbox(user);
        let url = target.url(self.client.base(), "calendars?")? + CALENDARS;
        let listed: Vec<CalendarJson> = self.list(&target, url, RequestHeaders::Plain).await?;
        Ok(calendars(listed))
    }

    /// The object id of the user with an address; `None` if there is none, or the account must not
    /// know.
    ///
    /// # Errors
    /// Those of every request, except `Gone` and `Forbidden`.
    pub async fn user_id(&self, address: &str) -> Result<Option<Arc<str>>, GraphError> {
        let mut url = self.url("/users/");
        push_segment(&mut url, address)?;
        url.push_str("?$select=id");
        match self.read::<WithId>(&self.target, &url).await {
            Ok(user) => Ok(Some(user.id)),
            Err(error) if matches!(error.class(), ErrorClass::Gone | ErrorClass::Forbidden) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a user has a mailbox (fact 194), by the user's id or address, or `me`.
    ///
    /// # Errors
    /// Those of every request, except the ways to say that there is no mailbox (facts 105-107).
    pub async fn has_mailbox(&self, user: &str) -> Result<bool, GraphError> {
        let target = self.mailbox(user);
        let url = target.url(self.client.base(), "calendar?$select=id")?;
        match self.read::<WithId>(&target, &url).await {
            Ok(_) => Ok(true),
            // One is of an empty body, so the status decides. A mailbox without its default
            // calendar is a mailbox.
            Err(error) if error.class() == ErrorClass::Gone => {
                let code = error.code().unwrap_or_default();
                if code.eq_ignore_ascii_case("ErrorItemNotFound") { Err(error) } else { Ok(false) }
            }
            Err(error) => Err(error),
        }
    }

    /// The id of the group with an address.
    async fn group_id(&self, address: &str) -> Result<Arc<str>, GraphError> {
        let filter = format!("mail eq '{}'", address.replace('\'', "''"));
        let url = self.url(&format!("/groups?$filter={}&$select=id", percent::encode(&filter)));
        let found: Vec<WithId> = self.list(&self.target, url, RequestHeaders::Plain).await?;
        // An address is that of one group at most.
        let group = found.into_iter().next().ok_or(DirectoryError::NoGroup)?;
        Ok(group.id)
    }

    async fn users_of(&self, url: String) -> Result<Vec<ListedMailbox>, GraphError> {
        let url = url + USERS;
        let listed: Vec<UserJson> = self.list(&self.target, url, RequestHeaders::Eventual).await?;
        let mut users = Vec::with_capacity(listed.len());
        for UserJson { id, mail, user_principal_name, display_name } in listed {
            // Every user has a principal name. It is null if the account must not see users.
            let address = mail.or(user_principal_name).ok_or(DirectoryError::HiddenUsers)?;
            users.push(ListedMailbox {
                id,
                address,
                name: display_name.unwrap_or_default(),
                place: None,
            });
        }
        Ok(users)
    }

    async fn rooms_at(&self, url: String) -> Result<Vec<ListedMailbox>, GraphError> {
        let url = url + ROOMS;
        let listed: Vec<RoomJson> = self.list(&self.target, url, RequestHeaders::Plain).await?;
        let all = listed.len();
        let rooms: Vec<_> = listed.into_iter().filter_map(RoomJson::mailbox).collect();
        if rooms.len() < all {
            tracing::debug!(count = all - rooms.len(), "rooms without an address are left out");
        }
        Ok(rooms)
    }

    /// All entries of a listing.
    async fn list<T: DeserializeOwned + Send + 'static>(
        &self,
        target: &Target,
        url: String,
        headers: RequestHeaders<'_>,
    ) -> Result<Vec<T>, GraphError> {
        let mut all = Vec::new();
        let (mut kind, mut uri) = (RequestKind::Start, self.client.admit(&url)?);
        for _ in 0..MAX_PAGES {
            let request = GraphRequest { target, headers, kind, uri, fresh_connection: false };
            let (body, _memory) = self.client.get(request).await?;
            let page: PageJson<T> = self.client.parse(body, |body| read(body)).await?;
            all.extend(page.value);
            let Some(next) = page.next else { return Ok(all) };
            (kind, uri) = (RequestKind::Link, self.client.admit(&next)?);
        }
        Err(DirectoryError::Endless.into())
    }

    /// One object.
    async fn read<T: DeserializeOwned + Send + 'static>(
        &self,
        target: &Target,
        url: &str,
    ) -> Result<T, GraphError> {
        let (headers, kind) = (RequestHeaders::Plain, RequestKind::Start);
        let uri = self.client.admit(url)?;
        let request = GraphRequest { target, headers, kind, uri, fresh_connection: false };
        let (body, _memory) = self.client.get(request).await?;
        self.client.parse(body, |body| read(body)).await
    }

    fn mailbox(&self, user: &str) -> Target {
        self.client.target(&self.tokens, &user.into(), CalendarRef::Default)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.client.base())
    }
}

/// Converts calendars, and decides which of them Exchange fills: birthdays and holidays.
///
/// Their names prove nothing, because they are translated and anybody can use them. What shows them
/// is that the owner of the mailbox also owns them and cannot edit them. A calendar that somebody
/// else shares for reading cannot be edited either, but its owner writes in it; and `canEdit` of a
/// shared calendar can be wrong (contrib#910). `isRemovable` is not used: people can remove the
/// holidays that they have added like any other calendar.
fn calendars(listed: Vec<CalendarJson>) -> Vec<ListedCalendar> {
    let owner = |calendar: &CalendarJson| {
        let address = calendar.owner.as_ref()?.address.as_ref()?;
        Some(address.to_lowercase())
    };
    let own = listed.iter().find(|calendar| calendar.is_default).and_then(owner);
    let convert = |calendar: CalendarJson| {
        let shared = own.is_some() && owner(&calendar).is_some_and(|owner| Some(owner) != own);
        let is_written = calendar.is_default || calendar.can_edit || shared;
        let CalendarJson { id, name, is_default, .. } = calendar;
        let reference = if is_default { CalendarRef::Default } else { CalendarRef::Id(id) };
        ListedCalendar { calendar: reference, name, is_written }
    };
    listed.into_iter().map(convert).collect()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    serde_json::from_slice(without_bom(body))
        .map_err(|_| WireError("the answer is not what the directory is known to send"))
}

#[derive(Deserialize)]
struct PageJson<T> {
    value: Vec<T>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct WithId {
    id: Arc<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserJson {
    id: Arc<str>,
    #[serde(default, deserialize_with = "text")]
    mail: Option<Arc<str>>,
    #[serde(default, deserialize_with = "text")]
    user_principal_name: Option<Arc<str>>,
    #[serde(default, deserialize_with = "text")]
    display_name: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoomJson {
    id: Arc<str>,
    #[serde(default, deserialize_with = "text")]
    email_address: Option<Arc<str>>,
    #[serde(default, deserialize_with = "text")]
    display_name: Option<Arc<str>>,
    #[serde(default, deserialize_with = "text")]
    building: Option<Arc<str>>,
    #[serde(default, deserialize_with = "text")]
    floor_label: Option<Arc<str>>,
    floor_number: Option<i64>,
    capacity: Option<i64>,
}

impl RoomJson {
    /// The room as a mailbox; `None` if it has no address.
    fn mailbox(self) -> Option<ListedMailbox> {
        let number = |floor: i64| Arc::from(floor.to_string());
        let place = Place {
            building: self.building,
            floor: self.floor_label.or(self.floor_number.map(number)),
            capacity: self.capacity.and_then(|people| u32::try_from(people).ok()),
        };
        Some(ListedMailbox {
            id: self.id,
            address: self.email_address?,
            name: self.display_name.unwrap_or_default(),
            place: Some(Arc::new(place)),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CalendarJson {
    id: Arc<str>,
    #[serde(default)]
    name: Arc<str>,
    #[serde(default, rename = "isDefaultCalendar")]
    is_default: bool,
    #[serde(default = "yes")]
    can_edit: bool,
    owner: Option<OwnerJson>,
}

#[derive(Deserialize)]
struct OwnerJson {
    #[serde(default, deserialize_with = "text")]
    address: Option<Arc<str>>,
}

fn yes() -> bool {
    true
}

/// A text without the spaces around it; `None` if nothing is left.
fn text<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.map(|text| Arc::from(text.trim())).filter(|text: &Arc<str>| !text.is_empty()))
}

#[cfg(test)]
mod tests;
