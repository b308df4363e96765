//! Which changes a sitting owner wants: what placement says, if everybody that it names is there.

use super::{
    chain::Configuration,
    change::{Change, Learner, Phase},
    host::{Standing, View},
    shard::{Shard, Timer},
};
use crate::id::{NodeId, PartitionId};

/// Partitions that it changes at a time without making copies.
const CHANGES: usize = 16;

impl Shard {
    // What placement wants, if everybody that it names is there.
    pub(super) fn plan(&mut self, p: PartitionId, config: &Configuration) {
        let now = self.now.time;
        let Some(view) = self.view.clone() else {
            return;
        };
        if let Some(at) = self.replica(p).backoff
            && now < at
        {
            return self.timers.set_by(Timer::Partition(p), at);
        }
        let Some(members) = self.wanted(p, config, &view) else {
            return;
        };
        let newcomers = members.iter().any(|member| !config.has(*member));
        let (fills, changes) = self.changes_under_way();
        let full = if newcomers {
            fills >= self.fills_out()
        } else {
            changes >= self.share(CHANGES)
        };
        if full {
            self.queued_changes.insert(p);
            return;
        }
        self.begin_change(p, config, config.next(members));
    }

    /// As many changes as may be under way at a time are: the next ones begin when others end.
    pub(super) fn begin_queued_changes(&mut self) {
        for _ in 0..CHANGES {
            // Mostly none waits, and this is asked after every few writes.
            if self.queued_changes.is_empty() {
                return;
            }
            let (fills, changes) = self.changes_under_way();
            if fills >= self.fills_out() || changes >= self.share(CHANGES) {
                return;
            }
            let Some(p) = self.queued_changes.pop_first() else {
                return;
            };
            self.drive(p);
        }
    }

    /// Begins a change to `next`.
    pub(super) fn begin_change(
        &mut self,
        p: PartitionId,
        config: &Configuration,
        next: Configuration,
    ) {
        let learners = next
            .members
            .iter()
            .filter(|member| !config.has(**member))
            .map(|member| (*member, Learner::default()))
            .collect();
        let number = self.number();
        let now = self.now.time;
        if let Some(owner) = &mut self.replica(p).owner {
            owner.change = Some(Change {
                next,
                number,
                learners,
                phase: Phase::Filling,
                asked: None,
                began: now,
            });
        }
        self.counters_up("changes");
        self.change_goes_on(p, config);
    }

    pub(super) fn changes_under_way(&self) -> (usize, usize) {
        let mut counts = (0, 0);
        for replica in self.replicas.values() {
            if let Some(change) = replica.owner.as_ref().and_then(|o| o.change.as_ref()) {
                if change.learners.is_empty() {
                    counts.1 += 1;
                } else {
                    counts.0 += 1;
                }
            }
        }
        counts
    }

    // The members that a partition should have; `None` if that is what it has, or cannot be now.
    pub(super) fn wanted(
        &self,
        p: PartitionId,
        config: &Configuration,
        view: &View,
    ) -> Option<Vec<NodeId>> {
        let own = self.own;
        let here = |node: &NodeId| {
            *node == own
                || (view.is_reachable(*node) && view.standing(*node) == Some(Standing::Living))
        };
        let target = view.target.members(p);
        let possible = !target.is_empty() && target.iter().all(here);
        if view.leaving {
            // For good: placement names others. To be back: a backup owns it meanwhile.
            if possible && !target.contains(&own) {
                return Some(target.to_vec());
            }
            let heir = config
                .members
                .iter()
                .copied()
                .find(|member| *member != own && here(member))?;
            let mut members = vec![heir];
            members.extend(config.members.iter().filter(|m| **m != heir && **m != own));
            members.push(own);
            return Some(members);
        }
        let mut members = target.to_vec();
        members.extend(self.kept_listed(config, target, view));
        (possible && members != config.members).then_some(members)
    }

    // Where fewer nodes can be seen than there are members, those that are not known to have failed stay
    // listed; strict: those that failed, too, until a copy elsewhere replaces them. It makes no majority
    // larger than it was. A node that sees nobody, or has just started and was told of nobody yet, may not
    // name itself alone: others would drop their copies once they had agreed to that.
    fn kept_listed(&self, config: &Configuration, target: &[NodeId], view: &View) -> Vec<NodeId> {
        let stays = |member: &NodeId| match view.standing(*member) {
            Some(Standing::Leaving | Standing::Gone) => false,
            _ => !target.contains(member) && (view.is_strict() || !self.is_gone(*member)),
        };
        let missing = config.members.iter().copied().filter(stays);
        let room = config.members.len().saturating_sub(target.len());
        missing.take(room).collect()
    }
}
