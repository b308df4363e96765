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
//!                           │             └── filled anew: dropped first, by strict members
//!                           └── the machine stopped before it was synced: lost, and a learner if it
//!                               turns out to be a member (rule 8)
//! ```

use serde::{Deserialize, Serialize};

use super::{
    chain::{Chain, ConfigId, Configuration},
    host::SyncToken,
    omit::Omit,
    shard::{Replica, Shard},
};
use crate::{id::PartitionId, wire::codec};

/// A copy that waits to be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The configuration whose owner found it equal; one that follows may name this node.
    pub id: ConfigId,
    /// It may have lost something since: what is left of it counts for nothing.
    pub lost: bool,
    /// On the disk with this.
    #[serde(skip)]
    pub(super) after: SyncToken,
}

impl Held {
    /// Whether it is what this configuration, the next one, counts on.
    pub(super) fn is_counted_by(self, config: &Configuration) -> bool {
        !self.lost && follows_at_once(config, self.id)
    }

    /// Whether this node may have been a member for some configurations without having heard of one: it
    /// missed writes, like any other that was away, and forgot nothing. (A newcomer of a later
    /// configuration would have been found equal there.)
    pub(super) fn leads_to(self, config: &Configuration) -> bool {
        let ConfigId { epoch, branch } = config.id;
        !self.lost && branch == self.id.branch && epoch > self.id.epoch
    }
}

/// Whether `config` was chosen by the members of `before`.
pub(super) fn follows_at_once(config: &Configuration, before: ConfigId) -> bool {
    config.descends_from(before) && config.id.epoch == before.epoch + 1
}

/// What is kept on the disk about a partition beside its entries.
pub(super) type Record = (Option<Chain>, Option<Held>);

impl Replica {
    pub(super) fn record(&self) -> Vec<u8> {
        codec::encode(&(&self.chain, &self.held))
    }
}

impl Shard {
    /// This node's copy was found equal by the owner that fills it; that may only be said with what is
    /// returned.
    pub(super) fn hold(&mut self, p: PartitionId, id: ConfigId) -> Option<SyncToken> {
        let own = self.own;
        if self.omits(Omit::HeldCopies) {
            return None;
        }
        let chain = self.chain(p);
        if chain.is_some_and(|chain| chain.config.has(own)) {
            return None;
        }
        let held = self.replica(p).held;
        if let Some(held) = held.filter(|held| held.id == id && !held.lost) {
            return Some(held.after);
        }
        let (lost, after) = (false, self.durable());
        self.replica(p).held = Some(Held { id, lost, after });
        self.keep_chain(p);
        Some(after)
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
            self.keep_chain(p);
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
