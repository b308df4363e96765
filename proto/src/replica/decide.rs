//! The second half of choosing a next configuration: what members have is merged, then they accept,
//! then it is installed. The first half, and the phases, are in `proposal`.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;

use super::{
    chain::{Ballot, ConfigId, Configuration},
    host::SyncToken,
    message::{Attempt, Body},
    omit::Omit,
    owner::millis,
    proposal::{Mute, Phase, Proposal},
    shard::{Shard, Timer},
};
use crate::{
    event::Event,
    id::{NodeId, PartitionId},
};

impl Shard {
    // Step 3: what enough members of the next configuration have is merged and equal there.
    pub(super) fn merging(&mut self, p: PartitionId) {
        let own = self.own;
        let omit = self.omits(Omit::Merge);
        let strict = self.is_strict();
        let root = self.root(p);
        let Some(id) = self.chain(p).map(|chain| chain.config.id) else {
            return;
        };
        let Some(Proposal {
            phase:
                Phase::Merging {
                    next,
                    forks,
                    filled,
                },
            promised,
            ballot,
            mute,
            ..
        }) = self.replicas.get(&p).and_then(|it| it.proposal.as_ref())
        else {
            return;
        };
        let (next, forks, attempt) = (next.clone(), *forks, Attempt::Ballot(*ballot));
        let is_equal = |member: &NodeId| {
            *member == own
                || promised.get(member).is_some_and(|has| has.root == root)
                || filled.get(member).is_some_and(|has| *has == Some(root))
        };
        // Everybody that promised is asked for what it has, whether it is a member afterwards or not.
        let unequal: Vec<NodeId> = promised.keys().copied().filter(|m| !is_equal(m)).collect();
        let elsewhere = |m: &NodeId| mute.get(m) == Some(&Mute::Elsewhere);
        let empty = filled.keys().filter(|m| !is_equal(m) && !elsewhere(m));
        let empty: Vec<NodeId> = empty.copied().collect();
        let equal = next
            .members
            .iter()
            .filter(|member| is_equal(member))
            .count();
        let all_asked = unequal.iter().all(|member| self.is_gone(*member));
        // Nobody makes members of a closed branch equal any more, and any of them is asked for what it had.
        let most_do = strict && !forks && next.closed_into.is_none() && !self.omits_majority();
        // Strict: one that promised and is gone since may be the only one here that has what was acknowledged.
        let heard = if most_do {
            self.majority_is_merged(p, &unequal)
        } else {
            all_asked
        };
        if omit || (heard && equal >= next.majority()) {
            return self.ask_to_accept(p, next, forks);
        }
        if !strict && !forks && self.cannot_be_merged(p) {
            return self.fork_instead(p);
        }
        for member in unequal {
            self.compare_with(p, member, id, attempt);
        }
        // A newcomer may own the next configuration, and serves at once what it was found equal to: that
        // has to be everything that was acknowledged, not what was here before it was merged.
        let empty = if heard { empty } else { Vec::new() };
        let number = u64::from(self.ballot_of(p).map_or(0, |ballot| ballot.counter));
        for member in empty {
            let attempt = Attempt::Fill(number);
            self.ask_to_fill(member, p, attempt);
        }
        self.timers.set_by(
            Timer::Partition(p),
            self.now.time + self.config.timing.retry,
        );
    }

    /// Whether a proposal fills a node, which is no member yet.
    pub(super) fn fills(&self, p: PartitionId, node: NodeId) -> bool {
        let proposal = self.replicas.get(&p).and_then(|it| it.proposal.as_ref());
        proposal.is_some_and(|it| match &it.phase {
            Phase::Merging { filled, .. } => filled.contains_key(&node),
            _ => false,
        })
    }

    /// A newcomer that a proposal fills is in another branch, and stays there.
    pub(super) fn newcomer_is_elsewhere(&mut self, p: PartitionId, from: NodeId) {
        if self.fills(p, from)
            && let Some(proposal) = &mut self.replica(p).proposal
        {
            proposal.mute.insert(from, Mute::Elsewhere);
            self.proposal_goes_on(p);
        }
    }

