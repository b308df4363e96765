//! The configuration chain of one partition, as each of its members keeps it.
//!
//! ```text
//!   genesis (1, b) ──> (2, b) ──> (3, b) ──> (5, b) ──> ...      one branch: a chain
//!                           └──> (3, c) ──> (4, c: closed)┘      a minority went on alone, and
//!                                                                was joined again
//! ```
//!
//! **The next configuration is chosen by the members of the present one**: one instance of Paxos
//! per configuration, in which a proposer asks for promises ([`Chain::prepare`]) and then for
//! acceptance ([`Chain::accept`]). A promise also *fences*: a member that made one takes no
//! more writes in this configuration. What was chosen is installed ([`Chain::install`]).
//!
//! ```text
//!   legal states of a member, within one configuration
//!
//!     open ──prepare(b)──> promised b ──prepare(b' > b)──> promised b'
//!       |                     |  accept(b, next)
//!       |                     v
//!       |                 accepted (b, next) ──accept(b' >= b, next')──> accepted (b', next')
//!       └──────────┬──────────┘
//!          install(newer): open again, in the newer configuration
//! ```
//!
//! Everything here must be durable before it is answered. Sources: Lamport, Malkhi and Zhou,
//! "Vertical Paxos and Primary-Backup Replication" (2009); Lamport, "Paxos Made Simple" (2001).

use serde::{Deserialize, Serialize};

use crate::{id::NodeId, kv::version::Wall};

pub use super::configuration::{Ancestor, ConfigId, Configuration, MAX_MEMBERS, Source};

/// Orders proposals: the counter, then who proposes. Counter 0 belongs to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Grows with each attempt.
    pub counter: u32,
    /// Who proposes.
    pub node: NodeId,
}

/// What a member keeps of a partition's chain, durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The newest configuration that it installed; it may be no member of it any more.
    pub config: Configuration,
    /// The largest ballot that it promised or accepted; if there is one it is fenced.
    pub promised: Option<Ballot>,
    /// What it accepted last as the next configuration.
    pub accepted: Option<(Ballot, Configuration)>,
    /// It may have forgotten what it had acknowledged (the machine stopped), and counts in no
    /// majority until the owner has found it equal (rule 8).
    pub learner: bool,
    /// When what is here was last known to be equal to what the owner has, about (rule A5).
    pub equal_at: Wall,
}

/// Why a member does not promise or accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// It promised a larger ballot.
    Promised(Ballot),
    /// It knows a configuration that follows.
    Newer(Box<Configuration>),
    /// It is in a branch that went on alone from there ("forked").
    Forked(Box<Configuration>),
    /// It knows an earlier one only.
    Older(ConfigId),
    /// It is in another branch, of which neither follows the other.
    Diverged(Box<Configuration>),
    /// It is no member, or has no chain at all.
    NotMember,
    /// It may have forgotten what it acknowledged.
    Learner,
    /// It has enough to do.
    Busy,
    /// A transfer that nobody expects (any more).
    OtherAttempt,
    /// Its disk does not keep what it is given.
    Broken,
    /// Its clock runs ahead (rule 9).
    ClockAhead,
}

impl Chain {
    /// A chain that begins with a configuration.
    pub fn new(config: Configuration) -> Self {
        Self {
            config,
            promised: None,
            accepted: None,
            learner: false,
            equal_at: Wall(0),
        }
    }

    /// Whether writes are refused, because a next configuration was promised.
    pub fn is_fenced(&self) -> bool {
        self.promised.is_some()
    }

    /// Compares what somebody else speaks of with what is installed here (rule 10: work within
    /// a configuration needs exact equality).
    ///
    /// # Errors
    /// How they differ.
    pub fn matches(&self, id: ConfigId) -> Result<(), Rejection> {
        if self.config.id == id {
            return Ok(());
        }
        if self.config.descends_from(id) {
            let config = Box::new(self.config.clone());
            return Err(if self.config.id.branch == id.branch {
                Rejection::Newer(config)
            } else {
                Rejection::Forked(config)
            });
        }
        Err(Rejection::Older(self.config.id))
    }

