//! The directory as the handle changes it.

use std::collections::BTreeSet;

use super::Simulator;
use super::directory::{DirectoryGroup, DirectoryObject, RoomPlace};
use super::state::SimulatorState;

impl SimulatorState {
    /// The object id of a mailbox, group, contact, device or person, by id or address.
    fn object_id(&self, name: &str) -> Option<String> {
        let mailbox = self.mailbox(name).map(|at| self.mailboxes[at].object_id.clone());
        mailbox.or_else(|| self.directory.find(name))
    }

    /// Gives a mailbox another address. Returns whether it exists and the address is free.
    fn rename(&mut self, mailbox: &str, address: &str) -> bool {
        let Some(at) = self.mailbox(mailbox) else { return false };
        if self.mailbox(address).is_some_and(|taken| taken != at) {
            return false;
        }
        let owner = &mut self.mailboxes[at];
        self.names.remove(&owner.person.address.to_lowercase());
        owner.person.address = address.into();
        self.names.insert(address.to_lowercase(), at);
        true
    }
}

impl Simulator {
    /// Adds a group, with an address if it has one. Returns its id.
    pub fn add_group(&self, name: &str, mail: Option<&str>) -> String {
        let mail = mail.map(str::to_owned);
        let (name, members) = (name.to_owned(), BTreeSet::new());
        let group = DirectoryGroup { name, mail, unified: false, members };
        self.state().directory.add(DirectoryObject::Group(group))
    }

    /// Adds a contact of the organisation. Returns its id.
    pub fn add_contact(&self, name: &str, mail: &str) -> String {
        let contact = DirectoryObject::Contact { name: name.to_owned(), mail: mail.to_owned() };
        self.state().directory.add(contact)
    }

    /// Adds a device. Returns its id.
    pub fn add_device(&self, name: &str) -> String {
        self.state().directory.add(DirectoryObject::Device { name: name.to_owned() })
    }

    /// Adds a person without Exchange, who has no mailbox and no `mail` (fact 105). Returns the id.
    pub fn add_person_without_mailbox(&self, principal_name: &str) -> String {
        let name = principal_name.split('@').next().unwrap_or(principal_name).to_owned();
        let principal_name = principal_name.to_owned();
        self.state().directory.add(DirectoryObject::Person { name, principal_name })
    }

    /// Adds a direct member to a group, both by id or address. Returns whether both exist.
    pub fn add_member(&self, group: &str, member: &str) -> bool {
        self.change_group(group, member, |group, member| group.members.insert(member)).is_some()
    }

    /// Removes a direct member of a group, both by id or address. Returns whether it was one.
    pub fn remove_member(&self, group: &str, member: &str) -> bool {
        let removed = self.change_group(group, member, |group, id| group.members.remove(&id));
        removed == Some(true)
    }

    fn change_group<T>(
        &self,
        group: &str,
        member: &str,
        change: impl FnOnce(&mut DirectoryGroup, String) -> T,
    ) -> Option<T> {
        let mut state = self.state();
        let member = state.object_id(member)?;
        let group = state.directory.find(group)?;
        match state.directory.objects.get_mut(&group)? {
            DirectoryObject::Group(group) => Some(change(group, member)),
            _ => None,
        }
    }

    /// Deletes a group, contact, device or person without a mailbox, by id or address. Returns
    /// whether it existed.
    pub fn remove_object(&self, object: &str) -> bool {
        let mut state = self.state();
        let Some(id) = state.directory.find(object) else { return false };
        state.directory.objects.remove(&id).is_some()
    }

    /// Gives a mailbox another address and principal name, as when a person marries. The object id
    /// stays. Returns whether the mailbox exists and the address is free.
    pub fn rename_address(&self, mailbox: &str, address: &str) -> bool {
        self.state().rename(mailbox, address)
    }

    /// Sets a principal name that is not the address; only `/users/{name}` itself knows it.
    /// Returns whether the person exists.
    pub fn set_principal_name(&self, person: &str, principal_name: &str) -> bool {
        self.change_profile(person, |profile| {
            profile.principal_name = Some(principal_name.to_owned());
        })
    }

    /// Sets a person's department. Returns whether the person exists.
    pub fn set_department(&self, person: &str, department: &str) -> bool {
        self.change_profile(person, |profile| profile.department = Some(department.to_owned()))
    }

    fn change_profile(
        &self,
        person: &str,
        change: impl FnOnce(&mut super::directory::DirectoryProfile),
    ) -> bool {
        let mut state = self.state();
        let Some(at) = state.mailbox(person) else { return false };
        let id = state.mailboxes[at].object_id.clone();
        change(state.directory.profiles.entry(id).or_default());
        true
    }

    /// Lists a mailbox as a room, and adds the mailbox if it does not exist. Returns its object id.
    pub fn add_room(&self, address: &str, place: RoomPlace) -> String {
        let id = self.add_mailbox(address);
        let mut state = self.state();
        state.directory.room_mailboxes.insert(id.clone());
        state.directory.rooms.insert(id.clone(), place);
        id
    }

    /// Removes a room from the listings of rooms; its mailbox stays. Returns whether it was one.
    pub fn remove_room(&self, room: &str) -> bool {
        let mut state = self.state();
        let id = state.object_id(room).unwrap_or_default();
        state.directory.rooms.remove(&id).is_some()
    }

    /// Adds a room to a list of rooms, which exists from its first room on. Returns whether the
    /// room exists.
    pub fn add_to_room_list(&self, list: &str, room: &str) -> bool {
        let mut state = self.state();
        let Some(id) = state.object_id(room) else { return false };
        let rooms = state.directory.room_lists.entry(list.to_lowercase()).or_default();
        rooms.insert(id);
        true
    }

    /// Adds the calendars that every mailbox of Outlook has beside its own: birthdays and holidays.
    /// Nobody can edit them. Returns their ids.
    pub fn add_usual_calendars(&self, mailbox: &str) -> Vec<String> {
        let names = ["Birthdays", "United States holidays"];
        let ids: Vec<String> = names.map(|name| self.add_calendar(mailbox, name)).into();
        let mut state = self.state();
        for id in &ids {
            if let Some(calendar) = state.find_calendar(mailbox, Some(id)) {
                calendar.read_only = true;
            }
        }
        ids
    }

    /// Sets the permissions that applications have, such as `GroupMember.Read.All`; `None`: all.
    pub fn set_permissions(&self, permissions: Option<&[&str]>) {
        let granted = permissions.map(|all| all.iter().map(|one| one.to_lowercase()).collect());
        self.state().directory.permissions = granted;
    }

    /// Makes every listing of the directory and of places end after so many objects, as if there
    /// were no more; `None`: complete listings.
    pub fn set_listing_limit(&self, limit: Option<usize>) {
        self.state().directory.listing_limit = limit;
    }
}
