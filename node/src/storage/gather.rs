//! A shard's store: what it writes while it handles what has arrived goes to the engine as one
//! batch, and what it reads mostly comes from memory.
//!
//! ```text
//!   write, write, write ─► gathered ── commit ──► one batch of the engine, in the order of places
//!   get ◄── nothing was ever there (see `places`), else recent, else the engine
//!   anything that goes over several entries: commit first
//! ```
//!
//! What is gathered is recent too, so that it need not be looked for; except for long values, which are
//! not kept there: before one of those is asked for, all is committed. And what is recent may be
//! forgotten: it is committed before that.
//!
//! A batch costs the engine a system call, a lock and a record of its own, whatever is in it.

use std::{cell::RefCell, collections::BTreeMap};

use kith_proto::{
    id::PartitionId,
    kv::entry::Entry,
    store::partitions::{Batch, Page, Place, Store, StoreError},
};

use super::{EngineStore, places::Places, recent::Recent};

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
    /// In the order in which they were written; of those at one place the last counts.
    entries: Vec<(Place, Option<Entry>)>,
    /// One of them is not in `recent`.
    apart: bool,
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
                entries: Vec::new(),
                apart: false,
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
        let mut entries = std::mem::take(&mut self.entries);
        // The engine finds places that are near each other faster one after the other.
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(&mut later.1, &mut kept.1);
            }
            same
        });
        let batch = Batch {
            cleared: Vec::new(),
            entries,
            chains: std::mem::take(&mut self.chains).into_iter().collect(),
            facts: std::mem::take(&mut self.facts).into_iter().collect(),
        };
        self.size = 0;
        self.apart = false;
        self.recent.turned();
        self.engine.write(batch)
    }

    /// Commits if something that is gathered could be forgotten.
    fn keep_up(&mut self) -> Result<(), StoreError> {
        if self.size >= MOST || self.recent.turned() {
            return self.commit();
        }
        Ok(())
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        if !batch.cleared.is_empty() {
            self.commit()?;
            let cleared = batch.cleared.clone();
            for partition in &cleared {
                self.recent.clear(*partition);
            }
            for (place, entry) in &batch.entries {
                self.note(place, entry.as_ref());
            }
            self.engine.write(batch)?;
            for partition in cleared {
                self.places.cleared(partition);
            }
            return Ok(());
        }
        for (place, entry) in batch.entries {
            self.size += entry.as_ref().map_or(0, |entry| entry.size(&place.key));
            self.apart |= !self.note(&place, entry.as_ref());
            self.entries.push((place, entry));
        }
        self.chains.extend(batch.chains);
        self.facts.extend(batch.facts);
        self.keep_up()
    }

    /// Something is written at a place; true if it is recent now.
    fn note(&mut self, place: &Place, entry: Option<&Entry>) -> bool {
        if self.places.note(place) {
            self.recent.put(place, entry)
        } else {
            self.recent.put_first(place, entry)
        }
    }

    fn get(&mut self, place: &Place) -> Result<Option<Entry>, StoreError> {
        self.engine.check()?;
        if !self.places.may_hold(place) {
            return Ok(None);
        }
        if let Some(entry) = self.recent.get(place) {
            self.keep_up()?;
            return Ok(entry);
        }
        if self.apart {
            self.commit()?;
        }
        let entry = self.engine.get(place)?;
        self.recent.put(place, entry.as_ref());
        self.keep_up()?;
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
