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
    chain::{Ballot, ConfigId, Configuration},
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

/// A change that came to nothing is tried again after this.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// A change under way.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) next: Configuration,
    pub(super) number: u64,
    /// Newcomers: whether they agreed, and the root that they were found to have.
    pub(super) learners: BTreeMap<NodeId, Learner>,
    pub(super) phase: Phase,
    pub(super) asked: Option<Time>,
    pub(super) began: Time,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Learner {
    pub(super) agreed: bool,
    pub(super) equal: bool,
    /// What was sent for its copy (bytes).
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) enum Phase {
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

    /// Whether it is what placement wants; otherwise a closed branch is joined with it, or settled.
    pub(super) fn is_placements(&self, present: &Configuration) -> bool {
        self.next.unmerged.is_none() && self.next.members != present.members
    }

    /// Whether it can be dropped for another one, and begun anew later: it fills newcomers, and no request waits.
    pub(super) fn can_wait(&self, present: &Configuration) -> bool {
        !self.is_fenced() && self.is_placements(present)
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

    pub(super) fn change(&mut self, p: PartitionId) -> Option<&mut Change> {
        self.replicas.get_mut(&p)?.owner.as_mut()?.change.as_mut()
    }

    // Rule 2: from now on nothing changes here, until it is given up or installed.
    pub(super) fn fence(&mut self, p: PartitionId, config: &Configuration) {
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
        self.keep_record(p);
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
        self.keep_record(p);
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
            accepted: BTreeSet::new(),
        };
        change.asked = None;
        replica.sessions.clear();
        let after = self.keep_record(p);
        self.ask_to_accept_change(p, config);
        self.accept_after(after, p, config.id, ballot);
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
