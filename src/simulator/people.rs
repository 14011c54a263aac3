//! People as the handle sees them: their tokens, their accounts, and what they share.

use super::Simulator;
use super::access_token::TokenHolder;

impl Simulator {
    /// Issues an access token of a person, with scopes such as `Calendars.Read Group.Read.All`,
    /// without a sign-in. `None` if there is no such person.
    pub fn person_access_token(&self, person: &str, scopes: &str) -> Option<String> {
        let mut state = self.state();
        let mailbox = state.mailbox(person)?;
        let holder = TokenHolder::Person {
            object_id: state.mailboxes[mailbox].object_id.clone(),
            client_id: String::new(),
            scopes: scopes.split_whitespace().map(str::to_lowercase).collect(),
        };
        let now = state.env.now();
        Some(state.sign_in.access_tokens.grant(holder, now))
    }

    /// Revokes one access token: Graph refuses it from now on. Returns whether it was valid.
    pub fn revoke_access_token(&self, token: &str) -> bool {
        self.state().sign_in.access_tokens.revoke(|text, _| text == token) > 0
    }

    /// Revokes every token of an application: its access tokens, and the refresh tokens of the
    /// people who signed in to it. Returns how many.
    pub fn revoke_application(&self, client_id: &str) -> usize {
        let mut state = self.state();
        let access = state.sign_in.access_tokens.revoke(|_, holder| match holder {
            TokenHolder::Application(id) => id == client_id,
            TokenHolder::Person { client_id: id, .. } => id == client_id,
        });
        access + state.sign_in.refresh_tokens.revoke(|grant| grant.client_id == client_id)
    }

    /// Revokes the refresh tokens of a person, as a changed password does (fact 147). Access tokens
    /// go on until they expire, unless `access_too`. Returns how many tokens.
    pub fn revoke_person(&self, person: &str, access_too: bool) -> usize {
        let mut state = self.state();
        let Some(mailbox) = state.mailbox(person) else { return 0 };
        let id = state.mailboxes[mailbox].object_id.clone();
        let refresh = state.sign_in.refresh_tokens.revoke(|grant| grant.person.object_id == id);
        if !access_too {
            return refresh;
        }
        refresh
            + state.sign_in.access_tokens.revoke(|_, holder| {
                matches!(holder, TokenHolder::Person { object_id, .. } if *object_id == id)
            })
    }

    /// Sets whether a person's account is enabled; a disabled one gets no more tokens. Returns
    /// whether the person exists.
    pub fn set_account_enabled(&self, person: &str, enabled: bool) -> bool {
        let mut state = self.state();
        let Some(mailbox) = state.mailbox(person) else { return false };
        let id = state.mailboxes[mailbox].object_id.clone();
        match enabled {
            true => state.sign_in.disabled_people.remove(&id),
            false => state.sign_in.disabled_people.insert(id),
        };
        true
    }

    /// Sets the id of the tenant that all people belong to. Without it, they belong to the tenant
    /// at which they sign in.
    pub fn set_home_tenant(&self, tenant: Option<&str>) {
        self.state().sign_in.home_tenant = tenant.map(str::to_owned);
    }

    /// Sets whether `owner` shares the default calendar with `reader`, both addresses or object
    /// ids. Returns whether both exist.
    pub fn share_calendar(&self, owner: &str, reader: &str, shared: bool) -> bool {
        let mut state = self.state();
        let id = |name| state.mailbox(name).map(|at| state.mailboxes[at].object_id.clone());
        let (Some(owner), Some(reader)) = (id(owner), id(reader)) else { return false };
        let shares = &mut state.delegation.shares;
        match shared {
            true => shares.insert((owner, reader)),
            false => shares.remove(&(owner, reader)),
        };
        true
    }

    /// Sets whether next links of calendars that others share work; if not, the first page is 200
    /// and its next link is 403 (fact 14).
    pub fn set_shared_links(&self, work: bool) {
        self.state().delegation.shared_links_work = work;
    }

    /// Sets whether a person's token needs the scope `User.Read` for `/me` itself, as documented.
    pub fn set_profile_needs_scope(&self, needs_scope: bool) {
        self.state().delegation.profile_needs_scope = needs_scope;
    }
}
