//! Members that are not equal, or may not be: they are compared with, and repaired.

use super::{
    chain::{ConfigId, Configuration, Rejection},
    message::{Attempt, Body},
    shard::{Shard, Timer},
};
use crate::id::{NodeId, PartitionId};

/// Comparisons that a node leads at a time, beside those of proposals and changes.
const REPAIRS: usize = 32;

impl Shard {
    // A member that promised somebody a next configuration takes nothing, and finds out itself what
    // became of that; unless it may have forgotten something, and decides nothing. Then the owner ends
    // the promise with a configuration of the same members.
    pub(super) fn member_is_fenced(&mut self, p: PartitionId) {
        let now = self.now.time;
        let patience = self.config.timing.promise * 3;
        let Some(owner) = &mut self.replica(p).owner else {
            return;
        };
        let since = *owner.fenced_since.get_or_insert(now);
        if now < since + patience || !owner.serving {
            return;
        }
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        // One that is filled may wait for just this member: as its next owner, say.
        let change = self.change(p);
        if change.is_some_and(|change| !change.can_wait(&config)) {
            return;
        }
        self.drop_change(p);
        if let Some(owner) = &mut self.replica(p).owner {
            owner.fenced_since = None;
        }
        let next = config.next(config.members.clone());
        self.begin_change(p, &config, next);
    }

    // Members that were not found equal yet, or might not be any more, are compared with.
    pub(super) fn repair(&mut self, p: PartitionId, config: &Configuration) {
        let now = self.now.time;
        let pause = self.config.timing.anti_entropy;
        let Some(view) = self.view.clone() else {
            return;
        };
        let under_way: usize = self
            .replicas
            .values()
            .map(|replica| {
                let repairs = replica.sessions.values();
                repairs
                    .filter(|session| matches!(session.attempt, Attempt::Repair(_)))
                    .count()
            })
            .sum();
        // Nothing may be left undone for longer, whatever was forgotten to wake this.
        self.timers.set_by(Timer::Partition(p), now + pause);
        let Some(owner) = &self.replica(p).owner else {
            return;
        };
        let unequal: Vec<NodeId> = config
            .members
            .iter()
            .copied()
            .filter(|member| {
                owner.installed.contains(member)
                    && !owner.equal.contains(member)
                    && view.is_reachable(*member)
            })
            .collect();
        for member in unequal {
            let running = self.replica(p).sessions.contains_key(&member);
            if !running && under_way >= self.share(REPAIRS) {
                let retry = self.config.timing.retry;
                self.timers.set_by(Timer::Partition(p), now + retry);
                return;
            }
            self.compare_with(p, member, config.id, Attempt::Repair(config.id.epoch));
        }
    }

    /// A comparison has found a replica equal to this one.
    pub(super) fn found_equal(
        &mut self,
        p: PartitionId,
        peer: NodeId,
        id: ConfigId,
        attempt: Attempt,
        root: u64,
        moved: u64,
    ) {
        let has_proposal = self
            .replicas
            .get(&p)
            .is_some_and(|replica| replica.proposal.is_some());
        if has_proposal {
            return self.proposal_found_equal(p, peer, root);
        }
        let strict = self.is_strict();
        let may_be_learner = {
            let Some(owner) = &mut self.replica(p).owner else {
                return;
            };
            let newly = matches!(attempt, Attempt::Repair(_)) && owner.equal.insert(peer);
            // It may not have been written to since it forgot something, and so have said nothing of that.
            owner.learners.remove(&peer) || (newly && strict)
        };
        if may_be_learner {
            self.tell(peer, p, id, Body::Vouch, None);
        }
        if moved > 0 {
            self.counters_up("repaired");
            *self.counters.entry("repaired_bytes").or_default() += moved;
        }
        self.change_found_equal(p, peer, root, moved);
        self.drive(p);
    }

    /// A transfer that belongs to no proposal was refused.
    pub(super) fn transfer_rejected(
        &mut self,
        from: NodeId,
        p: PartitionId,
        attempt: Attempt,
        why: &Rejection,
    ) {
        let known = self.replicas.get_mut(&p).is_some_and(|replica| {
            let of_this = replica
                .sessions
                .get(&from)
                .is_some_and(|session| session.attempt == attempt);
            if of_this {
                replica.sessions.remove(&from);
            }
            of_this
        });
        if let Some(owner) = &mut self.replica(p).owner {
            match why {
                Rejection::Older(_) | Rejection::NotMember if known => {
                    owner.installed.remove(&from);
                    owner.equal.remove(&from);
                }
                _ => {}
            }
        }
        match (attempt, why) {
            (Attempt::Fill(_), _) => self.fill_rejected(from, p, why),
            (Attempt::Repair(_), Rejection::Promised(_)) if known => self.member_is_fenced(p),
            // Another branch, a rival of this one, has joined that one already and settled it: what
            // it had comes from there.
            (Attempt::Join(_), Rejection::Newer(config)) if known => {
                self.meet_rival(p, config);
                self.join_is_over(p);
            }
            _ => {}
        }
    }

    /// A stream to a peer has opened.
    pub(super) fn peer_connected(&mut self, peer: NodeId) {
        self.met_somebody();
        self.greet_with_clock(peer);
        self.greet_with_routes(peer);
        self.look_for_rivals(|owner| owner == peer);
        self.write_again(peer);
    }

    /// A stream to a peer has ended: what was under way on it may be lost.
    pub(super) fn peer_lost(&mut self, peer: NodeId) {
        for replica in self.replicas.values_mut() {
            replica.sessions.remove(&peer);
            if let Some(owner) = &mut replica.owner {
                owner.equal.remove(&peer);
            }
        }
        self.forget_clock(peer);
        self.asks_lost(peer);
    }

    /// A member has not taken a write in: it has to be compared.
    pub(super) fn is_unequal(&mut self, p: PartitionId, member: NodeId) {
        if let Some(owner) = &mut self.replica(p).owner
            && owner.equal.remove(&member)
        {
            let at = self.now.time + self.config.timing.retry;
            self.timers.set_by(Timer::Partition(p), at);
            self.care_soon();
        }
    }
}
