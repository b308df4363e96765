//! What a shard shows of itself: states and their reasons.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    chain::{Chain, ConfigId, Configuration},
    digest::Digests,
    held::Held,
    proposal::Proposal,
    shard::Shard,
};
use crate::{
    id::{NodeId, PartitionId},
    kv::entry::Entry,
};

/// A partition as one node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which partition.
    pub partition: PartitionId,
    /// Its configuration, as far as is known here.
    pub id: ConfigId,
    /// Its members, the owner first.
    pub members: Vec<NodeId>,
    /// What this node does for it.
    pub state: &'static str,
    /// Why it is in that state, or what it waits for.
    pub reason: String,
    /// Entries kept here, tombstones included.
    pub entries: u64,
    /// What they take (bytes), about.
    pub bytes: u64,
    /// Copies being made or compared by this node.
    pub transfers: usize,
    /// At the owner: members that are known to be equal, itself included.
    pub equal: usize,
}

impl Shard {
    /// Partitions that requests are answered for here, with the configuration in which they are.
    pub fn served(&self) -> impl Iterator<Item = (PartitionId, ConfigId)> {
        self.replicas.iter().filter_map(|(partition, replica)| {
            let chain = replica.chain.as_ref()?;
            self.is_ready(*partition)
                .then_some((*partition, chain.config.id))
        })
    }

    /// The chain of a partition, where this node has one.
    pub fn chain_of(&self, partition: PartitionId) -> Option<&Chain> {
        self.chain(partition)
    }

    /// What is kept of a copy that may be counted on by now.
    pub fn held_of(&self, partition: PartitionId) -> Option<Held> {
        self.replicas.get(&partition)?.held
    }

    /// Digests of what this node has of a partition.
    pub fn digests_of(&self, partition: PartitionId) -> Option<&Digests> {
        Some(&self.replicas.get(&partition)?.digests)
    }

    /// What this node has of a key.
    pub fn entry(&self, partition: PartitionId, key: &Bytes) -> Option<Entry> {
        self.store.get(&self.place(partition, key)).ok().flatten()
    }

    /// All partitions that this shard knows of.
    pub fn show(&self) -> Vec<Shown> {
        let mut all = Vec::new();
        for (partition, route) in self.routes.all() {
            let replica = self.replicas.get(partition);
            let chain = replica.and_then(|replica| replica.chain.as_ref());
            let (id, members) = match chain {
                Some(chain) if chain.config.has(self.own) => {
                    (chain.config.id, chain.config.members.clone())
                }
                _ => (route.id, route.members.clone()),
            };
            let (state, reason) = self.state(*partition);
            all.push(Shown {
                partition: *partition,
                id,
                members,
                state,
                reason,
                entries: replica.map_or(0, |replica| replica.digests.entries()),
                bytes: replica.map_or(0, |replica| replica.digests.bytes()),
                transfers: replica.map_or(0, |replica| replica.sessions.len()),
                equal: replica
                    .and_then(|replica| replica.owner.as_ref())
                    .map_or(0, |owner| owner.equal.len()),
            });
        }
        all
    }

    /// Others that this shard has to talk to, whether there is a stream to them or not: who is in a
    /// configuration with this node, or has what is to be joined with it, and who owns a partition
    /// that requests of this node wait for.
    pub fn peers_needed(&self) -> BTreeSet<NodeId> {
        let mut peers = BTreeSet::new();
        for replica in self.replicas.values() {
            let chain = replica.chain.as_ref();
            let present = chain.map(|chain| &chain.config);
            let next = chain.and_then(|chain| Some(&chain.accepted.as_ref()?.1));
            let configs = [present, next].into_iter().flatten();
            for config in configs.filter(|config| config.has(self.own)) {
                peers.extend(&config.members);
                let unmerged = config.unmerged.iter();
                peers.extend(unmerged.flat_map(|source| &source.members));
            }
            peers.extend(replica.rival.iter().flat_map(|rival| &rival.members));
            peers.extend(replica.filled_by.map(|filler| filler.node));
        }
        peers.extend(self.asks.partitions().filter_map(|p| self.routes.owner(p)));
        peers.remove(&self.own);
        peers
    }

