//! Configurations: who keeps a partition for a while, and what follows what.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// The most members of a configuration.
pub const MAX_MEMBERS: usize = 16;
/// So many branches that a configuration descends from are remembered.
const MAX_ANCESTORS: usize = 64;

/// Names a configuration: its epoch and its branch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ConfigId {
    /// Grows with each configuration of a branch.
    pub epoch: u64,
    /// Random, minted at genesis and whenever a minority went on alone.
    pub branch: u64,
}

/// A branch that a configuration descends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The last configuration in common with it.
    pub id: ConfigId,
    /// It is over: its members chose to be joined. Otherwise it may go on without those that left
    /// it.
    pub over: bool,
}

/// Who keeps a partition, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Which configuration.
    pub id: ConfigId,
    /// The owner first, then its backups; all different, 1 to [`MAX_MEMBERS`].
    pub members: Vec<NodeId>,
    /// Other branches that it descends from.
    pub ancestors: Vec<Ancestor>,
    /// This branch has ended: its members decided to be joined into that one.
    pub closed_into: Option<u64>,
    /// A branch that was joined, and whose entries the owner has yet to take over.
    pub unmerged: Option<Source>,
}

/// A closed branch, and who has its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its last configuration.
    pub id: ConfigId,
    /// Who has its entries.
    pub members: Vec<NodeId>,
    /// Branches that it descended from.
    pub ancestors: Vec<Ancestor>,
}

impl Ancestor {
    fn has(&self, earlier: ConfigId) -> bool {
        self.id.branch == earlier.branch && self.id.epoch >= earlier.epoch
    }
}

impl Source {
    // What it descended from, and itself, which is over.
    fn lineage(&self) -> impl Iterator<Item = Ancestor> {
        let closed = Ancestor {
            id: self.id,
            over: true,
        };
        self.ancestors.iter().copied().chain([closed])
    }
}

impl Configuration {
    /// The first configuration of a partition: one member, that minted it.
    pub fn genesis(node: NodeId, branch: u64) -> Self {
        Self {
            id: ConfigId { epoch: 1, branch },
            members: vec![node],
            ancestors: Vec::new(),
            closed_into: None,
            unmerged: None,
        }
    }

    /// The owner.
    pub fn owner(&self) -> NodeId {
        // Never empty: see `is_legal`.
        self.members.first().copied().unwrap_or(NodeId(0))
    }

