//! Those that are no members yet, or not any more: they are filled, found equal, and drop what they
//! have once all who are members have it.

use super::{
    chain::{Ancestor, ConfigId, Configuration, Rejection},
    message::{Attempt, Body},
    omit::Omit,
    shard::{Filler, Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    store::partitions::Batch,
};

/// A node takes part in so many fills at a time, of those that others do to it.
const FILLS_IN: usize = 4;

impl Shard {
    /// The owner wants this node to become a copy (rule 6: it is a learner until a configuration
    /// names it).
    pub(super) fn hear_fill(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        attempt: Attempt,
        config: &Configuration,
    ) {
        if config.id != id || !config.is_legal() {
            return self.counters_up("rejected_message");
        }
        let now = self.now.time;
        let fills = self
            .replicas
            .iter()
            .filter(|(other, replica)| **other != p && replica.is_filled(now))
            .count();
        let strict = self.is_strict();
        let own = self.own;
        if let Some(chain) = self.chain(p)
            && chain.config.id != id
            && (chain.config.ends(id) || chain.config.has(own))
        {
            let why = match chain.matches(id) {
                Err(why) => why,
                Ok(()) => Rejection::OtherAttempt,
            };
            return self.reject(from, p, id, attempt, why);
        }
        // What a joined branch had is kept until that is settled; it may be by now.
        let kept = self
            .chain(p)
            .filter(|chain| chain.config.unmerged.is_some())
            .map(|chain| chain.matches(id).err().unwrap_or(Rejection::Busy));
        if let Some(why) = kept {
            return self.reject(from, p, id, attempt, why);
        }
        // What is kept of another branch is joined by whoever goes on in that: it is kept for them, and they are
        // told. Not if all that are left of them are in the branch that asks: they may never have been in the other.
        let foreign = self.is_of_another_branch(p, config);
        let goes_on = |member: &NodeId| !self.is_gone(*member) && !config.has(*member);
        if let Some(chain) = self.chain(p).filter(|_| foreign && !strict)
            && chain.config.is_rival_of(config)
            && chain.config.members.iter().any(goes_on)
        {
            let why = Rejection::Diverged(Box::new(chain.config.clone()));
            return self.reject(from, p, id, attempt, why);
        }
        // Rule 9.
        if self.clock_ahead().is_some() {
            return self.reject(from, p, id, attempt, Rejection::ClockAhead);
        }
        if fills >= self.share(FILLS_IN) {
            return self.reject(from, p, id, attempt, Rejection::Busy);
        }
        // One that has missed the configuration in which this node is filled does not undo that.
        let missed = self.replicas.get(&p).is_some_and(|replica| {
            let by = replica.filled_by.filter(|_| replica.is_filled(now));
            let made_for = [by.map(|by| by.id), replica.held_whole().map(|held| held.id)];
            let later = |made: &ConfigId| made.branch == id.branch && made.epoch > id.epoch;
            made_for.iter().flatten().any(later)
        });
        if missed {
            return self.reject(from, p, id, attempt, Rejection::Busy);
        }
        let present = self.replica(p).filled_by;
        let present = present.filter(|by| by.is(from, id, attempt));
        // Rule 6: what a former member had is not merged (see `difference`); rule A5: nor is what is too old.
        // A strict owner overwrites it, but not what is of its own epoch (rule 4): with that the copy would
        // never be equal.
        let anew = present.is_none() && !self.is_member(p) && !self.omits(Omit::FreshLearner);
        let of_this_epoch = self.replica(p).latest_epoch >= id.epoch;
        let drops = anew && (strict && of_this_epoch || self.is_stale(p));
        // What may be counted on is dropped only if it turns out to differ.
        let later = drops && self.holds_equal(p, id);
        if drops && !later {
            self.clear(p);
        }
        self.replica(p).filled_by = Some(Filler {
            node: from,
            id,
            attempt,
            heard: now,
            equal: present.is_some_and(|by| by.equal),
            begun_with_held: present.is_some_and(|by| by.begun_with_held) || later,
        });
        let at = now + Filler::PATIENCE;
        self.timers.set_by(Timer::Partition(p), at);
        self.tell(from, p, id, Body::Filling { attempt }, None);
    }

    // Whether anything that is kept here comes from a branch that a configuration does not descend from. Epochs of
    // two branches say nothing about each other: what is older could replace what was acknowledged.
    fn is_of_another_branch(&self, p: PartitionId, config: &Configuration) -> bool {
        let Some(replica) = self.replicas.get(&p) else {
            return false;
        };
        let sources = [
            replica.chain.as_ref().map(|chain| chain.config.id),
            replica.held.map(|held| held.id),
            replica.filled_by.map(|by| by.id),
        ];
        let of_another = |source: ConfigId| source != config.id && !config.descends_from(source);
        replica.digests.entries() > 0 && sources.into_iter().flatten().any(of_another)
    }

    /// The owner does not want the copy any more.
    pub(super) fn hear_abandon(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        attempt: Attempt,
    ) {
        let known = self.replicas.get(&p).and_then(|replica| replica.filled_by);
        if known.is_some_and(|by| by.is(from, id, attempt)) {
            self.replica(p).filled_by = None;
            self.let_go(p);
        }
    }

    /// Whoever filled this node has given it up: what it brought is of no use, unless it was found equal,
    /// or this node was a member once: then it is kept until it may be forgotten.
    pub(super) fn filling_is_over(&mut self, p: PartitionId) {
        let now = self.now.time;
        let Some(replica) = self.replicas.get_mut(&p) else {
            return;
        };
        if replica.filled_by.is_none() {
            return;
        }
        if replica.is_filled(now) {
            self.timers
                .set_by(Timer::Partition(p), now + Filler::PATIENCE);
            return;
        }
        replica.filled_by = None;
        if replica.held.is_none() {
            self.let_go(p);
        }
    }

    /// Drops all entries of a partition, and that they were held; its chain record stays (rule 5).
    pub(super) fn clear(&mut self, p: PartitionId) {
        let digests = super::digest::Digests::new(self.buckets);
        let replica = self.replica(p);
        let was_held = replica.held.take().is_some();
        if replica.digests.entries() == 0 && !was_held {
            return;
        }
        replica.digests = digests;
        replica.latest_epoch = 0;
        let chains = was_held.then(|| (p, replica.record()));
        self.routes.is_held_otherwise(p);
        self.write_batch(Batch {
            cleared: vec![p],
            chains: chains.into_iter().collect(),
            ..Batch::default()
        });
        self.counters_up("cleared");
    }

    /// The owner found this node equal: it counts again (rule 8).
    pub(super) fn hear_vouch(&mut self, from: NodeId, p: PartitionId, id: ConfigId) {
        let replica = self.replica(p);
        if let Some(chain) = replica.chain.as_mut()
            && chain.config.id == id
            && chain.config.owner() == from
            && chain.learner
        {
            chain.learner = false;
            replica.backoff = None;
            self.keep_record(p);
            self.counters_up("vouched");
        }
    }

    /// A former member asks whether it may drop what it has: only once all who are members have all,
    /// and it knows that it is none.
    pub(super) fn may_forget(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        is_member: bool,
    ) {
        let Some(chain) = self.chain(p) else {
            if is_member {
                // It names this node as its owner, perhaps, which was never told.
                self.reject(from, p, id, Attempt::Repair(0), Rejection::NotMember);
            }
            return;
        };
        let config = chain.config.clone();
        if config.ends(id) || (config.has(from) && config.descends_from(id)) {
            return self.tell(from, p, config.id, Body::Install(Box::new(config)), None);
        }
        if let Err(why) = chain.matches(id) {
            // A member goes on from there one day, or has done so.
            let left = |last: &Ancestor| !last.over && last.id.branch == id.branch;
            if is_member && config.ancestors.iter().any(left) {
                self.replica(p).left_behind = Some(self.now.time);
            }
            return self.reject(from, p, id, Attempt::Repair(0), why);
        }
        if config.owner() == from {
            // It may have forgotten something, and will not serve again: nobody need have missed it.
            return self.owner_is_elsewhere(p, from);
        }
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let (Some(chain), Some(owner)) = (&replica.chain, &replica.owner) else {
            return;
        };
        // A branch that went on alone is made whole first: until then what others keep is all there is beside it.
        // One that is about to be a member again needs what it has: only differences are sent then. Whether it
        // is, nobody can tell who has not heard of it yet, having just started.
        let Some(target) = self
            .view()
            .filter(|view| view.is_living(from))
            .map(|view| view.target.members(p))
        else {
            return;
        };
        let settled = owner.serving
            && owner.change.is_none()
            && !chain.is_fenced()
            && replica.proposal.is_none()
            && config.members.len() >= target.len()
            && !target.contains(&from)
            && !chain.config.has(from)
            && chain.config.unmerged.is_none()
            && chain.config.id == id
            && chain
                .config
                .members
                .iter()
                .all(|member| owner.equal.contains(member) && owner.installed.contains(member));
        if settled {
            let id = chain.config.id;
            self.tell(from, p, id, Body::Forget, None);
        }
    }

    pub(super) fn hear_forget(&mut self, from: NodeId, p: PartitionId, id: ConfigId) {
        let now = self.now.time;
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let known = [
            replica.chain.as_ref().map(|chain| chain.config.id),
            replica.held.map(|held| held.id),
        ];
        let follows = known.contains(&Some(id)) || self.routes.is_owner(p, from, id);
        if follows && !self.is_member(p) && !replica.is_filled(now) {
            self.clear(p);
            self.let_go(p);
        }
    }

    /// A former member, or one that may be a member by now, asks the owner whether what it keeps is still
    /// needed.
    pub(super) fn ask_to_forget(&mut self, p: PartitionId) {
        let own = self.own;
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let config = replica.chain.as_ref().map(|chain| &chain.config);
        let kept = config.filter(|config| !config.has(own) && replica.digests.entries() > 0);
        let held = replica.held.map(|held| held.id);
        let Some(id) = held.or(kept.map(|config| config.id)) else {
            return;
        };
        let now = self.now.time;
        if let Some(at) = replica.backoff.filter(|at| now < *at) {
            return self.timers.set_by(Timer::Partition(p), at);
        }
        // An answer that this branch has a rival wakes this again: not more often than that.
        self.replica(p).backoff = Some(now + self.config.timing.proposal);
        if let Some(owner) = self.routes.owner(p)
            && owner != own
        {
            let member = false;
            self.tell(owner, p, id, Body::MayForget { member }, None);
        }
        let at = now + self.config.timing.forget;
        self.timers.set_by(Timer::Partition(p), at);
    }
}
