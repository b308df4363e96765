//! Changes by the sitting owner: adding and dropping members, handing over.
//!
//! ```text
//!   Filling ──newcomers equal──> Fenced ──enough verified equal──> Accepting ──enough──> chosen
//!      |                           |                                   |
//!      └── a newcomer is gone      └── 200 ms are over: it goes on     └── 1 s: the outcome is unknown until a
//!          or another plan             as before                           proposal has found out
//! ```
//!
//! The owner fences itself for every change that it makes (rule 2): it queues requests, and
//! what it has does not change while copies are verified. It owns ballot 0 of its epoch,
//! and proposes one value with it at the most.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    chain::{Ballot, ConfigId, Configuration, Rejection},
    host::{Standing, View},
    message::{Attempt, Body},
    owner::millis,
    proposal::Purpose,
    shard::{Shard, Timer},
};
use crate::{
    event::Event,
    id::{NodeId, PartitionId},
    time::Time,
};

/// Partitions of which this node makes new copies at a time.
const FILLS_OUT: usize = 4;
/// Partitions that it changes at a time without making copies.
const CHANGES: usize = 16;
/// A change that came to nothing is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// A change under way.
#[derive(Debug)]
pub(super) struct Change {
    next: Configuration,
    number: u64,
    /// Newcomers: whether they agreed, and the root that they were found to have.
    learners: BTreeMap<NodeId, Learner>,
    phase: Phase,
    asked: Option<Time>,
    pub(super) began: Time,
}

#[derive(Clone, Copy, Debug, Default)]
struct Learner {
    agreed: bool,
    equal: bool,
    /// What was sent for its copy (bytes).
    bytes: u64,
}

#[derive(Debug)]
enum Phase {
    Filling,
    Fenced {
        since: Time,
        verified: BTreeSet<NodeId>,
    },
    Accepting {
        since: Time,
        accepted: BTreeSet<NodeId>,
    },
}

impl Change {
    /// Newcomers that get every write from now on.
    pub(super) fn learners(&self) -> impl Iterator<Item = NodeId> {
        let agreed = self.learners.iter().filter(|(_, learner)| learner.agreed);
        agreed.map(|(node, _)| *node)
    }

    /// Whether requests have to wait.
    pub(super) fn is_fenced(&self) -> bool {
        !matches!(self.phase, Phase::Filling)
    }

    /// What is wanted, and how far it is, for people.
    pub(super) fn describe(&self) -> (&'static str, &[NodeId]) {
        let phase = match self.phase {
            Phase::Filling => "filling",
            Phase::Fenced { .. } => "verifying",
            Phase::Accepting { .. } => "deciding",
        };
        (phase, &self.next.members)
    }
}

/// Rule 3: ballot 0 belongs to the owner.
fn owners_ballot(own: NodeId) -> Ballot {
    Ballot {
        counter: 0,
        node: own,
    }
}

impl Shard {
    /// Goes on with a change, or begins one that placement wants.
    pub(super) fn change_goes_on(&mut self, p: PartitionId, config: &Configuration) {
        let changing = self
            .replicas
            .get(&p)
            .and_then(|replica| replica.owner.as_ref())
            .is_some_and(|owner| owner.change.is_some());
        if !changing {
            return self.plan(p, config);
        }
        let now = self.now.time;
        let retry = self.config.timing.retry;
        self.timers.set_by(Timer::Partition(p), now + retry);
        match self.change(p).map(|change| &change.phase) {
            Some(Phase::Filling) => self.fill(p, config),
            Some(Phase::Fenced { since, .. }) => {
                let due = *since + self.config.timing.fence;
                if now >= due {
                    return self.unfence(p);
                }
                self.timers.set_by(Timer::Partition(p), due);
                self.verify(p, config);
            }
            Some(Phase::Accepting { since, .. }) => {
                let late = now >= *since + self.config.timing.proposal;
                if late {
                    return self.propose(p, Purpose::TakeOver);
                }
                self.ask_to_accept_change(p, config);
                self.change_is_accepted(p, config);
            }
            None => {}
        }
    }

    fn change(&mut self, p: PartitionId) -> Option<&mut Change> {
        self.replicas.get_mut(&p)?.owner.as_mut()?.change.as_mut()
    }

