//! What is known of all members together, kept up member by member.
//!
//! How many live is asked with every event, and a digest of everything with every comparison:
//! in a cluster of a thousand neither may take a walk through a thousand entries. So each
//! entry leaves a [`Mark`], and the [`Tally`] of all marks changes only where a mark does.

use std::collections::BTreeMap;

use super::table::{Entry, Status};
use crate::id::NodeId;

/// What one entry adds to the tally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) living: bool,
    pub(super) failed: bool,
    pub(super) digest: u64,
    /// What placement needs to know of it; 0 if it gets nothing.
    pub(super) share: u64,
}

impl Mark {
    /// Of an entry as it is now. Only others are counted among the living and the failed.
    pub(super) fn of(entry: &Entry, own: NodeId) -> Self {
        let other = entry.identity.id != own;
        Self {
            living: other && entry.is_living(),
            failed: other && entry.status() == Status::Failed,
            digest: entry.digest(),
            share: entry.share(),
        }
    }
}

/// An entry, and the mark that it left when it was last counted.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    pub(super) mark: Mark,
}

/// All marks together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Others that take part, by id.
    pub(super) living: Vec<NodeId>,
    /// Others that were declared failed, by id.
    pub(super) failed: Vec<NodeId>,
    /// All digests, combined so that their order does not matter.
    pub(super) digest: u64,
    /// All shares, combined likewise.
    pub(super) shares: u64,
}

impl Tally {
    /// An entry's mark has changed.
    pub(super) fn replace(&mut self, id: NodeId, before: Mark, after: Mark) {
        self.digest ^= before.digest ^ after.digest;
        self.shares ^= before.share ^ after.share;
        if before.living != after.living {
            put(&mut self.living, id, after.living);
        }
        if before.failed != after.failed {
            put(&mut self.failed, id, after.failed);
        }
    }

    /// Counts an entry again.
    pub(super) fn recount(
        &mut self,
        entries: &mut BTreeMap<NodeId, Box<Slot>>,
        id: NodeId,
        own: NodeId,
    ) {
        if let Some(slot) = entries.get_mut(&id) {
            let after = Mark::of(&slot.entry, own);
            let before = std::mem::replace(&mut slot.mark, after);
            self.replace(id, before, after);
        }
    }
}

/// Puts an id into a sorted list, or takes it out.
fn put(list: &mut Vec<NodeId>, id: NodeId, present: bool) {
    match (list.binary_search(&id), present) {
        (Err(place), true) => list.insert(place, id),
        (Ok(place), false) => {
            list.remove(place);
        }
        (Ok(_), true) | (Err(_), false) => {}
    }
}