    // The adopted configuration names members that went on in another branch, or are gone: it may have been
    // chosen, but never will be served.
    fn cannot_be_merged(&self, p: PartitionId) -> bool {
        let Some(Proposal {
            phase: Phase::Merging { next, filled, .. },
            promised,
            mute,
            ..
        }) = self.replicas.get(&p).and_then(|it| it.proposal.as_ref())
        else {
            return false;
        };
        let can = |member: &&NodeId| {
            let elsewhere = mute.get(*member) == Some(&Mute::Elsewhere);
            **member == self.own
                || promised.contains_key(*member)
                || (filled.contains_key(*member) && !elsewhere && !self.is_gone(**member))
        };
        next.members.iter().filter(can).count() < next.majority()
    }

    // Available: those that answered go on in a branch of their own, which is joined like any other.
    fn fork_instead(&mut self, p: PartitionId) {
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let (Some(chain), Some(proposal)) = (&replica.chain, &replica.proposal) else {
            return;
        };
        let config = chain.config.clone();
        let answered = config.members.iter().copied();
        let answered = answered.filter(|member| proposal.promised.contains_key(member));
        let next = config.fork_owned_by(self.own, answered.collect(), self.rng.random());
        if let Some(proposal) = &mut self.replica(p).proposal {
            proposal.phase = Phase::Merging {
                next,
                forks: true,
                filled: BTreeMap::new(),
            };
        }
        self.merging(p);
    }

    // Strict: a majority of the old members has been asked for all that it has.
    pub(super) fn majority_is_merged(&self, p: PartitionId, unequal: &[NodeId]) -> bool {
        let Some(replica) = self.replicas.get(&p) else {
            return false;
        };
        let (Some(chain), Some(proposal)) = (&replica.chain, &replica.proposal) else {
            return false;
        };
        proposal.promised.len() - unequal.len() >= chain.config.majority()
    }

    pub(super) fn ballot_of(&self, p: PartitionId) -> Option<Ballot> {
        self.replicas.get(&p)?.proposal.as_ref().map(|it| it.ballot)
    }

    /// A comparison that belongs to a proposal has found a replica equal.
    pub(super) fn proposal_found_equal(&mut self, p: PartitionId, peer: NodeId, root: u64) {
        let now = self.now.time;
        if let Some(proposal) = &mut self.replica(p).proposal {
            proposal.moved = now;
            if let Some(promised) = proposal.promised.get_mut(&peer) {
                promised.root = root;
            }
            if let Phase::Merging { filled, .. } = &mut proposal.phase
                && let Some(has) = filled.get_mut(&peer)
            {
                *has = Some(root);
            }
        }
        self.proposal_goes_on(p);
    }

    pub(super) fn ask_to_accept(&mut self, p: PartitionId, next: Configuration, forks: bool) {
        let own = self.own;
        self.replica(p).sessions.clear();
        if forks {
            // Rule A1: a fork is not recorded in `accepted`; whoever goes on with it installs it.
            return self.chosen(p, &next);
        }
        let Some(ballot) = self.ballot_of(p) else {
            return;
        };
        let replica = self.replica(p);
        let Some(chain) = &mut replica.chain else {
            return;
        };
        let id = chain.config.id;
        // Rule 3: a proposer durably accepts its own proposal before it asks others.
        if chain.accept(own, id, ballot, &next).is_err() {
            replica.proposal = None;
            return;
        }
        if let Some(proposal) = &mut replica.proposal {
            proposal.phase = Phase::Accepting {
                next,
                accepted: BTreeSet::new(),
            };
            proposal.asked.clear();
        }
        let after = self.keep_record(p);
        self.ask_again(p);
        self.accept_after(after, p, id, ballot);
    }

    /// Whoever chooses counts itself once its own acceptance is on its disk, as it counts others (rule 3): a
    /// sole member that counted before could lose what it chose, and choose another of the same epoch.
    pub(super) fn accept_after(
        &mut self,
        after: SyncToken,
        p: PartitionId,
        id: ConfigId,
        ballot: Ballot,
    ) {
        if self.omits(Omit::DurableBallots) {
            return self.hear_accepted(self.own, p, id, ballot);
        }
        self.own_accepted.push_back((after, p, id, ballot));
    }

