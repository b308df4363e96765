//! A shard's view of the engine.

use std::{ops::Bound, sync::Arc};

use fjall::{Guard, KvPair, OwnedWriteBatch};
use kith_proto::{
    id::PartitionId,
    kv::entry::Entry,
    store::partitions::{Batch, Page, Place, Store, StoreError},
};

use super::{
    engine::Inner,
    layout::{self, Life},
};

/// A shard's store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineStore {
    pub(super) engine: Arc<Inner>,
}

impl EngineStore {
    /// An error if the engine is broken.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.engine.check()
    }

    /// A value and the key it is under, as read; or why it could not be.
    fn read(&self, pair: fjall::Result<KvPair>) -> Result<KvPair, StoreError> {
        pair.map_err(|error| self.engine.fail_with(&error))
    }

    /// The value under a key, with its checksum verified.
    fn content(&self, key: &[u8], what: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.check()?;
        let value = self.engine.keyspace.get(key);
        let value = value.map_err(|error| self.engine.fail_with(&error))?;
        value
            .map(|value| match layout::unseal(key, &value) {
                Some(content) => Ok(content.to_vec()),
                None => Err(self.damaged(what)),
            })
            .transpose()
    }

    fn damaged(&self, what: &str) -> StoreError {
        let problem = format!("{what}: what is on the disk is not what was written (checksum)");
        self.engine.fail(&problem)
    }

    fn damaged_at(&self, place: &Place) -> StoreError {
        let Place {
            partition,
            bucket,
            key,
        } = place;
        self.damaged(&format!(
            "partition {partition}, bucket {bucket}, key {key:?}"
        ))
    }

    fn entry(&self, place: &Place, key: &[u8], value: &[u8]) -> Result<Entry, StoreError> {
        layout::unseal_entry(key, value).ok_or_else(|| self.damaged_at(place))
    }

    /// A place and its entry, as a range gives them.
    fn found(&self, pair: fjall::Result<KvPair>) -> Result<(Place, Entry), StoreError> {
        let (key, value) = self.read(pair)?;
        let place = layout::place_of(&key)
            .ok_or_else(|| self.damaged(&format!("an entry under the key {key:?}")))?;
        let entry = self.entry(&place, &key, &value)?;
        Ok((place, entry))
    }

    fn key(&self, place: &Place, life: Life) -> Result<Vec<u8>, StoreError> {
        layout::entry_key(place, life).ok_or_else(|| no_key(place))
    }
}

impl Store for EngineStore {
    fn get(&self, place: &Place) -> Result<Option<Entry>, StoreError> {
        self.engine.check()?;
        let key = self.key(place, self.engine.life(place.partition))?;
        let value = self.engine.keyspace.get(&key);
        match value.map_err(|error| self.engine.fail_with(&error))? {
            Some(value) => self.entry(place, &key, &value).map(Some),
            None => Ok(None),
        }
    }

