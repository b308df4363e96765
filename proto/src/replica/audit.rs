//! Copies that are thought to be equal are compared now and then, in case they are not.
//!
//! ```text
//!   O ->[Roots: everything that it owns and M keeps] M
//!   M ->[Unequal: those that differ, or are something else by now] O     nothing if all are equal
//! ```
//!
//! One message a peer, not one a partition: a cluster that rests is to be quiet. What is found to
//! differ is compared and repaired as after any other doubt (see `repair`).

use std::collections::BTreeMap;

use rand::RngExt;

use super::{
    chain::ConfigId,
    message::{Attempt, Message, Root},
    shard::{Shard, Timer},
};
use crate::id::{NodeId, PartitionId};

/// Roots in one message.
const ROOTS_AT_ONCE: usize = 2048;

impl Shard {
    /// Sets the first comparison: nodes that were started together do not compare together.
    pub(super) fn audit_begins(&mut self) {
        let pause = self.config.timing.anti_entropy;
        let at = self.now.time + pause * self.rng.random_range(50..100u32) / 100;
        self.timers.set(Timer::Audit, at);
    }

    /// Tells each peer what its copies should be equal to.
    pub(super) fn audit(&mut self) {
        self.timers.set(
            Timer::Audit,
            self.now.time + self.config.timing.anti_entropy,
        );
        let Some(view) = self.view.clone() else {
            return;
        };
        // What the roots count in has to arrive before them.
        self.send_writes();
        let own = self.own;
        let mut roots: BTreeMap<NodeId, Vec<Root>> = BTreeMap::new();
        for (partition, replica) in &self.replicas {
            let (Some(chain), Some(owner)) = (&replica.chain, &replica.owner) else {
                continue;
            };
            if !owner.serving || chain.is_fenced() {
                continue;
            }
            let root = replica.digests.root();
            for member in owner.equal.iter().filter(|member| **member != own) {
                if view.is_reachable(*member) {
                    roots.entry(*member).or_default().push(Root {
                        partition: *partition,
                        id: chain.config.id,
                        root,
                    });
                }
            }
        }
        for (member, roots) in roots {
            for some in roots.chunks(ROOTS_AT_ONCE) {
                self.send(member, Message::Roots(some.to_vec()));
            }
        }
    }

    pub(super) fn hear_roots(&mut self, from: NodeId, roots: Vec<Root>) {
        let mut unequal = Vec::new();
        for Root {
            partition,
            id,
            root,
        } in roots
        {
            if !self.is_mine(partition) {
                continue;
            }
            let attempt = Attempt::Repair(id.epoch);
            let taken = self.takes_transfer(from, partition, id, attempt).is_ok();
            if taken && self.root(partition) == root {
                self.note_equal(partition);
            } else {
                unequal.push((partition, id));
            }
        }
        if !unequal.is_empty() {
            self.send(from, Message::Unequal(unequal));
        }
    }

    pub(super) fn hear_unequal(&mut self, from: NodeId, unequal: Vec<(PartitionId, ConfigId)>) {
        for (p, id) in unequal {
            if self.chain(p).is_some_and(|chain| chain.config.id == id) {
                self.counters_up("found_unequal");
                self.is_unequal(p, from);
            }
        }
    }
}
