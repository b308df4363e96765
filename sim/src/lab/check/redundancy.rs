//! Copies: an acknowledged write is on as many disks as were needed, and nobody drops one while it is
//! on fewer than two others.

use std::collections::BTreeMap;

use bytes::Bytes;
use kith_proto::{id::PartitionId, kv::version::Version, replica::chain::ConfigId};

use crate::lab::{
    Lab, NodeIndex,
    client::{Asked, Ended, Operation},
};

/// Of each partition and key the newest version that was acknowledged, and how many disks had to have it.
#[derive(Debug, Default)]
pub(super) struct Redundancy(BTreeMap<PartitionId, BTreeMap<Bytes, (Version, usize)>>);

/// A client was told something.
pub(super) fn acknowledged(lab: &mut Lab, operation: &Operation) {
    let Some(version) = operation.written() else {
        return;
    };
    let p = lab.place_of(&operation.key).partition;
    let copies = copies(lab, &operation.key, version);
    let needed = needed(lab, p, version);
    if let Some(needed) = needed
        && copies < needed
        && !a_disk_was_lost(lab)
        && !was_forgotten(lab, operation, version)
    {
        let key = &operation.key;
        lab.object(
            "redundancy",
            format!("{key:?} was acknowledged as {version}, and {copies} disks have it: {needed} are needed"),
        );
    }
    let keys = lab.checks.redundancy.0.entry(p).or_default();
    let known = keys.get(&operation.key);
    if known.is_none_or(|(newest, _)| *newest < version) {
        // A deletion is forgotten in the end, once all know of it; what is left of an earlier value may go.
        let kept = if operation.asked == Asked::Delete {
            0
        } else {
            needed.unwrap_or(1)
        };
        keys.insert(operation.key.clone(), (version, kept));
    }
}

// How many disks must have had it: the majority of the configuration that it names, if that is the
// owner's (an entry may carry a later epoch, where a leftover was overwritten).
fn needed(lab: &Lab, p: PartitionId, version: Version) -> Option<usize> {
    let owner = *lab.servers(p).first()?;
    let config = &lab.shard(owner)?.chain_of(p)?.config;
    let named = ConfigId {
        epoch: version.epoch,
        branch: version.branch,
    };
    (config.id == named).then(|| config.majority())
}

// A branch that went on alone has fewer members than there were when something was acknowledged.
fn majority(lab: &Lab, p: PartitionId) -> Option<usize> {
    let servers = lab.servers(p);
    servers.iter().find_map(|owner| majority_of(lab, *owner, p))
}

/// How many of its members an owner needs to acknowledge a write; `None`: the node answers for nothing there.
pub(super) fn majority_of(lab: &Lab, node: NodeIndex, p: PartitionId) -> Option<usize> {
    let serves = lab.servers(p).contains(&node);
    let chain = lab.shard(node).filter(|_| serves)?.chain_of(p)?;
    Some(chain.config.majority())
}

/// A node has done something: perhaps it dropped a copy.
pub(super) fn look(lab: &mut Lab, index: NodeIndex) {
    let dropped = lab.nodes[index].disk.take_dropped();
    if dropped.is_empty() {
        return;
    }
    let lost = a_disk_was_lost(lab);
    for (place, version) in dropped {
        let keys = lab.checks.redundancy.0.get(&place.partition);
        let Some((newest, needed)) = keys.and_then(|keys| keys.get(&place.key)).copied() else {
            continue;
        };
        // What is dropped was superseded, or deleted.
        if version < newest || needed == 0 {
            continue;
        }
        let least = if lost {
            1
        } else {
            let majority = || needed.min(majority(lab, place.partition).unwrap_or(needed));
            least(lab, index, place.partition, newest).unwrap_or_else(majority)
        };
        let copies = copies(lab, &place.key, newest);
        if copies < least && !(copies == 0 && may_be_deleted(lab, &place.key)) {
            lab.object(
                "redundancy",
                format!("n{index} dropped {:?} of partition {}, acknowledged as {newest}: {copies} disks have that, and {least} should", place.key, place.partition),
            );
        }
    }
}

// Who keeps something that it is no member for any more, drops it when all members have it. Who
// is made a copy of again drops what it had first, and who was to become a copy what it got: as long
// as a majority has it. If that is older than deletions are remembered, it may not be used, however few
// others have it (rule A5): those that went on in a branch of their own may be one. And what was written since
// it is no member, or in a branch that it has no part in, was acknowledged without it; it may still be
// under way to a member.
fn least(lab: &Lab, index: NodeIndex, p: PartitionId, version: Version) -> Option<usize> {
    let shard = lab.shard(index)?;
    let config = &shard.chain_of(p)?.config;
    let is_member = config.has(lab.id(index));
    let written_in = ConfigId {
        epoch: version.epoch,
        branch: version.branch,
    };
    let before = config.id.branch == version.branch && config.id.epoch > version.epoch
        || config.descends_from(written_in);
    let shown = shard
        .show()
        .into_iter()
        .find(|shown| shown.partition == p)?;
    match shown.state {
        _ if !is_member && shard.is_stale(p) => Some(1),
        "filling" => None,
        _ if !is_member && !before => None,
        _ => Some(shown.members.len()),
    }
}

// Whether somebody asked for its deletion who was not told that it was done, or not: all may have forgotten it
// by now, and what was there before.
fn may_be_deleted(lab: &Lab, key: &Bytes) -> bool {
    deletions(lab, key).any(|it| matches!(it.result, Ended::Open | Ended::Unknown(_)))
}

// Whether an answer was so long under way that a deletion after that write may have been forgotten since, and
// the write with it: nothing is promised of what was replaced.
fn was_forgotten(lab: &Lab, write: &Operation, version: Version) -> bool {
    if lab.now().saturating_since(write.began) < lab.setup.tombstone_grace {
        return false;
    }
    deletions(lab, &write.key).any(|it| match &it.result {
        Ended::Done(told) => told.applied && told.version.is_none_or(|it| it > version),
        Ended::Open | Ended::Unknown(_) => true,
        Ended::Refused(_) => false,
    })
}

// Whoever asked for its deletion.
fn deletions<'a>(lab: &'a Lab, key: &'a Bytes) -> impl Iterator<Item = &'a Operation> {
    let history = lab.clients.history.iter();
    history.filter(move |it| it.key == *key && it.asked == Asked::Delete)
}

fn copies(lab: &Lab, key: &Bytes, version: Version) -> usize {
    let place = lab.place_of(key);
    let has = |node: &NodeIndex| {
        !lab.is_gone(*node)
            && lab.nodes[*node]
                .disk
                .entry(&place)
                .is_some_and(|entry| entry.version >= version)
    };
    (0..lab.len()).filter(has).count()
}

fn a_disk_was_lost(lab: &Lab) -> bool {
    lab.nodes
        .iter()
        .any(|node| node.gone || node.disk.has_forgotten())
}
