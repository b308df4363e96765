//! A shard's store: what it writes while it handles what has arrived goes to the engine as one
//! batch, and what it reads mostly comes from memory.
//!
//! ```text
//!   write, write, write ─► gathered ── commit ──► one batch of the engine
//!   get ◄── nothing was ever there (see `places`), else gathered, else recent, else the engine
//!   anything that goes over several entries: commit first
//! ```
//!
//! A batch costs the engine a system call, a lock and a record of its own, whatever is in it.

use std::{cell::RefCell, collections::BTreeMap};

use kith_proto::{
    id::PartitionId,
    kv::entry::Entry,
    store::partitions::{Batch, Page, Place, Store, StoreError},
};

use super::{
    EngineStore,
    places::Places,
    recent::{ByPlace, Recent},
};

/// More than this is not gathered (bytes).
const MOST: usize = 1 << 20;

/// See the module's text.
#[derive(Debug)]
pub struct Gathering {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    engine: EngineStore,
    entries: ByPlace<Option<Entry>>,
    chains: BTreeMap<PartitionId, Vec<u8>>,
    facts: BTreeMap<&'static str, Vec<u8>>,
    /// What the entries take (bytes).
    size: usize,
    recent: Recent,
    places: Places,
}

impl Gathering {
    /// In front of a store of the engine; so many bytes of memory are for what is recent, and so
    /// many at most for which places hold anything.
    pub fn new(engine: EngineStore, recent: usize, places: usize) -> Self {
        Self {
            state: RefCell::new(State {
                engine,
                entries: ByPlace::default(),
                chains: BTreeMap::new(),
                facts: BTreeMap::new(),
                size: 0,
                recent: Recent::new(recent),
                places: Places::new(places),
            }),
        }
    }

    /// The engine's store, with everything in it.
    fn committed(&self) -> Result<EngineStore, StoreError> {
        let mut state = self.state.borrow_mut();
        state.commit()?;
        Ok(state.engine.clone())
    }
}

impl State {
    fn commit(&mut self) -> Result<(), StoreError> {
        let batch = Batch {
            cleared: Vec::new(),
            entries: self.entries.drain().collect(),
            chains: std::mem::take(&mut self.chains).into_iter().collect(),
            facts: std::mem::take(&mut self.facts).into_iter().collect(),
        };
        self.size = 0;
        self.engine.write(batch)
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        if !batch.cleared.is_empty() {
            self.commit()?;
            let cleared = batch.cleared.clone();
            for partition in &cleared {
                self.recent.clear(*partition);
            }
            for (place, entry) in &batch.entries {
                self.places.note(place);
                self.recent.put(place, entry.as_ref());
            }
            self.engine.write(batch)?;
            for partition in cleared {
                self.places.cleared(partition);
            }
            return Ok(());
        }
        for (place, entry) in batch.entries {
            self.places.note(&place);
            self.recent.put(&place, entry.as_ref());
            self.size += entry.as_ref().map_or(0, |entry| entry.size(&place.key));
            self.entries.insert(place, entry);
        }
        self.chains.extend(batch.chains);
        self.facts.extend(batch.facts);
        if self.size >= MOST {
            return self.commit();
        }
        Ok(())
    }

    fn get(&mut self, place: &Place) -> Result<Option<Entry>, StoreError> {
        if !self.places.may_hold(place) {
            self.engine.check()?;
            return Ok(None);
        }
        if let Some(entry) = self.entries.get(place) {
            return Ok(entry.clone());
        }
        if let Some(entry) = self.recent.get(place) {
            self.engine.check()?;
            return Ok(entry);
        }
        let entry = self.engine.get(place)?;
        self.recent.put(place, entry.as_ref());
        Ok(entry)
    }
}

impl Store for Gathering {
    fn get(&self, place: &Place) -> Result<Option<Entry>, StoreError> {
        self.state.borrow_mut().get(place)
    }

    fn page(
        &self,
        partition: PartitionId,
        after: Option<&Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError> {
        let page = self.committed()?.page(partition, after, limit, bytes)?;
        // Where nothing is asked for, nothing is not the end.
        if limit > 0 {
            let mut state = self.state.borrow_mut();
            state.places.paged(partition, after, &page);
        }
        Ok(page)
    }

    fn bucket(&self, partition: PartitionId, bucket: u16) -> Result<Page, StoreError> {
        self.committed()?.bucket(partition, bucket)
    }

    fn chains(&self) -> Result<Vec<(PartitionId, Vec<u8>)>, StoreError> {
        self.committed()?.chains()
    }

    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.committed()?.fact(name)
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.state.get_mut().write(batch)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.state.get_mut().commit()
    }
}
