//! Choosing the next configuration: take-over, resuming, closing a branch.
//!
//! ```text
//!   Preparing ──enough promised──> Merging ──equal on enough──> Accepting ──enough──> chosen
//!       ^                             |                             |
//!       └── anew, with a larger ballot, if nothing moves for a second ──┘
//! ```
//!
//! How many are enough is the only difference between the two modes: a majority (`strict`), or every
//! member that is not declared failed (`available`). In `available` mode a minority goes on in a
//! branch of its own, and nothing is accepted for that: whoever is in a branch of its own
//! answers so, and does not count (rule A1).

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;

use super::{
    chain::{Ballot, ConfigId, Configuration, Rejection},
    host::Standing,
    message::{Attempt, Body},
    omit::Omit,
    shard::{Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    kv::version::Hlc,
    time::Time,
};

/// Why a member that answered does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mute {
    /// It is in another branch.
    Elsewhere,
    /// It may have forgotten what it acknowledged (rule 8).
    Forgetful,
}

impl Mute {
    /// For people.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Elsewhere => "went on alone",
            Self::Forgetful => "may have forgotten what it acknowledged",
        }
    }
}

/// Why a next configuration is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The owner is gone, or this node is the owner and begins anew.
    TakeOver,
    /// This branch is to be joined into that one.
    Close(u64),
    /// An operator said that those who are here shall go on, whatever is missing.
    Recover,
    /// Most members went on in that branch by an operator's word: what the others have is joined to
    /// it, though they cannot choose so.
    Follow(u64),
}

impl Purpose {
    /// Whether those count who may have forgotten something.
    pub(super) fn by_word(self) -> bool {
        matches!(self, Self::Recover | Self::Follow(_))
    }
}

/// A proposal under way at this node.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) purpose: Purpose,
    pub(super) ballot: Ballot,
    pub(super) began: Time,
    pub(super) moved: Time,
    pub(super) phase: Phase,
    /// Those that answered, but do not count, and why.
    pub(super) mute: BTreeMap<NodeId, Mute>,
    pub(super) promised: BTreeMap<NodeId, Promised>,
    /// The owner before.
    pub(super) from: NodeId,
    /// When each member was asked last, of those that could be.
    pub(super) asked: BTreeMap<NodeId, Time>,
}

#[derive(Debug)]
pub(super) struct Promised {
    pub(super) accepted: Option<(Ballot, Configuration)>,
    /// The root that it was last found to have.
    pub(super) root: u64,
}

#[derive(Debug)]
pub(super) enum Phase {
    Preparing,
    Merging {
        next: Configuration,
        forks: bool,
        /// Of members that are new in `next`.
        filled: BTreeMap<NodeId, Option<u64>>,
    },
    Accepting {
        next: Configuration,
        accepted: BTreeSet<NodeId>,
    },
}