    fn page(
        &self,
        partition: PartitionId,
        after: Option<&Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError> {
        self.engine.check()?;
        let life = self.engine.life(partition);
        let begin = match after {
            Some(place) if place.partition == partition => Bound::Excluded(self.key(place, life)?),
            _ => Bound::Included(layout::life_start(partition, life)),
        };
        let range = (begin, end_of(partition, life));
        let mut page = Page::new();
        let mut size = 0;
        for pair in self.engine.keyspace.range(range).map(Guard::into_inner) {
            if page.len() >= limit || (size >= bytes && !page.is_empty()) {
                break;
            }
            let (place, entry) = self.found(pair)?;
            size += entry.size(&place.key);
            page.push((place, entry));
        }
        Ok(page)
    }

    fn bucket(&self, partition: PartitionId, bucket: u16) -> Result<Page, StoreError> {
        self.engine.check()?;
        let life = self.engine.life(partition);
        let Some(prefix) = layout::bucket_start(partition, life, bucket) else {
            return Ok(Page::new());
        };
        let pairs = self.engine.keyspace.prefix(prefix).map(Guard::into_inner);
        pairs.map(|pair| self.found(pair)).collect()
    }

    fn chains(&self) -> Result<Vec<(PartitionId, Vec<u8>)>, StoreError> {
        self.engine.check()?;
        let mut chains = Vec::new();
        for guard in self.engine.keyspace.prefix(layout::CHAINS) {
            let (key, value) = self.read(guard.into_inner())?;
            let what = || format!("the chain record under the key {key:?}");
            let partition = layout::partition_of(&key).ok_or_else(|| self.damaged(&what()))?;
            let record = layout::unseal(&key, &value).ok_or_else(|| self.damaged(&what()))?;
            chains.push((partition, record.to_vec()));
        }
        Ok(chains)
    }

    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.content(&layout::fact_key(name), &format!("the fact {name:?}"))
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.engine.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let reborn = self.new_lives(&batch.cleared)?;
        let sealed = self.seal(&batch, &reborn)?;
        self.engine.throttle()?;
        self.engine.commit(sealed)?;
        for (partition, life) in reborn {
            self.engine.reborn(partition, life)?;
        }
        Ok(())
    }
}

impl EngineStore {
    fn new_lives(&self, cleared: &[PartitionId]) -> Result<Vec<(PartitionId, Life)>, StoreError> {
        let mut cleared = cleared.to_vec();
        cleared.sort_unstable();
        cleared.dedup();
        let next = |partition: PartitionId| {
            let life = self.engine.life(partition).checked_add(1);
            let life = life.ok_or_else(|| self.engine.fail("a partition was cleared too often"))?;
            Ok((partition, life))
        };
        cleared.into_iter().map(next).collect()
    }

    /// A batch as the engine takes it. `reborn` are the lives that begin with it.
    fn seal(
        &self,
        batch: &Batch,
        reborn: &[(PartitionId, Life)],
    ) -> Result<OwnedWriteBatch, StoreError> {
        let keyspace = &self.engine.keyspace;
        let items = reborn.len() + batch.entries.len() + batch.chains.len() + batch.facts.len();
        let mut sealed = self.engine.batch(items);
        for &(partition, life) in reborn {
            let key = layout::life_key(partition);
            sealed.insert(keyspace, key, layout::seal_number(&key, u64::from(life)));
        }
        // What the engine takes it copies.
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (place, entry) in &batch.entries {
            let life = match reborn.binary_search_by_key(&place.partition, |(p, _)| *p) {
                Ok(i) => reborn[i].1,
                Err(_not_cleared) => self.engine.life(place.partition),
            };
            if !layout::put_entry_key(&mut key, place, life) {
                return Err(no_key(place));
            }
            match entry {
                Some(entry) => {
                    layout::seal_entry(&mut value, &key, entry);
                    sealed.insert(keyspace, key.as_slice(), value.as_slice());
                }
                None => sealed.remove(keyspace, key.as_slice()),
            }
        }
        for (partition, record) in &batch.chains {
            let key = layout::chain_key(*partition);
            sealed.insert(keyspace, key, layout::seal(&key, record));
        }
        for (name, fact) in &batch.facts {
            let key = layout::fact_key(name);
            let value = layout::seal(&key, fact);
            sealed.insert(keyspace, key, value);
        }
        Ok(sealed)
    }
}

fn no_key(place: &Place) -> StoreError {
    let (len, bucket) = (place.key.len(), place.bucket);
    StoreError(format!(
        "a key of {len} bytes in bucket {bucket} is longer than can be kept, or there is no such bucket"
    ))
}

/// Where the entries of a life of a partition end.
fn end_of(partition: PartitionId, life: Life) -> Bound<Vec<u8>> {
    match (life.checked_add(1), partition.checked_add(1)) {
        (Some(next), _) => Bound::Excluded(layout::life_start(partition, next)),
        (None, Some(next)) => Bound::Excluded(layout::life_start(next, 0)),
        (None, None) => Bound::Unbounded,
    }
}
