//! What is done about the keys in which two replicas differ, seen from the one that leads the comparison.
//!
//! | between | what only the other has, or has newer | what this one has, or has newer |
//! |---|---|---|
//! | members of one configuration; strict: fenced ones | is fetched | is sent |
//! | a strict owner and its members; a strict newcomer | is dropped there | is sent |
//! | an available newcomer | is fetched, unless it is of another branch | is sent |
//!
//! What a newcomer keeps of another branch cannot be ordered by epochs. If members of that branch live, it
//! is joined with them (see [`super::join`]), and the newcomer has refused. If they are all gone, this copy may be the last of
//! what they acknowledged: the owner decides key by key, by the clock, and writes anew what it takes over, as in a join (rule
//! A3).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    chain::{ConfigId, Configuration},
    message::{Attempt, Carried},
    shard::Shard,
};
use crate::{
    id::{NodeId, PartitionId},
    kv::version::Version,
};

/// What is done about keys that differ.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Fetched from the other.
    pub(super) pull: VecDeque<Bytes>,
    /// Sent to the other.
    pub(super) push: VecDeque<Bytes>,
    /// Dropped there, if still in this version; what is sent of the same key replaces it at once.
    pub(super) drop: Vec<(Bytes, Version)>,
    /// Written on both sides of a split: the versions of this and of the other, and whether this one's stays.
    pub(super) conflicts: Vec<(Bytes, Version, Version, bool)>,
}

/// Which way entries go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    /// Both ways, by version.
    Both,
    /// To the other only: there is nothing that this one has to learn.
    There,
    /// Both ways, but what is of another branch is decided by the clock.
    Salvage,
    /// Both ways, but what is of another branch is not taken in.
    Own,
}

impl Shard {
    // In strict clusters a stale replica is overwritten by the owner, and what a newcomer had counts for
    // nothing (rule 6); between fenced members, and in available clusters, both directions are merged.
    fn ways(&self, p: PartitionId, peer: NodeId, attempt: Attempt) -> Ways {
        let Some(replica) = self.replicas.get(&p) else {
            return Ways::Both;
        };
        let strict = self.is_strict();
        let serving = replica.owner.as_ref().is_some_and(|owner| owner.serving);
        let chain = replica.chain.as_ref();
        // A member that may have forgotten something is filled too, and may be the only one that has the rest.
        let is_newcomer = chain.is_some_and(|chain| !chain.config.has(peer));
        let fenced = chain.is_some_and(|chain| chain.is_fenced());
        match attempt {
            Attempt::Fill(_) if is_newcomer && strict => Ways::There,
            // Nothing is written, in whatever version, while a next configuration is chosen.
            Attempt::Fill(_) if is_newcomer && serving && !fenced => Ways::Salvage,
            Attempt::Fill(_) if is_newcomer => Ways::Own,
            Attempt::Repair(_) | Attempt::Fill(_) if strict && serving => Ways::There,
            _ => Ways::Both,
        }
    }

    /// What to do about some buckets, of which the other side has listed what it has.
    pub(super) fn exchange(
        &self,
        p: PartitionId,
        peer: NodeId,
        attempt: Attempt,
        ours: &BTreeMap<Bytes, Version>,
        theirs: &BTreeMap<Bytes, Version>,
    ) -> Exchange {
        let ways = self.ways(p, peer, attempt);
        let config = self.chain(p).map(|chain| &chain.config);
        let is_foreign = |version: &Version| config.is_some_and(|config| !knows(config, version));
        let mut all = Exchange::default();
        for (key, other) in theirs {
            let own = ours.get(key);
            if own == Some(other) {
                continue;
            }
            let newer_there = own.is_none_or(|own| own < other);
            let foreign = matches!(ways, Ways::Salvage | Ways::Own) && is_foreign(other);
            let wanted = match foreign {
                true => ways == Ways::Salvage && own.is_none_or(|own| own.hlc < other.hlc),
                false => ways != Ways::There && newer_there,
            };
            // One that was written anew has the same clock.
            if let Some(own) = own.filter(|own| foreign && own.hlc != other.hlc) {
                let (own, other, keep) = (*own, *other, !wanted);
                all.conflicts.push((key.clone(), own, other, keep));
            }
            if wanted {
                all.pull.push_back(key.clone());
                continue;
            }
            if newer_there {
                all.drop.push((key.clone(), *other));
            }
            if own.is_some() {
                all.push.push_back(key.clone());
            }
        }
        let only_here = ours.keys().filter(|key| !theirs.contains_key(*key));
        all.push.extend(only_here.cloned());
        all
    }

    /// Takes in what was fetched from the other side of a comparison.
    pub(super) fn take_in(
        &mut self,
        p: PartitionId,
        peer: NodeId,
        attempt: Attempt,
        entries: Vec<Carried>,
    ) {
        if let Some(owner) = &mut self.replica(p).owner {
            owner.complete.forget();
        }
        let salvages = self.ways(p, peer, attempt) == Ways::Salvage;
        let config = self.chain(p).filter(|_| salvages);
        let config = config.map(|chain| chain.config.clone());
        let mut native = entries;
        if let Some(config) = config {
            let foreign: Vec<Carried> = native
                .extract_if(.., |carried| !knows(&config, &carried.entry.version))
                .collect();
            if !foreign.is_empty() {
                *self.counters.entry("salvaged").or_default() += foreign.len() as u64;
                self.write_anew(p, &config, foreign);
            }
        }
        self.merge(p, native.into_iter().map(|c| (c.key, c.entry)), &[]);
    }
}

// Whether a version is of this configuration, or of one that it descends from.
fn knows(config: &Configuration, version: &Version) -> bool {
    let id = ConfigId {
        epoch: version.epoch,
        branch: version.branch,
    };
    config.id == id || config.descends_from(id)
}