impl Shard {
    /// Whether a member was declared failed, left, or has been heard of by nobody for long.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        // While this node leaves it counts as gone for others; for itself it does its part.
        let Some(view) = self.view.as_ref().filter(|_| node != self.own) else {
            return false;
        };
        match view.standing(node) {
            Some(Standing::Living | Standing::Leaving) => false,
            Some(Standing::Returning | Standing::Failed | Standing::Gone) => true,
            None => self
                .first_view
                .is_some_and(|first| self.now.time >= first + self.config.timing.unknown),
        }
    }

    /// Whether any of these is not gone.
    pub(super) fn somebody_is_left(&self, members: &[NodeId]) -> bool {
        members.iter().any(|member| !self.is_gone(*member))
    }

    /// Whether most members of a configuration are not gone.
    pub(super) fn majority_lives(&self, config: &Configuration) -> bool {
        let gone = config
            .members
            .iter()
            .filter(|member| self.is_gone(**member));
        config.members.len() - gone.count() >= config.majority()
    }

    pub(super) fn is_strict(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.is_strict())
    }

    // Whether only majorities decide.
    pub(super) fn needs_majority(&self) -> bool {
        self.is_strict() && !self.omits(Omit::StrictMajority)
    }

    /// Begins to choose the next configuration of a partition that this node is a member of. Not in a node's last
    /// moments: others go on without it already, and what it chose alone would be out of reach until it is back.
    pub(super) fn propose(&mut self, p: PartitionId, purpose: Purpose) {
        let own = self.own;
        if self
            .view
            .as_ref()
            .is_some_and(|view| view.said_farewell(own))
        {
            return;
        }
        let now = self.now.time;
        let root = self.root(p);
        let replica = self.replica(p);
        let counter = replica
            .chain
            .as_ref()
            .and_then(|chain| chain.promised)
            .map_or(0, |ballot| ballot.counter);
        let Some(chain) = &mut replica.chain else {
            return;
        };
        let ballot = Ballot {
            counter: counter.saturating_add(1),
            node: own,
        };
        let (id, config) = (chain.config.id, chain.config.clone());
        // Rule 3: a proposer promises to itself before it asks others.
        let promised = if purpose.by_word() {
            chain.prepare_by_word(own, id, ballot)
        } else {
            chain.prepare(own, id, ballot)
        };
        if promised.is_err() {
            return;
        }
        let accepted = chain.accepted.clone();
        if let Some(owner) = &mut replica.owner {
            owner.change = None;
        }
        replica.sessions.clear();
        replica.promised_at = Some(now);
        replica.proposal = Some(Proposal {
            purpose,
            ballot,
            began: now,
            moved: now,
            phase: Phase::Preparing,
            mute: BTreeMap::new(),
            promised: BTreeMap::from([(own, Promised { accepted, root })]),
            from: config.owner(),
            asked: BTreeMap::new(),
        });
        self.counters_up("proposals");
        self.care_soon();
        self.keep_record(p);
        self.ask_again(p);
        self.proposal_goes_on(p);
    }

    /// Asks members that have not answered, unless they were asked a moment ago.
    pub(super) fn ask_again(&mut self, p: PartitionId) {
        let now = self.now.time;
        let retry = self.config.timing.retry;
        self.timers.set_by(Timer::Partition(p), now + retry);
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        let view = self.view.clone();
        let Some(proposal) = self.replica(p).proposal.as_mut() else {
            return;
        };
        let (ballot, by_word) = (proposal.ballot, proposal.purpose.by_word());
        let mut bodies = Vec::new();
        for member in &config.members {
            let answered = proposal.mute.contains_key(member)
                || match &proposal.phase {
                    Phase::Preparing => proposal.promised.contains_key(member),
                    Phase::Merging { .. } => true,
                    Phase::Accepting { accepted, .. } => accepted.contains(member),
                };
            let asked = proposal.asked.get(member);
            let reachable = view.as_ref().is_some_and(|view| view.is_reachable(*member));
            if answered || !reachable || asked.is_some_and(|at| now < *at + retry) {
                continue;
            }
            proposal.asked.insert(*member, now);
            let body = match &proposal.phase {
                Phase::Accepting { next, .. } => Body::Accept {
                    ballot,
                    next: Box::new(next.clone()),
                },
                _ => Body::Prepare {
                    ballot,
                    config: Box::new(config.clone()),
                    by_word,
                },
            };
            bodies.push((*member, body));
        }
        // What was promised or accepted here is on the disk before others are asked (rule 3).
        let after = self.durable();
        for (member, body) in bodies {
            self.tell(member, p, config.id, body, Some(after));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn hear_promise(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        ballot: Ballot,
        accepted: Option<(Ballot, Box<Configuration>)>,
        root: u64,
        hlc: Hlc,
    ) {
        self.clock.saw(hlc);
        let Some(proposal) = self.proposal(p, id, ballot) else {
            return;
        };
        let accepted = accepted.map(|(ballot, config)| (ballot, *config));
        if accepted
            .as_ref()
            .is_some_and(|(_, config)| !config.is_legal() || !config.descends_from(id))
        {
            return self.counters_up("rejected_message");
        }
        proposal
            .promised
            .entry(from)
            .or_insert(Promised { accepted, root });
        self.proposal_goes_on(p);
    }

    pub(super) fn hear_accepted(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        ballot: Ballot,
    ) {
        if let Some(proposal) = self.proposal(p, id, ballot) {
            if let Phase::Accepting { accepted, .. } = &mut proposal.phase {
                accepted.insert(from);
            }
            return self.proposal_goes_on(p);
        }
        self.change_accepted(from, p, id, ballot);
    }

    fn proposal(&mut self, p: PartitionId, id: ConfigId, ballot: Ballot) -> Option<&mut Proposal> {
        let now = self.now.time;
        let replica = self.replicas.get_mut(&p)?;
        if replica.chain.as_ref()?.config.id != id {
            return None;
        }
        let proposal = replica.proposal.as_mut().filter(|it| it.ballot == ballot)?;
        proposal.moved = now;
        Some(proposal)
    }

    /// A member does not promise or accept, or does not take part in a transfer.
    pub(super) fn hear_rejected(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        attempt: Attempt,
        why: Rejection,
    ) {
        self.told_or_not(from, p, id, &why);
        match &why {
            Rejection::Newer(config) if config.is_legal() => {
                if self.learn_configuration(p, config) {
                    return self.drive(p);
                }
                self.learn_route(p, config);
            }
            Rejection::Forked(config) | Rejection::Diverged(config) if config.is_legal() => {
                if self
                    .chain(p)
                    .is_some_and(|c| config.descends_from(c.config.id) && config.has(self.own))
                {
                    // A fork that this node belongs to was chosen without it noticing.
                    self.learn_configuration(p, config);
                    return self.drive(p);
                }
                self.meet_rival(p, config);
                self.owner_is_elsewhere(p, from);
                self.member_went_on(p, id, from);
                if self.follows(p) {
                    return;
                }
                self.newcomer_is_elsewhere(p, from);
            }
            _ => {}
        }
        let Attempt::Ballot(ballot) = attempt else {
            return self.transfer_rejected(from, p, attempt, &why);
        };
        let forked_counts = self.omits(Omit::ForkedIsMute);
        let root = if forked_counts { self.root(p) } else { 0 };
        let Some(proposal) = self.proposal(p, id, ballot) else {
            return self.change_rejected(p, id, ballot);
        };
        match why {
            Rejection::Promised(larger) if larger > ballot => {
                // Somebody else is about it. If nothing comes of that, this node tries again.
                let replica = self.replica(p);
                replica.proposal = None;
                replica.sessions.clear();
                let pause = self.pause();
                self.timers.set(Timer::Partition(p), self.now.time + pause);
                self.replica(p).backoff = Some(self.now.time + pause);
                self.counters_up("proposals_lost");
            }
            Rejection::Forked(_) | Rejection::Diverged(_) if forked_counts => {
                if let Phase::Accepting { accepted, .. } = &mut proposal.phase {
                    accepted.insert(from);
                }
                let accepted = None;
                proposal.promised.insert(from, Promised { accepted, root });
                self.proposal_goes_on(p);
            }
            Rejection::Forked(_) | Rejection::Diverged(_) => {
                proposal.mute.insert(from, Mute::Elsewhere);
                let merging = matches!(proposal.phase, Phase::Merging { .. });
                let purpose = proposal.purpose;
                // It has promised, and left since: it gives nothing of what it has any more, nor accepts
                // anything. So it never counted (rule A1).
                if proposal.promised.remove(&from).is_some() && merging {
                    return self.propose(p, purpose);
                }
                self.proposal_goes_on(p);
            }
            Rejection::Learner => {
                proposal.mute.insert(from, Mute::Forgetful);
                self.proposal_goes_on(p);
            }
            _ => {}
        }
    }

    // Rivals wait for different times, or they would meet again and again.
    pub(super) fn pause(&mut self) -> std::time::Duration {
        let patience = self.config.timing.promise;
        patience / 2 + patience * self.rng.random_range(0..100u32) / 100
    }

    /// Looks whether the proposal can go on, and tries again what was not answered.
    pub(super) fn proposal_goes_on(&mut self, p: PartitionId) {
        let Some(proposal) = self.replicas.get(&p).and_then(|r| r.proposal.as_ref()) else {
            return;
        };
        match &proposal.phase {
            Phase::Preparing => self.prepared(p),
            Phase::Merging { .. } => self.merging(p),
            Phase::Accepting { .. } => self.accepting(p),
        }
    }

    /// A proposal whose members do not answer is begun anew.
    pub(super) fn proposal_is_late(&mut self, p: PartitionId) -> bool {
        let limit = self.config.timing.proposal;
        let now = self.now.time;
        let Some(proposal) = self.replica(p).proposal.as_ref() else {
            return false;
        };
        now >= proposal.moved + limit
    }

    /// A session of a proposal moves.
    pub(super) fn proposal_moves(&mut self, p: PartitionId) {
        let now = self.now.time;
        if let Some(proposal) = self.replicas.get_mut(&p).and_then(|r| r.proposal.as_mut()) {
            proposal.moved = now;
        }
    }
}
