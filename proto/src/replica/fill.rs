//! Newcomers of a change become copies, or the change is given up.

use super::{
    chain::{Configuration, Rejection},
    change::AGAIN,
    change::Learner,
    message::{Attempt, Body},
    shard::{Shard, Timer},
};
use crate::id::{NodeId, PartitionId};

impl Shard {
    pub(super) fn fill(&mut self, p: PartitionId, config: &Configuration) {
        let own = self.own;
        let now = self.now.time;
        let retry = self.config.timing.retry;
        let Some(view) = self.view.clone() else {
            return;
        };
        let still = self.wanted(p, config, &view);
        let Some(owner) = self.replica(p).owner.as_mut() else {
            return;
        };
        let equal = owner.equal.clone();
        let Some(change) = &mut owner.change else {
            return;
        };
        let planned = still.as_ref() == Some(&change.next.members);
        let unwanted = change.is_placements(config) && !planned;
        let lost = change
            .learners
            .keys()
            .any(|learner| !view.is_reachable(*learner));
        if unwanted || lost {
            self.drop_change(p);
            self.replica(p).backoff = Some(now + AGAIN);
            return self.timers.set_by(Timer::Partition(p), now + AGAIN);
        }
        let has = |node: &NodeId| {
            *node == own
                || equal.contains(node)
                || change
                    .learners
                    .get(node)
                    .is_some_and(|learner| learner.equal)
        };
        let filled = change.learners.values().all(|learner| learner.equal);
        let many = change.next.members.iter().filter(|node| has(node)).count();
        if filled && has(&change.next.owner()) && many >= change.next.majority() {
            return self.fence(p, config);
        }
        let attempt = Attempt::Fill(change.number);
        let ask = change.asked.is_none_or(|at| now >= at + retry);
        if ask {
            change.asked = Some(now);
        }
        let learners: Vec<(NodeId, Learner)> = change
            .learners
            .iter()
            .map(|(node, l)| (*node, *l))
            .collect();
        for (learner, state) in learners {
            if !state.agreed && ask {
                self.ask_to_fill(learner, p, attempt);
            } else if state.agreed && !state.equal {
                self.compare_with(p, learner, config.id, attempt);
            }
        }
    }

    /// Asks a newcomer to become a copy.
    pub(super) fn ask_to_fill(&mut self, newcomer: NodeId, p: PartitionId, attempt: Attempt) {
        if let Some(chain) = self.chain(p) {
            let config = Box::new(chain.config.clone());
            let id = config.id;
            self.tell(newcomer, p, id, Body::Fill { attempt, config }, None);
        }
    }

    /// A newcomer agreed to become a copy.
    pub(super) fn hear_filling(&mut self, from: NodeId, p: PartitionId, attempt: Attempt) {
        let Some(id) = self.chain(p).map(|chain| chain.config.id) else {
            return;
        };
        if self.replica(p).proposal.is_some() {
            return self.compare_with(p, from, id, attempt);
        }
        let Some(change) = self.change(p) else {
            return;
        };
        if attempt != Attempt::Fill(change.number) {
            return;
        }
        if let Some(learner) = change.learners.get_mut(&from) {
            learner.agreed = true;
            self.compare_with(p, from, id, attempt);
        }
    }

    pub(super) fn fill_rejected(&mut self, from: NodeId, p: PartitionId, why: &Rejection) {
        let now = self.now.time;
        let of_this = self
            .change(p)
            .is_some_and(|change| change.learners.contains_key(&from) && !change.is_fenced());
        if (of_this || self.fills(p, from))
            && let (Rejection::Older(_), Some(chain)) = (why, self.chain(p))
        {
            // It was a member once, and has not heard that it is not any more; or it is in another branch, and
            // says so to this.
            let config = chain.config.clone();
            self.tell(from, p, config.id, Body::Install(Box::new(config)), None);
        }
        if !of_this {
            return;
        }
        self.drop_change(p);
        if *why == Rejection::Busy {
            self.newcomer_is_busy();
        }
        self.replica(p).backoff = Some(now + AGAIN);
        self.timers.set_by(Timer::Partition(p), now + AGAIN);
    }

    // It is not wanted any more, or cannot be: those who made copies for it may stop.
    pub(super) fn drop_change(&mut self, p: PartitionId) {
        let Some(id) = self.chain(p).map(|chain| chain.config.id) else {
            return;
        };
        let replica = self.replica(p);
        replica.sessions.clear();
        let Some(change) = replica.owner.as_mut().and_then(|o| o.change.take()) else {
            return;
        };
        // They may drop what they were given, of which all members were sent the same: whether those have it
        // is found out anew before they do.
        let own = self.own;
        if change.learners().next().is_some()
            && let Some(owner) = &mut self.replica(p).owner
        {
            owner.equal.retain(|member| *member == own);
        }
        let attempt = Attempt::Fill(change.number);
        for learner in change.learners.keys() {
            self.tell(*learner, p, id, Body::Abandon { attempt }, None);
        }
    }
}
