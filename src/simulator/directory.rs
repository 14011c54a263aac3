//! The directory: groups, contacts, devices, people without a mailbox, rooms and permissions.
//!
//! People and rooms with a mailbox are the mailboxes themselves; here is only what the directory
//! adds to them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::ids::{guid, mix};

/// Departments of people who were not given one.
const DEPARTMENTS: [&str; 4] = ["Engineering", "Finance", "Marketing", "Sales"];

/// An object of the directory that is no mailbox.
#[derive(Clone, Debug)]
pub(super) enum DirectoryObject {
    Group(DirectoryGroup),
    /// A contact of the organisation: it has an address, but no mailbox here.
    Contact {
        name: String,
        mail: String,
    },
    Device {
        name: String,
    },
    /// A person without Exchange (fact 105).
    Person {
        name: String,
        principal_name: String,
    },
}

/// A group.
#[derive(Clone, Debug, Default)]
pub(super) struct DirectoryGroup {
    pub(super) name: String,
    pub(super) mail: Option<String>,
    /// Whether it is a Microsoft 365 group: it has a calendar.
    pub(super) unified: bool,
    /// The object ids of its direct members.
    pub(super) members: BTreeSet<String>,
}

/// What the directory knows of a person or room with a mailbox.
#[derive(Clone, Debug, Default)]
pub(super) struct DirectoryProfile {
    /// `None`: one that depends on the object id.
    pub(super) department: Option<String>,
    /// `None`: the address.
    pub(super) principal_name: Option<String>,
}

/// A room as an administrator described it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomPlace {
    /// The building.
    pub building: String,
    /// The floor.
    pub floor: i32,
    /// How many people fit in.
    pub capacity: u32,
}

/// The directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    seed: u64,
    created: u64,
    /// Objects by their id.
    pub(super) objects: BTreeMap<String, DirectoryObject>,
    /// Profiles by object id.
    pub(super) profiles: BTreeMap<String, DirectoryProfile>,
    /// Rooms by the object id of their mailbox.
    pub(super) rooms: BTreeMap<String, RoomPlace>,
    /// Mailboxes that are rooms, whether or not they are listed as such.
    pub(super) room_mailboxes: BTreeSet<String>,
    /// Room lists by address, with the object ids of their rooms.
    pub(super) room_lists: BTreeMap<String, BTreeSet<String>>,
    /// The permissions granted to applications, in lower case; `None`: all.
    pub(super) permissions: Option<BTreeSet<String>>,
    /// The most objects that any listing contains: it ends as if there were no more.
    pub(super) listing_limit: Option<usize>,
}

impl Directory {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Adds an object. Returns its id.
    pub(super) fn add(&mut self, object: DirectoryObject) -> String {
        self.created += 1;
        let id = guid(&[self.seed, self.created, 0x6f62_6a01]);
        self.objects.insert(id.clone(), object);
        id
    }

    /// A group by its id.
    pub(super) fn group(&self, id: &str) -> Option<&DirectoryGroup> {
        match self.objects.get(&id.to_lowercase())? {
            DirectoryObject::Group(group) => Some(group),
            _ => None,
        }
    }

    /// The id of the object with that id, address or name of a person.
    pub(super) fn find(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        if self.objects.contains_key(&name) {
            return Some(name);
        }
        let named = self.objects.iter().find(|(_, object)| match object {
            DirectoryObject::Group(group) => {
                group.mail.as_ref().is_some_and(|mail| mail.eq_ignore_ascii_case(&name))
            }
            DirectoryObject::Contact { mail, .. } => mail.eq_ignore_ascii_case(&name),
            DirectoryObject::Person { principal_name, .. } => {
                principal_name.eq_ignore_ascii_case(&name)
            }
            DirectoryObject::Device { .. } => false,
        });
        named.map(|(id, _)| id.clone())
    }

    /// Whether a mailbox is a room's.
    pub(super) fn is_room(&self, object_id: &str) -> bool {
        self.room_mailboxes.contains(object_id)
    }

    /// The department of a person with a mailbox.
    pub(super) fn department(&self, object_id: &str) -> Option<String> {
        let known = self.profiles.get(object_id).and_then(|profile| profile.department.clone());
        let salt = object_id.bytes().fold(0, |salt, byte| mix(&[salt, u64::from(byte)]));
        let any = || DEPARTMENTS[(salt % DEPARTMENTS.len() as u64) as usize].to_owned();
        (!self.is_room(object_id)).then(|| known.unwrap_or_else(any))
    }

    /// The ids of a group's members, those of nested groups too if `transitive`.
    pub(super) fn members(&self, group: &str, transitive: bool) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut next = vec![group.to_lowercase()];
        while let Some(id) = next.pop() {
            for member in self.group(&id).into_iter().flat_map(|group| &group.members) {
                if found.insert(member.clone()) && transitive {
                    next.push(member.clone());
                }
            }
        }
        // A group in a circle is no member of itself.
        found.remove(&group.to_lowercase());
        found
    }
}

impl DirectoryObject {
    /// All properties; `enabled` is whether a person's account is.
    pub(super) fn json(&self, id: &str, enabled: bool) -> Value {
        match self {
            Self::Group(group) => json!({
                "@odata.type": "#microsoft.graph.group",
                "id": id,
                "description": null,
                "displayName": group.name,
                "groupTypes": if group.unified { vec!["Unified"] } else { vec![] },
                "mail": group.mail,
                "mailEnabled": group.mail.is_some(),
                "mailNickname": group.mail.as_deref().and_then(|mail| mail.split('@').next()),
                "securityEnabled": !group.unified,
                "visibility": null,
            }),
            Self::Contact { name, mail } => json!({
                "@odata.type": "#microsoft.graph.orgContact",
                "id": id,
                "displayName": name,
                "mail": mail,
            }),
            Self::Device { name } => json!({
                "@odata.type": "#microsoft.graph.device",
                "id": id,
                "accountEnabled": true,
                "deviceId": guid(&[id.len() as u64, mix(&[0x6465_7601])]),
                "displayName": name,
                "operatingSystem": "Linux",
            }),
            Self::Person { name, principal_name } => {
                person_json(id, name, None, principal_name, None, enabled)
            }
        }
    }
}

/// All properties of a person or room.
pub(super) fn person_json(
    id: &str,
    name: &str,
    mail: Option<&str>,
    principal_name: &str,
    department: Option<&str>,
    enabled: bool,
) -> Value {
    let (given, surname) = name.split_once(' ').unwrap_or((name, ""));
    json!({
        "@odata.type": "#microsoft.graph.user",
        "id": id,
        "businessPhones": [],
        "displayName": name,
        "givenName": given,
        "jobTitle": null,
        "mail": mail,
        "mobilePhone": null,
        "officeLocation": null,
        "preferredLanguage": null,
        "surname": surname,
        "userPrincipalName": principal_name,
        "accountEnabled": enabled,
        "companyName": null,
        "department": department,
        "mailNickname": principal_name.split('@').next(),
        "userType": "Member",
    })
}
