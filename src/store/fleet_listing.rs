//! The last listings of fleets, so that a start needs no directory.
//!
//! A listing is a record and its members in parts. A large one takes several batches: the parts come
//! first, under keys that no record names yet. The batch that writes the record, the last one, also
//! deletes all other parts of the fleet. So a crash leaves the whole old listing or the whole new
//! one, and parts of an interrupted one until the next is saved.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Store;
use super::batch::WriteBatch;
use super::error::{StoreError, TreeError};
use super::job::{TreeEdit, WriteJob};
use super::keys;
use super::record::{self, FleetRecord, MEMBERS_IN_PART};
use super::tree::Tree;
use super::writer::MAX_BATCH_BYTES;
use crate::mirror::fleet::{FleetListing, FleetMember};

/// Rough bytes of a record, and of the deletions of old parts.
const RECORD: usize = 16 << 10;

/// A value with its key.
type KeyedPart = (Vec<u8>, Vec<u8>);

impl Store {
    /// The last saved listing of each fleet, by the fleet's name. Reads everything at once, which
    /// keeps the writer waiting: for a start.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn fleet_listings(&self) -> Result<BTreeMap<Arc<str>, FleetListing>, StoreError> {
        self.read_tree(|tree| {
            let mut listings = BTreeMap::new();
            for entry in tree.scan_prefix([keys::FLEET]) {
                let (key, value) = entry?;
                if keys::is_fleet(&key) {
                    let (name, listing) = tree.fleet_listing(&key, &value)?;
                    listings.insert(name, listing);
                }
            }
            Ok(listings)
        })
        .await
    }

    /// Replaces the saved listing of a fleet, or deletes it. Returns when that is durable.
    ///
    /// # Errors
    /// After [`StoreError::Full`] the store has the old listing.
    pub async fn save_fleet_listing(
        &self,
        name: &str,
        listing: Option<&FleetListing>,
    ) -> Result<(), StoreError> {
        let _saving = self.begin_fleet_save().await;
        let fleet = keys::fleet(name);
        let Some(saved) = listing else {
            return self
                .edit_fleet(RECORD, move |tree, batch| tree.delete_all(&fleet, batch))
                .await;
        };
        // Waits for the last batch of a call whose future was dropped: it may be queued still.
        self.edit_fleet(0, |_, _| Ok(())).await?;
        let members: Vec<&FleetMember> = saved.members.values().collect();
        let parts = || {
            let parts = members.chunks(MEMBERS_IN_PART);
            parts.map(|part| record::members(part.iter().copied()))
        };
        let count = u32::try_from(parts().len()).unwrap_or(u32::MAX);
        let key = fleet.clone();
        let stored = self.read_tree(move |tree| tree.fleet_record(&key)).await?;
        if let Some(stored) = stored.filter(|stored| stored.parts == count)
            && self.has_parts(&fleet, stored.listing, parts()).await?
        {
            // Only the times are new.
            let record = FleetRecord::new(name.into(), stored.listing, count, saved).encode();
            let edit = move |_: &Tree, batch: &mut WriteBatch| {
                batch.put(fleet, record);
                Ok(())
            };
            return self.edit_fleet(RECORD, edit).await;
        }
        let listing = self.shared().env.random_u64();
        let record = FleetRecord::new(name.into(), listing, count, saved).encode();
        self.replace_fleet(fleet, listing, parts(), record).await
    }

    /// Whether these are the stored parts of a listing.
    async fn has_parts(
        &self,
        fleet: &[u8],
        listing: u64,
        parts: impl Iterator<Item = Vec<u8>>,
    ) -> Result<bool, StoreError> {
        for (number, part) in (0..).zip(parts) {
            let key = keys::fleet_part(fleet, listing, number);
            let stored = self.read_tree(move |tree| tree.large(&key)).await?;
            if stored.is_none_or(|stored| stored.value != part) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the parts of a new listing, then its record in place of the old one.
    async fn replace_fleet(
        &self,
        fleet: Vec<u8>,
        listing: u64,
        parts: impl Iterator<Item = Vec<u8>>,
        record: Vec<u8>,
    ) -> Result<(), StoreError> {
        let (mut batch, mut bytes) = (Vec::<KeyedPart>::new(), 0);
        for (number, part) in (0..).zip(parts) {
            if !batch.is_empty() && bytes + part.len() > MAX_BATCH_BYTES {
                let full = std::mem::take(&mut batch);
                self.edit_fleet(bytes, move |_, batch| put_parts(full, batch)).await?;
                bytes = 0;
            }
            bytes += part.len();
            batch.push((keys::fleet_part(&fleet, listing, number), part));
        }
        let edit = move |tree: &Tree, last: &mut WriteBatch| {
            tree.delete_all_but(&fleet, &keys::fleet_parts(&fleet, listing), last)?;
            last.put(fleet, record);
            put_parts(batch, last)
        };
        self.edit_fleet(bytes + RECORD, edit).await
    }

    async fn edit_fleet(
        &self,
        bytes: usize,
        edit: impl FnOnce(&Tree, &mut WriteBatch) -> Result<(), TreeError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let edit: TreeEdit = Box::new(edit);
        self.ask(|reply| WriteJob::Edit { edit, bytes, reply }).await
    }
}

fn put_parts(parts: Vec<KeyedPart>, batch: &mut WriteBatch) -> Result<(), TreeError> {
    for (key, value) in parts {
        batch.put_large(key, &value, 0);
    }
    Ok(())
}

impl Tree {
    fn fleet_record(&self, key: &[u8]) -> Result<Option<FleetRecord>, TreeError> {
        self.get(key)?.map(|value| FleetRecord::decode(&value)).transpose()
    }

    /// The listing whose record has this key and value, with the name of its fleet.
    pub(super) fn fleet_listing(
        &self,
        key: &[u8],
        value: &[u8],
    ) -> Result<(Arc<str>, FleetListing), TreeError> {
        let record = FleetRecord::decode(value)?;
        let mut listing = record.listing();
        for number in 0..record.parts {
            let part = self.large(&keys::fleet_part(key, record.listing, number))?;
            let part = part.ok_or(TreeError::Damaged("members of a fleet"))?.value;
            let by_id = |member: FleetMember| (member.mailbox.id.clone(), member);
            listing.members.extend(record::from_members(&part)?.map(by_id));
        }
        Ok((record.name, listing))
    }

    /// Deletes the keys with a prefix, except those that also have the other one.
    fn delete_all_but(
        &self,
        prefix: &[u8],
        kept: &[u8],
        batch: &mut WriteBatch,
    ) -> Result<(), TreeError> {
        for key in self.keys(prefix) {
            let key = key?;
            if !key.starts_with(kept) {
                batch.delete(key.to_vec());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::fleet::ListedMailbox;
    use crate::tests::{NOON, env, open};

    fn listing(members: impl Iterator<Item = usize>) -> FleetListing {
        let member = |n: usize| {
            let id: Arc<str> = format!("id{n:05}").into();
            let address = format!("{}{n}@contoso.com", "x".repeat(400)).into();
            let mailbox = ListedMailbox { id: id.clone(), address, name: "N".into(), place: None };
            (id, FleetMember::new(mailbox))
        };
        FleetListing {
            listed_at: Some(NOON),
            missing_since: None,
            members: members.map(member).collect(),
        }
    }

    fn fleet_keys(store: &Store) -> Vec<Vec<u8>> {
        let keys = |tree: &Tree| tree.keys(&[keys::FLEET]).map(|k| Ok(k?.to_vec())).collect();
        store.shared().read_tree(keys).unwrap().0
    }

    #[tokio::test]
    async fn a_large_listing_lies_in_small_values_and_is_written_only_if_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &env());
        let large = listing(0..3500);
        store.save_fleet_listing("f", Some(&large)).await.unwrap();
        let first = fleet_keys(&store);
        assert!(first.len() > 4 * 10, "{}", first.len());
        for key in &first {
            let value = store.shared().read_tree(|tree| tree.get(key)).unwrap().0.unwrap();
            assert!(value.len() <= (64 << 10) + 3, "{}", value.len());
        }
        let later =
            FleetListing { listed_at: Some(NOON + jiff::SignedDuration::from_hours(1)), ..large };
        store.save_fleet_listing("f", Some(&later)).await.unwrap();
        assert_eq!(fleet_keys(&store), first, "the same members were written again");
        assert_eq!(store.fleet_listings().await.unwrap(), [("f".into(), later)].into());
        // One member more, and one less.
        for count in [3501, 3499] {
            let other = listing(0..count);
            store.save_fleet_listing("f", Some(&other)).await.unwrap();
            assert!(fleet_keys(&store).iter().all(|key| key.len() == 17 || !first.contains(key)));
            assert_eq!(store.fleet_listings().await.unwrap(), [("f".into(), other)].into());
        }
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_part_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &env());
        store.save_fleet_listing("f", Some(&listing(0..1500))).await.unwrap();
        let part = fleet_keys(&store).into_iter().rfind(|key| key.len() == 29).unwrap();
        let mut batch = WriteBatch::default();
        batch.delete(part);
        store.shared().apply(0, batch).unwrap();
        let audited = |tree: &Tree| Ok(super::super::audit::audit(tree, true, &env()));
        let fault = store.shared().read_tree(audited).unwrap().0.unwrap_err();
        assert!(fault.is_damage(), "{fault}");
        store.fleet_listings().await.unwrap_err();
    }
}