    /// Whether requests wait only because there is no stream to an owner that takes part.
    pub fn awaits_stream(&self) -> bool {
        let lacks = |owner| {
            let living = self.view().is_some_and(|view| view.is_living(owner));
            living && self.view().is_some_and(|view| view.stream(owner).is_none())
        };
        let mut owners = self.asks.partitions().filter_map(|p| self.routes.owner(p));
        owners.any(|owner| owner != self.own && lacks(owner))
    }

    /// Why requests for a partition are not answered now.
    pub(super) fn why_not(&self, p: PartitionId) -> String {
        match self.routes.owner(p) {
            None => "nobody has told who owns it".to_owned(),
            Some(owner) if owner != self.own && self.is_gone(owner) => {
                let owner = self.name(owner);
                format!("its owner {owner} is gone, and a backup has not taken over yet")
            }
            Some(owner) if owner != self.own => {
                format!("its owner {} cannot be reached from here", self.name(owner))
            }
            Some(_) => self.state(p).1,
        }
    }

    pub(super) fn state(&self, p: PartitionId) -> (&'static str, String) {
        let Some(replica) = self.replicas.get(&p) else {
            return ("elsewhere", String::new());
        };
        if replica.filled_by.is_some() {
            return ("filling", "a copy is being made here".to_owned());
        }
        if replica.held_whole().is_some() {
            let reason = "kept until it is known whether the next configuration counts on it";
            return ("elsewhere", reason.to_owned());
        }
        let Some(chain) = &replica.chain else {
            return ("elsewhere", String::new());
        };
        if !chain.config.has(self.own) {
            let kept = replica.digests.entries() > 0;
            let reason = if kept {
                "kept until all members have it"
            } else {
                ""
            };
            return ("elsewhere", reason.to_owned());
        }
        if chain.config.closed_into.is_some() {
            let reason = "this branch is closed, and waits to be joined into the other one";
            return ("closed", reason.to_owned());
        }
        if let Some(proposal) = &replica.proposal {
            return ("deciding", self.proposal_waits_for(&chain.config, proposal));
        }
        if let Some(owner) = &replica.owner {
            if let Some(change) = &owner.change {
                let (phase, members) = change.describe();
                let names: Vec<String> = members.iter().map(|node| self.name(*node)).collect();
                let state = if change.is_fenced() {
                    "fenced"
                } else {
                    "owner"
                };
                return (state, format!("{phase} for {}", names.join(", ")));
            }
            if !owner.serving && chain.config.unmerged.is_some() {
                return (
                    "joining",
                    "entries of a closed branch are taken over".to_owned(),
                );
            }
            if !owner.serving {
                let reason = format!(
                    "{} of its {} members have installed the configuration",
                    owner.installed.len(),
                    chain.config.members.len()
                );
                return ("installing", reason);
            }
            return ("owner", String::new());
        }
        if chain.learner {
            return (
                "learner",
                "it may have forgotten what it acknowledged".to_owned(),
            );
        }
        if chain.is_fenced() {
            return ("fenced", "a next configuration is being decided".to_owned());
        }
        if chain.config.owner() == self.own {
            return (
                "deciding",
                "it was owned here in an earlier life".to_owned(),
            );
        }
        ("backup", String::new())
    }

    /// For whom a proposal waits, for people.
    pub(super) fn proposal_waits_for(&self, config: &Configuration, proposal: &Proposal) -> String {
        let missing: Vec<String> = config
            .members
            .iter()
            .filter(|member| !proposal.promised.contains_key(member))
            .map(|member| {
                let how = if let Some(mute) = proposal.mute.get(member) {
                    mute.why()
                } else if self.is_gone(*member) {
                    "is gone"
                } else {
                    "has not answered"
                };
                format!("{} {how}", self.name(*member))
            })
            .collect();
        if missing.is_empty() {
            return "the next configuration is being decided".to_owned();
        }
        format!(
            "the next configuration is being decided by {} of {} members: {}",
            proposal.promised.len(),
            config.members.len(),
            missing.join(", ")
        )
    }
}