    /// Whether a node is a member.
    pub fn has(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    /// How many members are a majority.
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// Whether it follows `earlier`, in its branch or from another one.
    pub fn descends_from(&self, earlier: ConfigId) -> bool {
        self.follows(earlier) || self.comes_from(|last| last.has(earlier))
    }

    /// Whether nothing goes on from `earlier` any more but this: it follows in the same branch, or
    /// that branch was closed. A branch that a minority went on in leaves the other one to those
    /// that are no members of it.
    pub fn ends(&self, earlier: ConfigId) -> bool {
        self.follows(earlier) || self.comes_from(|last| last.over && last.has(earlier))
    }

    /// Whether this is so of a branch that it descends from; a branch that is being joined is one.
    pub fn comes_from(&self, is_so: impl Fn(&Ancestor) -> bool) -> bool {
        let joined = self.unmerged.iter().flat_map(Source::lineage);
        let mut joined = joined.filter(|last| last.id.branch != self.id.branch);
        self.ancestors.iter().any(&is_so) || joined.any(|last| is_so(&last))
    }

    /// Whether what a closed branch had is here: it was joined, and nothing of it is left to be taken over.
    pub fn settles(&self, source: &Source) -> bool {
        self.unmerged.is_none() && self.ends(source.id)
    }

    fn follows(&self, earlier: ConfigId) -> bool {
        self.id.branch == earlier.branch && self.id.epoch > earlier.epoch
    }

    /// Whether neither is the other, nor ends it: both may be served.
    pub fn is_rival_of(&self, other: &Self) -> bool {
        self.id != other.id && !self.ends(other.id) && !other.ends(self.id)
    }

    /// The next configuration in the same branch.
    #[must_use]
    pub fn next(&self, members: Vec<NodeId>) -> Self {
        Self {
            id: ConfigId {
                epoch: self.id.epoch + 1,
                branch: self.id.branch,
            },
            members,
            ancestors: self.ancestors.clone(),
            closed_into: None,
            unmerged: self.unmerged.clone(),
        }
    }

    /// What a minority goes on with, or whoever an operator said should.
    #[must_use]
    pub fn fork(&self, members: Vec<NodeId>, branch: u64) -> Self {
        let mut fork = self.next(members);
        fork.id.branch = branch;
        fork.add_ancestor(Ancestor {
            id: self.id,
            over: false,
        });
        fork
    }

    /// The same, with `owner` first and the others in their order.
    #[must_use]
    pub fn fork_owned_by(&self, owner: NodeId, mut members: Vec<NodeId>, branch: u64) -> Self {
        members.sort_by_key(|member| *member != owner);
        self.fork(members, branch)
    }

    /// The last configuration of this branch.
    #[must_use]
    pub fn closed(&self, members: Vec<NodeId>, into: u64) -> Self {
        let mut closed = self.next(members);
        closed.closed_into = Some(into);
        closed
    }

    /// What follows when a closed branch is joined: both are its parents. Members of the closed branch are none of
    /// this one yet: what they have is decided by the clock, and would be merged by version if one of them took
    /// over before that was done.
    #[must_use]
    pub fn joined(&self, source: Source) -> Self {
        let owner = self.owner();
        let stays = |member: &NodeId| *member == owner || !source.members.contains(member);
        let members = self.members.iter().copied().filter(stays);
        let mut joined = self.next(members.collect());
        joined.id.epoch = self.id.epoch.max(source.id.epoch) + 1;
        joined.unmerged = Some(source);
        joined
    }

    /// What follows when all that the closed branch had was taken over.
    #[must_use]
    pub fn settled(&self) -> Self {
        let mut settled = self.next(self.members.clone());
        let source = settled.unmerged.take();
        for ancestor in source.iter().flat_map(Source::lineage) {
            if ancestor.id.branch != self.id.branch {
                settled.add_ancestor(ancestor);
            }
        }
        settled
    }

    /// What follows if that cannot be had now: the closed branch is joined when somebody of it is back. Those
    /// who have it did not follow yet (see [`Chain::takes`](super::chain::Chain::takes)).
    #[must_use]
    pub fn put_off(&self) -> Self {
        let mut next = self.next(self.members.clone());
        next.unmerged = None;
        next
    }

    /// This branch as a source of entries.
    pub fn source(&self) -> Source {
        Source {
            id: self.id,
            members: self.members.clone(),
            ancestors: self.ancestors.clone(),
        }
    }

    /// Whether it is one that can be: bytes from elsewhere may say anything.
    pub fn is_legal(&self) -> bool {
        let distinct = |members: &[NodeId]| {
            let mut sorted = members.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.len() == members.len() && (1..=MAX_MEMBERS).contains(&members.len())
        };
        distinct(&self.members)
            && self.ancestors.len() <= MAX_ANCESTORS
            && self.unmerged.as_ref().is_none_or(|source| {
                distinct(&source.members) && source.ancestors.len() <= MAX_ANCESTORS
            })
    }

    fn add_ancestor(&mut self, new: Ancestor) {
        let branch = new.id.branch;
        match self.ancestors.iter_mut().find(|a| a.id.branch == branch) {
            Some(known) => {
                known.id.epoch = known.id.epoch.max(new.id.epoch);
                known.over |= new.over;
            }
            None => self.ancestors.push(new),
        }
        if self.ancestors.len() > MAX_ANCESTORS {
            self.ancestors.remove(0);
        }
    }
}
