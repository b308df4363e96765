//! What a shard keeps: entries with their digests, chain records, and what must be on the disk before
//! what else happens.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    digest::{self},
    host::{Output, SyncMode, SyncToken},
    shard::Shard,
};
use crate::{
    id::PartitionId,
    kv::{
        entry::Entry,
        version::{Hlc, Wall},
    },
    store::partitions::{Batch, Place, StoreError},
};

impl Shard {
    /// What was written until now must be on the disk before what carries this token.
    pub(super) fn durable(&mut self) -> SyncToken {
        self.sync_wanted = true;
        self.token
    }

    /// The same for data, if this node's data must be on the disk before it counts.
    pub(super) fn data_durable(&mut self) -> Option<SyncToken> {
        (self.config.sync == SyncMode::Always).then(|| self.durable())
    }

    /// Keeps a partition's record, its chain and what is held; what depends on it waits for the token.
    pub(super) fn keep_record(&mut self, partition: PartitionId) -> SyncToken {
        if let Some(replica) = self.replicas.get(&partition) {
            let chains = vec![(partition, replica.record())];
            self.write_batch(Batch {
                chains,
                ..Batch::default()
            });
        }
        self.recorded = self.durable();
        self.recorded
    }

    pub(super) fn write_batch(&mut self, batch: Batch) {
        if let Err(error) = self.store.write(batch) {
            self.broke(&error);
        }
    }

    pub(super) fn place(&self, partition: PartitionId, key: &Bytes) -> Place {
        Place {
            partition,
            bucket: digest::bucket_of(key, self.buckets),
            key: key.clone(),
        }
    }

    pub(super) fn read(&mut self, place: &Place) -> Option<Entry> {
        match self.store.get(place) {
            Ok(entry) => entry,
            Err(error) => {
                self.broke(&error);
                None
            }
        }
    }

    /// Merges entries by version into what is there; `drop` are versions to be removed, or replaced by
    /// whatever comes with them.
    pub(super) fn merge(
        &mut self,
        partition: PartitionId,
        entries: impl IntoIterator<Item = (Bytes, Entry)>,
        drop: &[(Bytes, crate::kv::version::Version)],
    ) {
        let mut batch = Batch::default();
        let mut changes: BTreeMap<Place, (Option<Entry>, Option<Entry>)> = BTreeMap::new();
        let dropped: BTreeMap<&Bytes, &crate::kv::version::Version> =
            drop.iter().map(|(key, version)| (key, version)).collect();
        for (key, entry) in entries {
            self.clock.saw(entry.version.hlc);
            let place = self.place(partition, &key);
            let present = match changes.get(&place) {
                Some((_, newest)) => newest.clone(),
                None => self.read(&place),
            };
            let stays = |present: &Entry| {
                present.version >= entry.version && dropped.get(&key) != Some(&&present.version)
            };
            if present.as_ref().is_some_and(stays) {
                continue;
            }
            changes
                .entry(place)
                .and_modify(|(_, newest)| *newest = Some(entry.clone()))
                .or_insert_with(|| (present, Some(entry.clone())));
        }
        for (key, version) in drop {
            let place = self.place(partition, key);
            let present = self.read(&place);
            if present
                .as_ref()
                .is_some_and(|entry| entry.version == *version)
                && !changes.contains_key(&place)
            {
                changes.insert(place, (present, None));
            }
        }
        let replica = self.replica(partition);
        for (place, (before, after)) in changes {
            if let Some(before) = &before {
                let size = before.size(&place.key);
                replica
                    .digests
                    .remove(place.bucket, &place.key, &before.version, size);
            }
            if let Some(after) = &after {
                let size = after.size(&place.key);
                replica.latest_epoch = replica.latest_epoch.max(after.version.epoch);
                replica
                    .digests
                    .add(place.bucket, &place.key, &after.version, size);
            }
            batch.entries.push((place, after));
        }
        if !batch.is_empty() {
            self.write_batch(batch);
        }
    }

    pub(super) fn root(&mut self, partition: PartitionId) -> u64 {
        self.replica(partition).digests.root()
    }

    pub(super) fn largest_hlc(&self) -> Hlc {
        self.clock.last()
    }

    pub(super) fn wall(&self) -> Wall {
        self.now.wall
    }

    /// The store failed: what it may have lost must not be served.
    pub(super) fn broke(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.broken, true) {
            self.outputs.push_back(Output::Broken(error.0.clone()));
        }
    }

    /// Whether the store has failed.
    pub fn is_broken(&self) -> bool {
        self.broken
    }
}
