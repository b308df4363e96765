//! Copies that were made for a next configuration, of which it is not known yet whether it was chosen.
//!
//! An owner that hands over lets its members choose only once it has found every newcomer equal: from
//! then on they may be counted on. If it stops right after the choice, they hear of that much later,
//! perhaps when it comes back. So what was found equal is kept like what a member has, over restarts too,
//! until somebody says what became of it:
//!
//! ```text
//!            found equal                  ┌── installed: a member like the others
//!   filled ──────────────> held ──────────┼── it is abandoned, or may be forgotten: dropped
//!                           │             └── filled anew: compared first; dropped if it differs and cannot be mended
//!                           └── the machine stopped before it was synced: lost; a strict member is a
//!                               learner then (rule 8)
//! ```
//!
//! Only in the life that was found equal it owns what it is installed in at once: after a restart, what a
//! majority has is merged first, as with any owner that starts again (rule 1).

use serde::{Deserialize, Serialize};

use super::{
    chain::{Chain, ConfigId, Configuration},
    host::SyncToken,
    message::Attempt,
    omit::Omit,
    shard::{Replica, Shard},
};
use crate::{
    id::{NodeId, PartitionId},
    kv::version::Wall,
    wire::codec,
};

/// A copy that waits to be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The configuration whose owner found it equal; one that follows may name this node.
    pub id: ConfigId,
    /// It may have lost something since: what is left of it counts for nothing.
    pub lost: bool,
    /// When it was found equal, about (rule A5).
    pub at: Wall,
    /// On the disk with this; none if an earlier life was found equal.
    #[serde(skip)]
    pub(super) after: Option<SyncToken>,
}

impl Held {
    /// Whether it is just what this configuration, the next one, counts on.
    pub(super) fn is_counted_by(self, config: &Configuration) -> bool {
        !self.lost && self.after.is_some() && is_next(config, self.id)
    }

    /// Whether a member of this configuration forgot nothing with it: it may have missed writes, or even
    /// been a member for some configurations without having heard of one, like any other that was away. (A
    /// newcomer of a later configuration would have been found equal there.)
    pub(super) fn leads_to(self, config: &Configuration) -> bool {
        let ConfigId { epoch, branch } = config.id;
        let later = branch == self.id.branch && epoch > self.id.epoch;
        !self.lost && (later || is_next(config, self.id))
    }
}

/// Whether `config` is of the next epoch after `before`, in its branch or from it.
pub(super) fn is_next(config: &Configuration, before: ConfigId) -> bool {
    config.descends_from(before) && config.id.epoch == before.epoch + 1
}

/// What is kept on the disk about a partition beside its entries.
pub(super) type Record = (Option<Chain>, Option<Held>);

impl Replica {
    pub(super) fn record(&self) -> Vec<u8> {
        codec::encode(&(&self.chain, &self.held))
    }

    /// What is held, if nothing of it may be lost.
    pub(super) fn held_whole(&self) -> Option<Held> {
        self.held.filter(|held| !held.lost)
    }
}

impl Shard {
    /// This node's copy was found equal by the owner that fills it; that may only be said with what is
    /// returned.
    pub(super) fn hold(&mut self, p: PartitionId, id: ConfigId) -> Option<SyncToken> {
        if self.omits(Omit::HeldCopies) || self.is_member(p) {
            return None;
        }
        let at = self.wall();
        let held = self.replica(p).held_whole();
        let same = held.filter(|held| held.id == id && !self.is_noted_anew(held.at));
        if let Some(after) = same.and_then(|held| held.after) {
            return Some(after);
        }
        let (lost, after) = (false, None);
        self.replica(p).held = Some(Held {
            id,
            lost,
            at,
            after,
        });
        self.routes.is_held_otherwise(p);
        let after = self.keep_record(p);
        if let Some(held) = &mut self.replica(p).held {
            held.after = Some(after);
        }
        Some(after)
    }

    /// Whether it was found equal in this configuration.
    pub(super) fn holds_equal(&self, p: PartitionId, id: ConfigId) -> bool {
        let held = self.replicas.get(&p).and_then(Replica::held_whole);
        held.is_some_and(|held| held.id == id)
    }

    /// The copy that is being filled is not equal: what was held when that began is dropped now. True if it
    /// was.
    pub(super) fn held_differs(
        &mut self,
        p: PartitionId,
        from: NodeId,
        id: ConfigId,
        attempt: Attempt,
    ) -> bool {
        let by = self.replica(p).filled_by.as_mut();
        let Some(by) = by.filter(|by| by.is(from, id, attempt) && by.begun_with_held) else {
            return false;
        };
        by.begun_with_held = false;
        self.clear(p);
        true
    }

    /// Nobody will count on it any more: it goes, unless it is part of something else by now.
    pub(super) fn let_go(&mut self, p: PartitionId) {
        let Some(replica) = self.replicas.get_mut(&p) else {
            return;
        };
        if replica.chain.is_none() && replica.filled_by.is_none() {
            self.clear(p);
            self.replicas.remove(&p);
        } else if replica.held.take().is_some() {
            self.routes.is_held_otherwise(p);
            self.keep_record(p);
        }
    }

    /// A configuration was chosen that does not name this node, which has no part in the chain.
    pub(super) fn held_in_vain(&mut self, p: PartitionId, config: &Configuration) {
        let held = self.replicas.get(&p).and_then(|replica| replica.held);
        if held.is_some_and(|held| config.ends(held.id)) {
            self.let_go(p);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(config: &Configuration) -> Held {
        Held {
            id: config.id,
            lost: false,
            at: Wall(0),
            after: Some(SyncToken(1)),
        }
    }

    #[test]
    fn only_the_next_configuration_counts_on_it_and_only_in_the_same_life() {
        let first = Configuration::genesis(NodeId(1), 7);
        let next = first.next(vec![NodeId(2), NodeId(3)]);
        let later = next.next(vec![NodeId(3), NodeId(2)]);
        let now = held(&first);
        assert!(now.is_counted_by(&next) && !now.is_counted_by(&first));
        assert!(!now.is_counted_by(&later) && now.leads_to(&later));
        let restarted = Held { after: None, ..now };
        assert!(!restarted.is_counted_by(&next) && restarted.leads_to(&next));
        let lost = Held { lost: true, ..now };
        assert!(!lost.is_counted_by(&next) && !lost.leads_to(&next));
        let other = Configuration::genesis(NodeId(1), 8).next(vec![NodeId(2)]);
        assert!(!now.leads_to(&other));
    }

    #[test]
    fn what_is_kept_does_not_say_that_this_life_was_found_equal() {
        let held = held(&Configuration::genesis(NodeId(1), 7));
        let record: Record = (None, Some(held));
        let (_, read): Record = codec::decode(&codec::encode(&record)).unwrap();
        assert_eq!(
            read,
            Some(Held {
                after: None,
                ..held
            })
        );
    }
}
