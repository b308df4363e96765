//! What a host keeps on disk for partitions, and what it promises about it.
//!
//! The partition core reads and writes a [`Store`] while it handles an input. What it wrote
//! can be read at once, and survives the end of the *process* once it is committed: after all
//! inputs that had arrived, before anything is told to anybody. Whether it survives a power
//! cut is another matter: a core that needs it asks for
//! `Sync`, and is told when everything written before
//! has reached the disk.
//! Effects that may only happen then carry the token, so that "persist A, then send B" is data.
//!
//! ```text
//!   partition u16 | bucket u16 | key        -> entry
//!   partition u16                           -> record: chain, held copy (a few hundred bytes)
//!   name                                    -> a few bytes about the whole
//! ```
//!
//! A batch is atomic: all of it or nothing, also at a power cut. Later batches never survive
//! without the earlier ones. An error is final: what could not be kept must not be served, and
//! the node gives its partitions up.

use std::{
    collections::{BTreeMap, btree_map::Entry as Slot},
    ops::Bound,
};

use bytes::Bytes;

use crate::{id::PartitionId, kv::entry::Entry};

/// Where an entry is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Its partition.
    pub partition: PartitionId,
    /// Its bucket within the partition; see [`crate::replica::digest`].
    pub bucket: u16,
    /// Its key.
    pub key: Bytes,
}

/// What is written together, or not at all. Carried out in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Partitions of which every entry goes.
    pub cleared: Vec<PartitionId>,
    /// Entries that replace what is there; `None` removes it.
    pub entries: Vec<(Place, Option<Entry>)>,
    /// Chain records that replace what is there.
    pub chains: Vec<(PartitionId, Vec<u8>)>,
    /// Facts about the whole that replace what is there.
    pub facts: Vec<(&'static str, Vec<u8>)>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.cleared.is_empty()
            && self.entries.is_empty()
            && self.chains.is_empty()
            && self.facts.is_empty()
    }
}

/// The disk does not do what it shall; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// The next entries of a partition, in the order of their places.
pub type Page = Vec<(Place, Entry)>;

/// Entries and chains of partitions. See the module's text for what is promised.
pub trait Store {
    /// The entry at a place.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was written.
    fn get(&self, place: &Place) -> Result<Option<Entry>, StoreError>;

    /// Entries of a partition after a place (from the beginning if there is none), in order,
    /// at most `limit` of them, and at most about `bytes` bytes (but at least one).
    ///
    /// # Errors
    /// As [`Self::get`].
    fn page(
        &self,
        partition: PartitionId,
        after: Option<&Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError>;

    /// All entries of one bucket.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn bucket(&self, partition: PartitionId, bucket: u16) -> Result<Page, StoreError>;

    /// All chain records.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn chains(&self) -> Result<Vec<(PartitionId, Vec<u8>)>, StoreError>;

    /// A fact about the whole.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes a batch: readable at once, and safe from the end of the process once
    /// [`Self::commit`] has succeeded.
    ///
    /// # Errors
    /// If it cannot be kept. Nothing of it was written, or the store is broken.
    fn write(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// Everything that was written is safe from the end of the process when this returns. Stores
    /// for which it is as soon as it is written have nothing to do.
    ///
    /// # Errors
    /// If something cannot be kept; what was written since the last time may be lost then.
    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A store that keeps nothing: for `--ephemeral`, and below the simulator's disks.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    entries: BTreeMap<Place, Entry>,
    chains: BTreeMap<PartitionId, Vec<u8>>,
    facts: BTreeMap<&'static str, Vec<u8>>,
}

impl MemoryStore {
    fn first(partition: PartitionId, bucket: u16) -> Place {
        Place {
            partition,
            bucket,
            key: Bytes::new(),
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, place: &Place) -> Result<Option<Entry>, StoreError> {
        Ok(self.entries.get(place).cloned())
    }

    fn page(
        &self,
        partition: PartitionId,
        after: Option<&Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError> {
        let from = match after {
            Some(place) => Bound::Excluded(place.clone()),
            None => Bound::Included(Self::first(partition, 0)),
        };
        let mut page = Page::new();
        let mut size = 0;
        for (place, entry) in self.entries.range((from, Bound::Unbounded)) {
            let over = page.len() >= limit || (size >= bytes && !page.is_empty());
            if place.partition != partition || over {
                break;
            }
            size += entry.size(&place.key);
            page.push((place.clone(), entry.clone()));
        }
        Ok(page)
    }

    fn bucket(&self, partition: PartitionId, bucket: u16) -> Result<Page, StoreError> {
        let all = self.entries.range(Self::first(partition, bucket)..);
        Ok(all
            .take_while(|(place, _)| (place.partition, place.bucket) == (partition, bucket))
            .map(|(place, entry)| (place.clone(), entry.clone()))
            .collect())
    }

    fn chains(&self) -> Result<Vec<(PartitionId, Vec<u8>)>, StoreError> {
        Ok(self.chains.iter().map(|(p, r)| (*p, r.clone())).collect())
    }

    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.facts.get(name).cloned())
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        for partition in batch.cleared {
            let from = Self::first(partition, 0);
            let mut rest = self.entries.split_off(&from);
            if let Some(next) = partition.checked_add(1) {
                let mut later = rest.split_off(&Self::first(next, 0));
                self.entries.append(&mut later);
            }
        }
        for (place, entry) in batch.entries {
            match (self.entries.entry(place), entry) {
                (Slot::Occupied(mut slot), Some(entry)) => drop(slot.insert(entry)),
                (Slot::Occupied(slot), None) => drop(slot.remove()),
                (Slot::Vacant(slot), Some(entry)) => drop(slot.insert(entry)),
                (Slot::Vacant(_), None) => {}
            }
        }
        self.chains.extend(batch.chains);
        self.facts.extend(batch.facts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::version::Version;

    fn place(partition: PartitionId, bucket: u16, key: &'static str) -> Place {
        Place {
            partition,
            bucket,
            key: Bytes::from(key),
        }
    }

    #[test]
    fn pages_and_buckets_stay_within_their_partition() {
        let mut store = MemoryStore::default();
        let mut batch = Batch::default();
        let places = [
            place(1, 0, "a"),
            place(1, 3, "b"),
            place(1, 3, "c"),
            place(2, 0, "d"),
        ];
        for place in &places {
            let entry = Entry::tombstone(Version::default());
            batch.entries.push((place.clone(), Some(entry)));
        }
        store.write(batch).unwrap();
        let keys = |page: Page| -> Vec<Bytes> { page.into_iter().map(|(p, _)| p.key).collect() };
        assert_eq!(keys(store.page(1, None, 9, 999).unwrap()), ["a", "b", "c"]);
        assert_eq!(keys(store.page(1, None, 2, 999).unwrap()), ["a", "b"]);
        assert_eq!(keys(store.page(1, None, 9, 1).unwrap()), ["a"]);
        assert_eq!(
            keys(store.page(1, Some(&places[1]), 9, 999).unwrap()),
            ["c"]
        );
        assert_eq!(keys(store.bucket(1, 3).unwrap()), ["b", "c"]);
        let cleared = Batch {
            cleared: vec![1],
            ..Batch::default()
        };
        store.write(cleared).unwrap();
        assert!(store.page(1, None, 9, 999).unwrap().is_empty());
        assert_eq!(keys(store.page(2, None, 9, 999).unwrap()), ["d"]);
    }
}