    /// Everything before that token is on the disk.
    pub(super) fn accepted_here(&mut self, token: SyncToken) {
        while let Some((after, p, id, ballot)) = self.own_accepted.front().copied()
            && after <= token
        {
            self.own_accepted.pop_front();
            self.hear_accepted(self.own, p, id, ballot);
        }
    }

    /// Whether enough members accepted, or `None` if that cannot be any more.
    pub(super) fn is_accepted(
        &self,
        config: &Configuration,
        accepted: &BTreeSet<NodeId>,
    ) -> Option<bool> {
        let majority = accepted.len() >= config.majority();
        if self.needs_majority() {
            return Some(majority);
        }
        let waiting = config
            .members
            .iter()
            .any(|member| !accepted.contains(member) && !self.is_gone(*member));
        match (waiting, majority) {
            (true, _) => Some(false),
            (false, true) => Some(true),
            (false, false) if self.omits_majority() => Some(true),
            (false, false) => None,
        }
    }

    pub(super) fn omits_majority(&self) -> bool {
        self.omits(Omit::StrictMajority) || self.omits(Omit::MajorityAdopts)
    }

    pub(super) fn accepting(&mut self, p: PartitionId) {
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        let Some(Proposal {
            phase: Phase::Accepting { next, accepted },
            purpose,
            mute,
            ..
        }) = self.replicas.get(&p).and_then(|r| r.proposal.as_ref())
        else {
            return;
        };
        let (next, purpose) = (next.clone(), *purpose);
        let accepted: BTreeSet<NodeId> = accepted.clone();
        let answered: BTreeSet<NodeId> = accepted.iter().chain(mute.keys()).copied().collect();
        let many = accepted.len() >= config.majority();
        let verdict = match self.is_accepted(&config, &answered) {
            Some(true) if many || self.omits_majority() => Some(true),
            // Strict: the others may still answer; who is mute only does not help.
            Some(true) if self.is_strict() => Some(false),
            Some(true) => None,
            other => other,
        };
        match verdict {
            Some(true) => self.chosen(p, &next),
            Some(false) => {}
            // Too few are left: from the beginning, as a minority.
            None => self.propose(p, purpose),
        }
    }

    /// A next configuration was chosen: it is installed here, and everybody whom it concerns is told.
    pub(super) fn chosen(&mut self, p: PartitionId, next: &Configuration) {
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let Some(before) = replica.chain.as_ref().map(|chain| chain.config.clone()) else {
            return;
        };
        let led = self.lead(p);
        if led.by_word {
            self.tell_of_recovery(p, &before, next);
        }
        // Writes that were under way are among what was found equal: a majority has them, and so has the
        // owner, unless it is one that an earlier proposal named.
        let changed = self
            .replicas
            .get(&p)
            .is_some_and(|replica| replica.proposal.is_none());
        if changed || next.owner() == self.own {
            self.writes_kept(p, next);
        }
        if !self.learn_configuration(p, next) {
            return;
        }
        if before.owner() == self.own && next.owner() != self.own {
            self.counters_up("handed_over");
            self.event(Event::PartitionHandedOver {
                partition: p,
                to: self.name(next.owner()),
                epoch: next.id.epoch,
                took_ms: millis(self.now.time.saturating_since(led.began)),
            });
        }
        let after = self.durable();
        let mut tell: Vec<NodeId> = next.members.clone();
        for member in before.members {
            if !tell.contains(&member) {
                tell.push(member);
            }
        }
        tell.retain(|member| *member != self.own);
        for member in &tell {
            let body = Body::Install(Box::new(next.clone()));
            self.tell(*member, p, next.id, body, Some(after));
        }
        let (own, now) = (self.own, self.now.time);
        let replica = self.replica(p);
        if let Some(owner) = &mut replica.owner {
            owner.led = Some(led);
            owner.told_install = Some(now);
        } else if next.owner() != own {
            replica.telling = tell;
        }
        self.drive(p);
    }
}
