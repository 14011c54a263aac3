//! The part of the control plane about the directory: groups, rooms, addresses and permissions.

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::control::{ControlError, found, read};
use super::{RoomPlace, Simulator};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
enum ObjectForm {
    Group {
        name: String,
        mail: Option<String>,
        #[serde(default)]
        calendar: bool,
    },
    Contact {
        name: String,
        mail: String,
    },
    Device {
        name: String,
    },
    Person {
        principal_name: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectChoice {
    object: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    group: String,
    member: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressForm {
    mailbox: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PersonForm {
    person: String,
    department: Option<String>,
    principal_name: Option<String>,
}

#[derive(Deserialize)]
struct RoomForm {
    address: String,
    list: Option<String>,
    #[serde(flatten)]
    place: RoomPlace,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListingForm {
    limit: Option<usize>,
}

impl Simulator {
    /// Answers a request about the directory; `None` if it is about something else.
    pub(super) fn control_directory(
        &self,
        method: &Method,
        what: &str,
        body: &Bytes,
    ) -> Option<Result<Value, ControlError>> {
        Some(match (method, what) {
            (&Method::POST, "objects") => read(body).map(|form: ObjectForm| {
                let id = match &form {
                    ObjectForm::Group { name, mail, calendar } => {
                        let id = self.add_group(name, mail.as_deref());
                        if *calendar {
                            self.add_group_calendar(&id);
                        }
                        id
                    }
                    ObjectForm::Contact { name, mail } => self.add_contact(name, mail),
                    ObjectForm::Device { name } => self.add_device(name),
                    ObjectForm::Person { principal_name } => {
                        self.add_person_without_mailbox(principal_name)
                    }
                };
                json!({"id": id})
            }),
            (&Method::DELETE, "objects") => read(body)
                .and_then(|form: ObjectChoice| found(self.remove_object(&form.object), "object")),
            (&Method::POST, "members") => read(body).and_then(|form: MemberForm| {
                found(self.add_member(&form.group, &form.member), "member")
            }),
            (&Method::DELETE, "members") => read(body).and_then(|form: MemberForm| {
                found(self.remove_member(&form.group, &form.member), "member")
            }),
            (&Method::PUT, "addresses") => read(body).and_then(|form: AddressForm| {
                found(self.rename_address(&form.mailbox, &form.address), "mailbox")
            }),
            (&Method::PUT, "people") => read(body).and_then(|form: PersonForm| {
                let PersonForm { person, department, principal_name } = form;
                let department = department.is_none_or(|name| self.set_department(&person, &name));
                let name =
                    principal_name.is_none_or(|name| self.set_principal_name(&person, &name));
                found(department && name, "person")
            }),
            (&Method::POST, "rooms") => read(body).and_then(|form: RoomForm| {
                let id = self.add_room(&form.address, form.place);
                let listed = form.list.is_none_or(|list| self.add_to_room_list(&list, &id));
                found(listed, "room").map(|_| json!({"id": id}))
            }),
            (&Method::DELETE, "rooms") => read(body)
                .and_then(|form: ObjectChoice| found(self.remove_room(&form.object), "object")),
            (&Method::PUT, "permissions") => read(body).map(|granted: Option<Vec<String>>| {
                let granted: Option<Vec<&str>> =
                    granted.as_ref().map(|all| all.iter().map(String::as_str).collect());
                self.set_permissions(granted.as_deref());
                json!({})
            }),
            (&Method::PUT, "listing-limit") => read(body).map(|form: ListingForm| {
                self.set_listing_limit(form.limit);
                json!({})
            }),
            _ => return None,
        })
    }
}
