//! Which of several processes has a window.
//!
//! The processes share no state: each computes the owner of a window from the configuration alone.
//! So the function must never change, and all windows of a mailbox have the same owner, because
//! Graph limits the requests to a mailbox, not to a process.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::account::Account;
use super::window::Window;

/// The most shards. Every request about many windows asks all of them.
pub const MAX_SHARDS: u32 = 256;

/// One of several processes with the same configuration, each of which has a share of the windows.
/// A process alone is the only one of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number, from 0.
    ordinal: u32,
    /// How many there are, at least 1.
    count: u32,
}

/// The windows of other shards, and which shard has each.
pub type WindowOwners = HashMap<Arc<str>, u32>;

impl Shard {
    /// A process that has every window.
    pub const ALONE: Self = Self { ordinal: 0, count: 1 };

    /// `None` if the ordinal is not below the count, or there are more than [`MAX_SHARDS`].
    pub fn new(ordinal: u32, count: u32) -> Option<Self> {
        (ordinal < count && count <= MAX_SHARDS).then_some(Self { ordinal, count })
    }

    /// Its number, from 0.
    pub fn ordinal(self) -> u32 {
        self.ordinal
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Its part of a limit for all processes together, at least 1.
    pub fn share(self, limit: usize) -> usize {
        (limit / self.count as usize).max(1)
    }

    /// The number of the shard that has a window.
    pub fn owner(self, window: &Window, account: Option<&Account>) -> u32 {
        let tenant = account.map_or("", |account| &*account.tenant);
        self.owner_of_mailbox(tenant, &window.mailbox, &window.account)
    }

    /// The number of the shard that has the windows of a mailbox, which an account reads.
    pub fn owner_of_mailbox(self, tenant: &str, mailbox: &str, account: &str) -> u32 {
        // Each person who signs in has a mailbox of this name.
        let person = if mailbox == "me" { account } else { "" };
        owner_of([tenant, mailbox, person], self.count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ordinal, self.count)
    }
}

/// The shard with the highest score (rendezvous hashing): when their number changes, only those
/// windows move that the new shards get, or the old ones had.
fn owner_of(mailbox: [&str; 3], count: u32) -> u32 {
    if count == 1 {
        return 0;
    }
    let mut hash = Sha256::new();
    for part in mailbox {
        // Addresses and domains are the same in capitals.
        hash.update(part.to_lowercase());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let (first, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let key = u64::from_be_bytes(*first);
    let score = |ordinal: &u32| mixed(key ^ mixed(u64::from(*ordinal) + 1));
    (0..count).max_by_key(score).unwrap_or(0)
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of the number.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::window;

    fn owners(count: u32) -> Vec<u32> {
        let of = |n| owner_of(["contoso.com", &format!("p{n}@contoso.com"), ""], count);
        (0..10_000).map(of).collect()
    }

    /// Processes of different versions must agree.
    #[test]
    fn owners_never_change() {
        let of = |mailbox, count| owner_of(["contoso.com", mailbox, ""], count);
        let owners = ["alice@contoso.com", "bob@contoso.com", "room-1@contoso.com"]
            .map(|mailbox| [2, 3, 8, 100].map(|count| of(mailbox, count)));
        assert_eq!(owners, [[0, 0, 4, 4], [1, 1, 5, 77], [0, 0, 3, 53]]);
    }

    #[test]
    fn shares_are_even_and_few_windows_move() {
        let (three, four) = (owners(3), owners(4));
        for ordinal in 0..3 {
            let share = three.iter().filter(|owner| **owner == ordinal).count();
            assert!((3_100..3_570).contains(&share), "shard {ordinal} has {share}");
        }
        let moved: Vec<_> = three.iter().zip(&four).filter(|(old, new)| old != new).collect();
        assert!(moved.iter().all(|(_, new)| **new == 3), "a window moved between old shards");
        assert!((2_300..2_700).contains(&moved.len()), "{} windows moved", moved.len());
    }

    #[test]
    fn windows_of_a_mailbox_have_one_owner() {
        let shard = Shard::new(0, 100).unwrap();
        let owner = |name: &str, mailbox: &str, account: &str| {
            let (mailbox, account) = (mailbox.into(), account.into());
            shard.owner(&Window { mailbox, account, ..window(name) }, None)
        };
        let alice = owner("a", "alice@contoso.com", "one");
        assert_eq!(alice, owner("b", "Alice@Contoso.com", "two"));
        // Several people, and not one.
        let people: std::collections::BTreeSet<u32> =
            (0..20).map(|n| owner("me", "me", &format!("account {n}"))).collect();
        assert!(people.len() > 10);
    }

    #[test]
    fn a_shard_is_one_of_its_count() {
        assert_eq!(Shard::new(0, 1), Some(Shard::ALONE));
        assert_eq!(Shard::new(2, 3).unwrap().to_string(), "2/3");
        for (ordinal, count) in [(0, 0), (3, 3), (4, 3), (0, MAX_SHARDS + 1)] {
            assert_eq!(Shard::new(ordinal, count), None, "{ordinal}/{count}");
        }
        assert_eq!(Shard::new(0, 3).unwrap().share(256), 85);
        assert_eq!(Shard::new(0, 3).unwrap().share(2), 1);
    }
}
