//! Strict: going on by an operator's word, where a majority is gone for good or has forgotten.
//!
//! ```text
//!   operator: recover ─> Prepare (by word) at every member that lives, learners too
//!                        what they have is merged ─> a branch of their own, which serves
//!   whoever comes back later: its branch is joined to that one, as after a split of an available
//!   cluster: the later write of a key stays, and each conflict is told
//! ```
//!
//! It is the one case in which a partition may have two owners: those that were given up may live
//! elsewhere, and go on. So it is never done by itself, and it is written to the log.
//!
//! Members that come back one by one, while most went on by an operator's word, can choose nothing in
//! their old branch any more. They follow: what they have becomes a closed branch at once, and is
//! joined.

use std::collections::BTreeSet;

use super::{
    chain::{ConfigId, Configuration},
    host::Now,
    message::Body,
    proposal::Purpose,
    shard::{Shard, Timer},
};
use crate::{
    event::Event,
    id::{NodeId, PartitionId},
};

/// What an operator's word leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Partitions that are about to go on.
    pub begun: Vec<PartitionId>,
    /// Partitions that are blocked, and are left alone: not for long enough yet, or an earlier word is
    /// being followed. Some seconds later they are blocked for long, or not at all.
    pub waiting: Vec<PartitionId>,
    /// How many that this node is a member of needed nothing.
    pub unneeded: usize,
}

impl Shard {
    /// Goes on with every partition that this node is a member of, that is blocked and has been for some
    /// seconds, and of which `only` is one if it is given. Others are left as they are. The host calls
    /// [`Self::flush`] afterwards.
    pub fn recover(&mut self, now: Now, only: Option<PartitionId>) -> Recovery {
        self.now = now;
        let mut recovery = Recovery::default();
        if self.is_broken() {
            return recovery;
        }
        let stuck = match self.is_strict() {
            true => self.stuck(),
            false => BTreeSet::new(),
        };
        // What people were told may be over: it is looked at now.
        let long: BTreeSet<PartitionId> = self.care.blocked_for_long().collect();
        for (p, replica) in &self.replicas {
            if !self.is_member(*p) || only.is_some_and(|only| only != *p) {
                continue;
            }
            let proposal = replica.proposal.as_ref();
            let under_way = proposal.is_some_and(|it| it.purpose.by_word());
            if !stuck.contains(p) {
                recovery.unneeded += 1;
            } else if under_way || !long.contains(p) {
                recovery.waiting.push(*p);
            } else {
                recovery.begun.push(*p);
            }
        }
        for p in &recovery.begun {
            self.counters_up("recovered");
            self.propose(*p, Purpose::Recover);
        }
        recovery
    }

    /// It is written to the log what goes on, and without whom.
    pub(super) fn tell_of_recovery(
        &mut self,
        p: PartitionId,
        before: &Configuration,
        next: &Configuration,
    ) {
        let names = |shard: &Self, nodes: &mut dyn Iterator<Item = &NodeId>| {
            nodes.map(|node| shard.name(*node)).collect()
        };
        let mut given_up = before.members.iter().filter(|member| !next.has(**member));
        let members: Vec<String> = names(self, &mut next.members.iter());
        let without: Vec<String> = names(self, &mut given_up);
        // Each partition lists its members in an order of its own.
        let mut sorted = without.clone();
        sorted.sort_unstable();
        *self.recovered.entry(sorted).or_default() += 1;
        self.summary_soon();
        self.event(Event::PartitionRecovered {
            partition: p,
            epoch: next.id.epoch,
            branch: next.id.branch,
            members,
            without,
        });
    }

    /// A member of this node's configuration says that it is in another branch.
    pub(super) fn member_went_on(&mut self, p: PartitionId, id: ConfigId, member: NodeId) {
        if let Some(replica) = self.replicas.get_mut(&p)
            && let Some(chain) = &replica.chain
            && chain.config.id == id
            && chain.config.has(member)
        {
            replica.went_on.insert(member);
        }
    }

    /// Whether so many members are in other branches, or gone, that no majority is left.
    pub(super) fn most_went_on(&self, p: PartitionId, config: &Configuration) -> bool {
        let Some(replica) = self.replicas.get(&p) else {
            return false;
        };
        let stays = |it: &&NodeId| !replica.went_on.contains(it) && !self.is_gone(**it);
        config.members.iter().filter(stays).count() < config.majority()
    }

    /// Strict: so many members went on elsewhere that the others can decide nothing any more. They
    /// follow. Whether they do.
    pub(super) fn follows(&mut self, p: PartitionId) -> bool {
        let Some(replica) = self.replicas.get(&p).filter(|_| self.is_strict()) else {
            return false;
        };
        let (Some(chain), Some(rival)) = (&replica.chain, &replica.rival) else {
            return false;
        };
        let left = chain.config.members.len() - replica.went_on.len();
        let by_word = replica
            .proposal
            .as_ref()
            .is_some_and(|it| it.purpose.by_word());
        if by_word || left >= chain.config.majority() || !chain.config.has(self.own) {
            return false;
        }
        let into = rival.id.branch;
        self.propose(p, Purpose::Follow(into));
        true
    }

    /// One that may have forgotten something decides nothing, and hears nothing: it asks whether the others
    /// have gone on without it.
    pub(super) fn learner_asks(&mut self, p: PartitionId) {
        let now = self.now.time;
        let Some(chain) = self.chain(p).filter(|chain| chain.learner) else {
            return;
        };
        let config = chain.config.clone();
        let at = now + self.config.timing.forget;
        self.timers.set_by(Timer::Partition(p), at);
        if self.replica(p).backoff.is_some_and(|at| now < at) {
            return;
        }
        self.replica(p).backoff = Some(at);
        for member in &config.members {
            self.tell(
                *member,
                p,
                config.id,
                Body::MayForget { member: true },
                None,
            );
        }
    }
}
