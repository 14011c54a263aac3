//! `demo --fleet`: people and rooms that the directory lists, and people who join and leave.

use std::time::Duration;

use crate::simulator::Simulator;

/// The address of the group whose members the demo mirrors.
const GROUP: &str = "staff@contoso.example";

/// How often somebody joins or leaves.
const CHANGE_EVERY: Duration = Duration::from_secs(6);

/// At most this many people are away at the same time.
const MAX_AWAY: usize = 5;

/// The fleets of the demo's configuration.
pub(super) fn configuration() -> String {
    format!(
        r#"[[fleet]]
name = "staff"
account = "demo"
members_of = "{GROUP}"          # transitive
relist_every = "3s"

[[fleet]]
name = "rooms"
account = "demo"
rooms = true
window_name = "room-{{mailbox}}"
relist_every = "3s"
"#
    )
}

/// Makes the group of all people, and lets people leave it and join it again.
pub(super) struct ChangingGroup {
    simulator: Simulator,
    group: String,
    people: Vec<String>,
    away: Vec<String>,
}

impl ChangingGroup {
    pub(super) fn new(simulator: &Simulator, people: Vec<String>) -> Self {
        let group = simulator.add_group("Staff", Some(GROUP));
        for person in &people {
            simulator.add_member(&group, person);
        }
        Self { simulator: simulator.clone(), group, people, away: Vec::new() }
    }

    /// Lets somebody leave, or join again, in turn.
    fn change(&mut self, turn: usize) {
        if self.away.len() < MAX_AWAY && turn % 3 != 2 {
            // One after the other, so that everybody's turn comes.
            let person = self.people.get(turn % self.people.len().max(1)).cloned();
            if let Some(person) = person
                && self.simulator.remove_member(&self.group, &person)
            {
                self.away.push(person);
            }
        } else if !self.away.is_empty() {
            let person = self.away.remove(0);
            self.simulator.add_member(&self.group, &person);
        }
    }
}

/// Lets people leave and join for ever; without a group nothing happens.
pub(super) async fn change(group: Option<ChangingGroup>) {
    let Some(mut group) = group else { return std::future::pending().await };
    for turn in 0.. {
        tokio::time::sleep(CHANGE_EVERY).await;
        group.change(turn);
    }
}
