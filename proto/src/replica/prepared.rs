//! Enough members have promised: what their next configuration is.
//!
//! One that may have been chosen already is proposed again; otherwise whoever proposes chooses.

use super::{
    chain::Configuration,
    omit::Omit,
    proposal::{Mute, Phase, Promised, Proposal, Purpose},
    shard::{Shard, Timer},
};
use crate::id::{NodeId, PartitionId};
use rand::RngExt;

impl Proposal {
    /// The next configuration that may have been chosen, to judge by those that have promised.
    ///
    /// If one was, all that accepted it, or anything with a larger ballot, accepted just that. So what was accepted with the
    /// largest ballot is it, unless even with all that have not promised too few have: then nothing was
    /// chosen, nor will be with a smaller ballot, and there is a free choice (Lamport, "Paxos Made Simple", 2.2).
    fn possibly_chosen(&self, config: &Configuration) -> Option<&Configuration> {
        let all = self.promised.values().filter_map(|it| it.accepted.as_ref());
        let (_, next) = all.max_by_key(|(ballot, _)| *ballot)?;
        let may_have = |member: &&NodeId| match self.promised.get(*member) {
            Some(Promised { accepted, .. }) => {
                accepted.as_ref().is_some_and(|(_, other)| other == next)
            }
            None => true,
        };
        let many = config.members.iter().filter(may_have).count();
        (many >= config.majority()).then_some(next)
    }
}

impl Shard {
    /// Looks whether enough have promised, and if so, goes on to merge what they have.
    pub(super) fn prepared(&mut self, p: PartitionId) {
        let strict = self.needs_majority();
        let own = self.own;
        let (Some(chain), Some(replica)) = (self.chain(p), self.replicas.get(&p)) else {
            return;
        };
        let Some(proposal) = &replica.proposal else {
            return;
        };
        let config = chain.config.clone();
        let have = proposal.promised.len();
        let majority = have >= config.majority();
        let waiting = config.members.iter().any(|member| {
            let answered =
                proposal.promised.contains_key(member) || proposal.mute.contains_key(member);
            !answered && !self.is_gone(*member)
        });
        // Strict: those beyond the majority are waited for a moment, which spares repair.
        let moment = proposal.began + self.config.timing.rank / 2;
        let by_word = proposal.purpose.by_word();
        let enough = if strict && !by_word {
            majority && (!waiting || self.now.time >= moment)
        } else {
            !waiting
        };
        if !enough {
            let at = self.now.time + self.config.timing.rank / 2;
            if strict && majority {
                self.timers.set_by(Timer::Partition(p), at);
            }
            return;
        }
        let purpose = proposal.purpose;
        let answered: Vec<NodeId> = config
            .members
            .iter()
            .copied()
            .filter(|member| proposal.promised.contains_key(member))
            .collect();
        let adopted = proposal
            .possibly_chosen(&config)
            .cloned()
            .filter(|_| (majority || self.omits(Omit::MajorityAdopts)) && !by_word);
        let forks =
            (!majority || by_word) && adopted.is_none() && !self.omits(Omit::StrictMajority);
        let rank = |member: &NodeId| {
            let living = answered.contains(member) || !self.is_gone(*member);
            (*member != own, !living)
        };
        let next = match (adopted, purpose) {
            (Some(next), _) => next,
            (None, Purpose::Close(into)) if majority => config.closed(answered, into),
            (None, Purpose::Follow(into)) => {
                let mut closed = config.fork_owned_by(own, answered, self.rng.random());
                closed.closed_into = Some(into);
                closed
            }
            (None, _) if forks => config.fork_owned_by(own, answered, self.rng.random()),
            (None, _) => {
                let mut members = if strict {
                    config.members.clone()
                } else {
                    answered.clone()
                };
                members.sort_by_key(rank);
                config.next(members)
            }
        };
        let filled = next
            .members
            .iter()
            // Those that may have forgotten something promise nothing, and are filled like newcomers.
            .filter(|member| {
                !config.has(**member) || proposal.mute.get(member) == Some(&Mute::Forgetful)
            })
            .map(|member| (*member, None))
            .collect();
        if let Some(proposal) = &mut self.replica(p).proposal {
            proposal.phase = Phase::Merging {
                next,
                forks,
                filled,
            };
        }
        self.merging(p);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{replica::chain::Ballot, time::Time};

    fn ballot(counter: u32) -> Ballot {
        Ballot {
            counter,
            node: NodeId(1),
        }
    }

    // Of three members: what each of those that promised has accepted, with which ballot.
    fn chosen(accepted: &[(u64, Option<(u32, &Configuration)>)]) -> Option<Configuration> {
        let members = vec![NodeId(1), NodeId(2), NodeId(3)];
        let present = Configuration::genesis(NodeId(1), 7).next(members);
        let promised = accepted.iter().map(|(node, accepted)| {
            let accepted = accepted.map(|(counter, next)| (ballot(counter), next.clone()));
            (NodeId(*node), Promised { accepted, root: 0 })
        });
        let proposal = Proposal {
            purpose: Purpose::TakeOver,
            ballot: ballot(9),
            began: Time::from_millis(0),
            moved: Time::from_millis(0),
            phase: Phase::Preparing,
            mute: BTreeMap::new(),
            promised: promised.collect(),
            from: NodeId(1),
            asked: BTreeMap::new(),
        };
        proposal.possibly_chosen(&present).cloned()
    }

    #[test]
    fn what_may_have_been_chosen_is_adopted_and_nothing_else() {
        let one = Configuration::genesis(NodeId(1), 7).next(vec![NodeId(4)]);
        let two = Configuration::genesis(NodeId(1), 7).next(vec![NodeId(5)]);
        let (one, two) = (&one, &two);
        assert_eq!(chosen(&[(1, None), (2, None)]), None);
        // The third may have accepted it too.
        assert_eq!(
            chosen(&[(1, Some((0, one))), (2, None)]).as_ref(),
            Some(one)
        );
        assert_eq!(chosen(&[(1, Some((0, one))), (2, None), (3, None)]), None);
        // Accepted again with a larger ballot, of which nothing came.
        let again = [(1, Some((1, one))), (2, Some((0, one))), (3, None)];
        assert_eq!(chosen(&again).as_ref(), Some(one));
        // The larger ballot's was free to be another, so that the first was not chosen.
        let both = [(1, Some((1, two))), (2, Some((0, one)))];
        assert_eq!(chosen(&both).as_ref(), Some(two));
        let all = [(1, Some((1, two))), (2, Some((0, one))), (3, None)];
        assert_eq!(chosen(&all), None);
    }
}
