//! A disk: what a process wrote survives its end; what was synced survives the machine's. And what
//! goes wrong with it.
//!
//! | fault | what the engine below `node` makes of it, and this too |
//! |---|---|
//! | power cut | of the batches that were not synced a beginning survives; one that was torn counts as not written |
//! | full, write error | the batch is not kept, and no later one; the core is told |
//! | read error, corrupt record | an error, never another value: records carry checksums |
//! | damaged, found at the start | the process does not start |
//! | slow | syncs take longer; nothing else |
//! | wiped | a new node: see [`super::Lab::wipe`] |

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kith_proto::{
    id::PartitionId,
    kv::{entry::Entry, version::Version},
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
    /// This boot of the machine, and the one that the store was last trusted in.
    boot: u64,
    trusted: u64,
    /// It has lost what it once told was there.
    forgot: bool,
    /// Partitions of which a chain record was lost before it was synced.
    lost_chains: BTreeSet<PartitionId>,
    faults: Faults,
    /// Values that were dropped, since that was asked for.
    dropped: Vec<(Place, Version)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// Writes fail once so many more were done.
    full_after: Option<u32>,
    /// Reads fail once so many more were done.
    reads_fail_after: Option<u32>,
    /// What is there is found to be damaged when a process starts.
    damaged: bool,
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
        contents.settle(count);
        contents.syncs.retain(|(t, _)| *t > token);
    }

    /// Everything written so far is synced, whoever asked for it.
    pub fn flush(&self) {
        let mut contents = self.contents();
        let count = contents.unsynced.len();
        contents.settle(count);
    }

    /// Whether something waits to be synced.
    pub fn has_unsynced(&self) -> bool {
        !self.contents().unsynced.is_empty()
    }

    /// The machine stops: of what was not synced, a beginning survives (`keep` decides how much, 0:
    /// nothing).
    pub fn power_cut(&self, keep: u64) {
        let mut contents = self.contents();
        let count = contents.unsynced.len() as u64;
        let kept = usize::try_from(keep % (count + 1)).unwrap_or(0);
        let lost = contents.unsynced.split_off(kept);
        contents.forgot |= lost.iter().any(|batch| !batch.entries.is_empty());
        let chains = lost.iter().flat_map(|batch| &batch.chains);
        contents.lost_chains.extend(chains.map(|(p, _)| *p));
        contents.settle(kept);
        contents.syncs.clear();
        contents.present = contents.synced.clone();
        contents.boot += 1;
    }

    /// Whether the machine has not stopped since the store was last trusted. If it has, what data
    /// was not synced may be lost.
    pub fn is_trusted(&self) -> bool {
        let contents = self.contents();
        contents.boot == contents.trusted
    }

    /// What the core had to write down about an earlier boot is synced; this boot is the one that
    /// wrote last.
    pub fn trust(&self) {
        self.flush();
        let mut contents = self.contents();
        contents.trusted = contents.boot;
    }

    /// Whether data was ever lost here.
    pub fn has_forgotten(&self) -> bool {
        self.contents().forgot
    }

    /// Whether a chain record of a partition was ever lost here before it was synced.
    pub fn lost_a_chain(&self, partition: PartitionId) -> bool {
        self.contents().lost_chains.contains(&partition)
    }

    /// The disk takes so many more batches, and then no more.
    pub fn fill_after(&self, batches: u32) {
        self.contents().faults.full_after = Some(batches);
    }

    /// So many more reads are answered, then none: an error of the device, or a record whose checksum
    /// is wrong.
    pub fn fail_reads_after(&self, reads: u32) {
        self.contents().faults.reads_fail_after = Some(reads);
    }

    /// The next process finds damage, and does not start.
    pub fn damage(&self) {
        self.contents().faults.damaged = true;
    }

    /// Whether anything was made to go wrong with it.
    pub fn is_faulty(&self) -> bool {
        let faults = self.contents().faults;
        faults.damaged || faults.full_after.is_some() || faults.reads_fail_after.is_some()
    }

    /// Somebody has made room, or changed a cable: what was synced is there, and all is well.
    pub fn mend(&self) {
        self.contents().faults = Faults::default();
    }

    /// What is there of a key, for whoever looks from outside.
    pub fn entry(&self, place: &Place) -> Option<Entry> {
        self.contents().present.get(place).ok().flatten()
    }

    /// Everything that is there, whatever is wrong with the disk.
    pub fn store_as_it_is(&self) -> MemoryStore {
        self.contents().present.clone()
    }

    /// Values that were dropped since this was asked last.
    pub fn take_dropped(&self) -> Vec<(Place, Version)> {
        std::mem::take(&mut self.contents().dropped)
    }
}

impl Contents {
    // So many of the oldest batches have reached the disk.
    fn settle(&mut self, count: usize) {
        for batch in self.unsynced.drain(..count) {
            // A store in memory keeps everything.
            drop(self.synced.write(batch));
        }
        for (_, covered) in &mut self.syncs {
            *covered = covered.saturating_sub(count);
        }
    }

    fn may_read(&mut self) -> Result<(), StoreError> {
        match &mut self.faults.reads_fail_after {
            Some(0) => Err(StoreError("a record cannot be read".to_owned())),
            Some(rest) => {
                *rest -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// What a process sees of its disk.
#[derive(Debug)]
pub struct DiskStore(Disk);

impl DiskStore {
    fn readable(&self) -> Result<MutexGuard<'_, Contents>, StoreError> {
        let mut contents = self.0.contents();
        contents.may_read()?;
        Ok(contents)
    }
}

impl Store for DiskStore {
    fn get(&self, place: &Place) -> Result<Option<Entry>, StoreError> {
        self.readable()?.present.get(place)
    }

    fn page(
        &self,
        partition: PartitionId,
        after: Option<&Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError> {
        let contents = self.readable()?;
        contents.present.page(partition, after, limit, bytes)
    }

    fn bucket(&self, partition: PartitionId, bucket: u16) -> Result<Page, StoreError> {
        self.readable()?.present.bucket(partition, bucket)
    }

    fn chains(&self) -> Result<Vec<(PartitionId, Vec<u8>)>, StoreError> {
        let contents = self.readable()?;
        if contents.faults.damaged {
            return Err(StoreError("a chain record is damaged".to_owned()));
        }
        contents.present.chains()
    }

    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.readable()?.present.fact(name)
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut contents = self.0.contents();
        match &mut contents.faults.full_after {
            Some(0) => return Err(StoreError("the disk is full".to_owned())),
            Some(rest) => *rest -= 1,
            None => {}
        }
        let mut dropped = Vec::new();
        for partition in &batch.cleared {
            let page = contents
                .present
                .page(*partition, None, usize::MAX, usize::MAX)?;
            let values = page.into_iter().filter(|(_, entry)| entry.value.is_some());
            dropped.extend(values.map(|(place, entry)| (place, entry.version)));
        }
        for (place, _) in batch.entries.iter().filter(|(_, entry)| entry.is_none()) {
            if let Some(entry) = contents.present.get(place)?.filter(|e| e.value.is_some()) {
                dropped.push((place.clone(), entry.version));
            }
        }
        contents.dropped.extend(dropped);
        contents.present.write(batch.clone())?;
        contents.unsynced.push(batch);
        Ok(())
    }
}