    /// Phase one: promise not to take part in smaller ballots, and no more writes.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    pub fn prepare(&mut self, node: NodeId, id: ConfigId, ballot: Ballot) -> Result<(), Rejection> {
        self.may_decide(node, id)?;
        self.promise(ballot)
    }

    /// The same by an operator's word: also where this node may have forgotten what it acknowledged.
    ///
    /// # Errors
    /// As there.
    pub fn prepare_by_word(
        &mut self,
        node: NodeId,
        id: ConfigId,
        ballot: Ballot,
    ) -> Result<(), Rejection> {
        match self.may_decide(node, id) {
            Ok(()) | Err(Rejection::Learner) => self.promise(ballot),
            Err(why) => Err(why),
        }
    }

    fn promise(&mut self, ballot: Ballot) -> Result<(), Rejection> {
        match self.promised {
            Some(promised) if promised >= ballot => Err(Rejection::Promised(promised)),
            _ => {
                self.promised = Some(ballot);
                Ok(())
            }
        }
    }

    /// Phase two: accept a next configuration. It implies the promise (rule 3): otherwise an acceptance with
    /// a smaller ballot that comes late would take the place of what was chosen. (Among three members it
    /// would not, since a proposer is the first to accept; among five it does.)
    ///
    /// # Errors
    /// Why not; nothing has changed.
    pub fn accept(
        &mut self,
        node: NodeId,
        id: ConfigId,
        ballot: Ballot,
        next: &Configuration,
    ) -> Result<(), Rejection> {
        self.may_decide(node, id)?;
        match self.promised {
            Some(promised) if promised > ballot => Err(Rejection::Promised(promised)),
            _ => {
                self.promised = Some(ballot);
                self.accepted = Some((ballot, next.clone()));
                Ok(())
            }
        }
    }

    // Rule 6: only members of a configuration prepare its next one.
    fn may_decide(&self, node: NodeId, id: ConfigId) -> Result<(), Rejection> {
        self.matches(id)?;
        if !self.config.has(node) || self.config.closed_into.is_some() {
            return Err(Rejection::NotMember);
        }
        if self.learner {
            return Err(Rejection::Learner);
        }
        Ok(())
    }

    /// Whether a configuration that was chosen is to be installed here. It follows what is there; or this
    /// node has no part in that, and the other one, of a larger epoch, names it: then it was filled, and
    /// that branch can only be served with it. A branch of which `node` is no member leaves it where it
    /// is, unless its own is over.
    ///
    /// Epochs grow with every installation. So nothing that was left is ever installed again.
    pub fn takes(&self, node: NodeId, config: &Configuration) -> bool {
        let present = &self.config;
        // What is being joined is there until that is settled: perhaps it is not, and has to be joined anew.
        let is_source = |source: &Source| source.id.branch == present.id.branch;
        if config.unmerged.as_ref().is_some_and(is_source) {
            return false;
        }
        // What a closed branch had is kept, by those that are members no more, until it is settled: by the
        // branch that joined it, or by one that left that.
        let unsettled = present.unmerged.as_ref();
        let is_free = !present.has(node)
            && unsettled.is_none_or(|source| config.settles(source))
            && config.id.epoch > present.id.epoch
            && !present.ends(config.id);
        config.ends(present.id)
            || (config.has(node) && config.descends_from(present.id))
            || (is_free && (config.has(node) || unsettled.is_some()))
    }

    /// Installs what was chosen, if it is to be: promised and accepted go with the old configuration
    /// (rule 5). Repeating the present one changes nothing. True if it is installed now.
    pub fn install(&mut self, node: NodeId, config: &Configuration) -> bool {
        if !self.takes(node, config) {
            return config.id == self.config.id;
        }
        // What it may have forgotten was acknowledged in another branch.
        self.learner &= self.config.id.branch == config.id.branch;
        self.config = config.clone();
        self.promised = None;
        self.accepted = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn ballot(counter: u32, node: NodeId) -> Ballot {
        Ballot { counter, node }
    }

    fn chain() -> Chain {
        let mut config = Configuration::genesis(A, 7);
        config.members = vec![A, B, C];
        Chain::new(config)
    }

    #[test]
    fn a_promise_fences_and_only_larger_ballots_pass() {
        let mut chain = chain();
        let id = chain.config.id;
        assert!(!chain.is_fenced());
        chain.prepare(B, id, ballot(1, B)).unwrap();
        assert!(chain.is_fenced());
        let smaller = chain.prepare(B, id, ballot(1, A));
        assert_eq!(smaller, Err(Rejection::Promised(ballot(1, B))));
        let next = chain.config.next(vec![B, C]);
        chain.accept(B, id, ballot(1, B), &next).unwrap();
        let late = chain.accept(B, id, ballot(0, A), &next);
        assert_eq!(late, Err(Rejection::Promised(ballot(1, B))));
        assert!(chain.install(B, &next) && !chain.is_fenced() && chain.accepted.is_none());
        assert!(chain.install(B, &next), "again");
        assert!(matches!(
            chain.prepare(B, id, ballot(9, C)),
            Err(Rejection::Newer(_))
        ));
    }

    #[test]
    fn accepting_implies_the_promise() {
        let mut chain = chain();
        let id = chain.config.id;
        let next = chain.config.next(vec![A]);
        chain.accept(C, id, ballot(0, A), &next).unwrap();
        assert!(chain.is_fenced());
    }

    #[test]
    fn strangers_learners_and_closed_branches_decide_nothing() {
        let mut chain = chain();
        let id = chain.config.id;
        assert_eq!(
            chain.prepare(NodeId(9), id, ballot(1, B)),
            Err(Rejection::NotMember)
        );
        chain.learner = true;
        assert_eq!(chain.prepare(B, id, ballot(1, B)), Err(Rejection::Learner));
        let mut closed = Chain::new(chain.config.closed(vec![A, B], 99));
        let id = closed.config.id;
        assert_eq!(
            closed.prepare(A, id, ballot(1, A)),
            Err(Rejection::NotMember)
        );
    }

    #[test]
    fn branches_know_what_they_come_from() {
        let base = chain().config;
        let next = base.next(vec![B, C]);
        let fork = base.fork(vec![A], 8);
        assert!(next.descends_from(base.id) && fork.descends_from(base.id));
        assert!(!next.descends_from(fork.id) && !fork.descends_from(next.id));
        let mut there = Chain::new(fork.clone());
        assert!(!there.install(A, &next), "of another branch");
        let mut left = Chain::new(base.clone());
        assert!(!left.install(B, &fork), "others went on alone");
        assert!(left.install(A, &fork));
        assert!(next.is_rival_of(&fork) && base.is_rival_of(&fork));
        assert!(!next.is_rival_of(&base));
        assert!(matches!(there.matches(base.id), Err(Rejection::Forked(_))));
        let closed = fork.closed(vec![A], next.id.branch);
        let (closed_id, joined) = (closed.id, next.joined(closed.source()));
        let with_its_members = next.next(vec![C, A, B]).joined(closed.source());
        assert_eq!(with_its_members.members, [C, B], "until it is settled");
        assert!(joined.descends_from(closed.id) && joined.descends_from(next.id));
        assert!(joined.id.epoch > closed.id.epoch.max(next.id.epoch));
        let settled = joined.settled();
        for mut there in [closed, fork].map(Chain::new) {
            assert!(!there.install(A, &joined), "what it has is yet to be taken");
            assert!(!there.install(A, &joined.put_off()), "and still is");
            assert!(
                there.install(A, &settled),
                "also if it was closed without it"
            );
        }
        assert!(settled.ends(joined.id) && !joined.put_off().ends(closed_id));
    }

    #[test]
    fn who_has_no_part_in_a_branch_goes_where_it_is_named() {
        let base = chain().config;
        let mut chain = Chain::new(base.next(vec![A]));
        let before = base.fork(vec![B], 9).next(vec![B]);
        assert!(before.is_rival_of(&chain.config));
        let named = before.next(vec![B, C]);
        assert!(!Chain::new(base.clone()).install(C, &named.next(vec![B])));
        assert!(!chain.install(B, &before.next(vec![A])), "not named there");
        let mut member = Chain::new(base.next(vec![A, C]));
        assert!(!member.install(C, &named), "it has a part where it is");
        assert!(chain.install(C, &named));
        assert!(!chain.install(C, &base), "an earlier epoch");
        let source = base.fork(vec![C], 8).closed(vec![C], 7).source();
        let joined = base.next(vec![A, B]).joined(source);
        let left = joined.fork(vec![B], 9).next(vec![B]);
        let mut waits = Chain::new(joined);
        assert!(!waits.install(C, &left), "what it has is not settled");
        assert!(!waits.install(C, &left.put_off()), "nor then");
        assert!(
            waits.install(C, &left.settled()),
            "in a branch that left it"
        );
    }

    #[test]
    fn what_cannot_be_is_told_from_what_can() {
        let mut config = chain().config;
        assert!(config.is_legal());
        config.members = vec![A, A];
        assert!(!config.is_legal());
        config.members.clear();
        assert!(!config.is_legal());
    }
}
