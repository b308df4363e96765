//! A disk: what a process wrote survives its end; what was synced survives the machine's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kith_proto::{
    id::PartitionId,
    kv::entry::Entry,
    replica::host::SyncToken,
    store::partitions::{Batch, MemoryStore, Page, Place, Store, StoreError},
};

#[derive(Debug, Default)]
struct Contents {
    synced: MemoryStore,
    present: MemoryStore,
    /// What was written since the last sync, oldest first.
    unsynced: Vec<Batch>,
    /// How much of that each sync under way covers.
    syncs: Vec<(SyncToken, usize)>,
    forgotten: bool,
    /// Writes fail from now on.
    full: bool,
}

/// A node's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Contents>>);

impl Disk {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a process that starts.
    pub fn store(&self) -> DiskStore {
        let mut contents = self.contents();
        contents.syncs.clear();
        DiskStore(self.clone())
    }

    /// A sync of everything written so far begins.
    pub fn sync_begins(&self, token: SyncToken) {
        let mut contents = self.contents();
        let count = contents.unsynced.len();
        contents.syncs.push((token, count));
    }

    /// It is over.
    pub fn synced(&self, token: SyncToken) {
        let mut contents = self.contents();
        let covered = contents.syncs.iter().filter(|(t, _)| *t <= token);
        let count = covered.map(|(_, count)| *count).max().unwrap_or(0);
        let batches: Vec<Batch> = contents.unsynced.drain(..count).collect();
        for batch in batches {
            if contents.synced.write(batch).is_err() {
                contents.full = true;
            }
        }
        contents.syncs.retain(|(t, _)| *t > token);
        for (_, covered) in &mut contents.syncs {
            *covered = covered.saturating_sub(count);
        }
    }

    /// The machine stops: of what was not synced, a beginning survives (`keep` decides how much).
    pub fn power_cut(&self, keep: u64) {
        let mut contents = self.contents();
        let unsynced = std::mem::take(&mut contents.unsynced);
        let count = unsynced.len() as u64;
        let kept = usize::try_from(keep % (count + 1)).unwrap_or(0);
        contents.forgotten |= kept < unsynced.len();
        for batch in unsynced.into_iter().take(kept) {
            if contents.synced.write(batch).is_err() {
                contents.full = true;
            }
        }
        contents.present = contents.synced.clone();
    }

    /// Whether the machine stopped with something not synced.
    pub fn has_forgotten(&self) -> bool {
        self.contents().forgotten
    }

    /// The disk takes no more.
    pub fn fill(&self) {
        self.contents().full = true;
    }
}

/// What a process sees of its disk.
#[derive(Debug)]
pub struct DiskStore(Disk);

impl Store for DiskStore {
    fn get(&self, place: &Place) -> Result<Option<Entry>, StoreError> {
        self.0.contents().present.get(place)
    }

    fn page(
        &self,
        partition: PartitionId,
        after: Option<&Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError> {
        self.0
            .contents()
            .present
            .page(partition, after, limit, bytes)
    }

    fn bucket(&self, partition: PartitionId, bucket: u16) -> Result<Page, StoreError> {
        self.0.contents().present.bucket(partition, bucket)
    }

    fn chains(&self) -> Result<Vec<(PartitionId, Vec<u8>)>, StoreError> {
        self.0.contents().present.chains()
    }

    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.contents().present.fact(name)
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut contents = self.0.contents();
        if contents.full {
            return Err(StoreError("the disk is full".to_owned()));
        }
        contents.present.write(batch.clone())?;
        contents.unsynced.push(batch);
        Ok(())
    }
}