    // What placement wants, if everybody that it names is there.
    fn plan(&mut self, p: PartitionId, config: &Configuration) {
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
            fills >= self.share(FILLS_OUT)
        } else {
            changes >= self.share(CHANGES)
        };
        if full {
            self.queued_changes.insert(p);
            return;
        }
        let mut next = config.next(members);
        next.unmerged = None;
        self.begin_change(p, config, next);
    }

    /// As many changes as may be under way at a time are: the next ones begin when others end.
    pub(super) fn begin_queued_changes(&mut self) {
        for _ in 0..CHANGES {
            let (fills, changes) = self.changes_under_way();
            if fills >= self.share(FILLS_OUT) || changes >= self.share(CHANGES) {
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

    fn changes_under_way(&self) -> (usize, usize) {
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
    fn wanted(&self, p: PartitionId, config: &Configuration, view: &View) -> Option<Vec<NodeId>> {
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
        if possible && target != config.members {
            return Some(target.to_vec());
        }
        None
    }

    fn fill(&mut self, p: PartitionId, config: &Configuration) {
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
        // A closed branch that was joined is settled by a change to the same members.
        let same = change.next.members == config.members;
        let planned = still.as_ref() == Some(&change.next.members);
        let lost = change
            .learners
            .keys()
            .any(|learner| !view.is_reachable(*learner));
        if !(same || planned) || lost {
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
                self.tell(learner, p, config.id, Body::Fill { attempt }, None);
            } else if state.agreed && !state.equal {
                self.compare_with(p, learner, config.id, attempt);
            }
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
        if !of_this {
            return;
        }
        if let (Rejection::Older(_), Some(chain)) = (why, self.chain(p)) {
            // It was a member once, and has not heard that it is not any more.
            let config = chain.config.clone();
            self.tell(from, p, config.id, Body::Install(Box::new(config)), None);
        }
        let pause = match why {
            Rejection::Busy => AGAIN / 5,
            _ => AGAIN,
        };
        self.drop_change(p);
        self.replica(p).backoff = Some(now + pause);
        self.timers.set_by(Timer::Partition(p), now + pause);
    }

    // It is not wanted any more, or cannot be: those who made copies for it may stop.
    fn drop_change(&mut self, p: PartitionId) {
        let Some(id) = self.chain(p).map(|chain| chain.config.id) else {
            return;
        };
        let replica = self.replica(p);
        replica.sessions.clear();
        let Some(change) = replica.owner.as_mut().and_then(|o| o.change.take()) else {
            return;
        };
        let attempt = Attempt::Fill(change.number);
        for learner in change.learners.keys() {
            self.tell(*learner, p, id, Body::Abandon { attempt }, None);
        }
    }

    // Rule 2: from now on nothing changes here, until it is given up or installed.
    fn fence(&mut self, p: PartitionId, config: &Configuration) {
        let own = self.own;
        let now = self.now.time;
        let replica = self.replica(p);
        let Some(chain) = &mut replica.chain else {
            return;
        };
        if chain.prepare(own, config.id, owners_ballot(own)).is_err() {
            return;
        }
        replica.sessions.clear();
        replica.promised_at = Some(now);
        if let Some(change) = self.change(p) {
            change.phase = Phase::Fenced {
                since: now,
                verified: BTreeSet::from([own]),
            };
            change.asked = None;
        }
        self.keep_chain(p);
        // Writes under way go out before the comparison, on the same streams.
        self.send_writes();
        self.timers
            .set_by(Timer::Partition(p), now + self.config.timing.fence);
        self.verify(p, config);
    }

    // Before `Accept` is sent the owner may give up, and go on.
    fn unfence(&mut self, p: PartitionId) {
        let own = self.own;
        let now = self.now.time;
        let replica = self.replica(p);
        replica.backoff = Some(now + AGAIN);
        if let Some(chain) = &mut replica.chain
            && chain.promised == Some(owners_ballot(own))
            && chain.accepted.is_none()
        {
            chain.promised = None;
            replica.promised_at = None;
        }
        self.drop_change(p);
        self.counters_up("changes_given_up");
        self.keep_chain(p);
        self.timers.set_by(Timer::Partition(p), now + AGAIN);
        self.release(p);
    }

    fn verify(&mut self, p: PartitionId, config: &Configuration) {
        let own = self.own;
        let Some(change) = self.change(p) else {
            return;
        };
        let Phase::Fenced { verified, .. } = &change.phase else {
            return;
        };
        let learners: BTreeSet<NodeId> = change.learners.keys().copied().collect();
        let verified = verified.clone();
        let next = change.next.clone();
        let number = change.number;
        let enough = learners.is_subset(&verified)
            && verified.contains(&next.owner())
            && next.members.iter().filter(|m| verified.contains(m)).count() >= next.majority();
        if enough {
            return self.accept_change(p, config);
        }
        for member in next.members {
            if member == own || verified.contains(&member) {
                continue;
            }
            let attempt = if learners.contains(&member) {
                Attempt::Fill(number)
            } else {
                Attempt::Repair(config.id.epoch)
            };
            self.compare_with(p, member, config.id, attempt);
        }
    }

    /// A comparison has found a replica equal, perhaps for a change.
    pub(super) fn change_found_equal(
        &mut self,
        p: PartitionId,
        peer: NodeId,
        root: u64,
        moved: u64,
    ) {
        let present = self.root(p);
        let Some(change) = self.change(p) else {
            return;
        };
        if let Some(learner) = change.learners.get_mut(&peer) {
            learner.bytes += moved;
        }
        match &mut change.phase {
            Phase::Filling => {
                if let Some(learner) = change.learners.get_mut(&peer) {
                    learner.equal = true;
                }
            }
            // Rule 4: only if equal to what the owner has, fenced.
            Phase::Fenced { verified, .. } if root == present => {
                verified.insert(peer);
            }
            _ => {}
        }
    }

    fn accept_change(&mut self, p: PartitionId, config: &Configuration) {
        let own = self.own;
        let now = self.now.time;
        let replica = self.replica(p);
        let Some(change) = replica.owner.as_mut().and_then(|o| o.change.as_mut()) else {
            return;
        };
        let Some(chain) = &mut replica.chain else {
            return;
        };
        let ballot = owners_ballot(own);
        if chain.accept(own, config.id, ballot, &change.next).is_err() {
            return;
        }
        change.phase = Phase::Accepting {
            since: now,
            accepted: BTreeSet::from([own]),
        };
        change.asked = None;
        replica.sessions.clear();
        self.keep_chain(p);
        self.ask_to_accept_change(p, config);
        self.change_is_accepted(p, config);
    }

    fn ask_to_accept_change(&mut self, p: PartitionId, config: &Configuration) {
        let own = self.own;
        let now = self.now.time;
        let retry = self.config.timing.retry;
        let Some(change) = self.change(p) else {
            return;
        };
        let Phase::Accepting { accepted, .. } = &change.phase else {
            return;
        };
        if change.asked.is_some_and(|at| now < at + retry) {
            return;
        }
        let missing: Vec<NodeId> = config
            .members
            .iter()
            .copied()
            .filter(|member| !accepted.contains(member))
            .collect();
        let next = change.next.clone();
        change.asked = Some(now);
        let after = self.durable();
        for member in missing {
            let body = Body::Accept {
                ballot: owners_ballot(own),
                next: Box::new(next.clone()),
            };
            self.tell(member, p, config.id, body, Some(after));
        }
    }

    pub(super) fn change_accepted(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        ballot: Ballot,
    ) {
        let own = self.own;
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        let Some(change) = self.change(p) else {
            return;
        };
        if config.id != id || ballot != owners_ballot(own) {
            return;
        }
        if let Phase::Accepting { accepted, .. } = &mut change.phase {
            accepted.insert(from);
            self.change_is_accepted(p, &config);
        }
    }

    fn change_is_accepted(&mut self, p: PartitionId, config: &Configuration) {
        let Some(change) = self.change(p) else {
            return;
        };
        let Phase::Accepting { accepted, .. } = &change.phase else {
            return;
        };
        let (accepted, next) = (accepted.clone(), change.next.clone());
        match self.is_accepted(config, &accepted) {
            Some(true) => {
                self.tell_of_copies(p);
                self.chosen(p, &next);
            }
            Some(false) => {}
            None => self.propose(p, Purpose::TakeOver),
        }
    }

    // The newcomers of a change that is done are copies now.
    fn tell_of_copies(&mut self, p: PartitionId) {
        let now = self.now.time;
        let Some(change) = self.change(p) else {
            return;
        };
        let took_ms = millis(now.saturating_since(change.began));
        let copies: Vec<(NodeId, u64)> = change
            .learners
            .iter()
            .map(|(node, learner)| (*node, learner.bytes))
            .collect();
        for (node, bytes) in copies {
            self.counters_up("copied");
            *self.counters.entry("copied_bytes").or_default() += bytes;
            self.event(Event::PartitionCopied {
                partition: p,
                to: self.name(node),
                bytes,
                took_ms,
            });
        }
    }

    /// A member has promised a larger ballot to somebody: the outcome is theirs to find.
    pub(super) fn change_rejected(&mut self, p: PartitionId, id: ConfigId, ballot: Ballot) {
        let own = self.own;
        let current = self.chain(p).is_some_and(|chain| chain.config.id == id);
        let of_change = self.change(p).is_some() && ballot == owners_ballot(own);
        if current && of_change {
            if let Some(owner) = &mut self.replica(p).owner {
                owner.change = None;
            }
            self.drive(p);
        }
    }
}
