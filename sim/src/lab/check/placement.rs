//! Where copies are, once nothing goes wrong any more: just where placement wants them.

use std::collections::BTreeSet;

use kith_proto::id::NodeId;

use crate::lab::{Lab, NodeIndex};

/// What is missing until all is as it should be.
pub(in crate::lab) fn missing(lab: &mut Lab) -> Option<String> {
    let living = lab.living();
    if let Some(node) = living.iter().find(|node| lab.is_stopping(**node)) {
        return Some(format!("n{node} was told to stop, and has not yet"));
    }
    let staying: BTreeSet<NodeIndex> = living
        .into_iter()
        .filter(|node| !lab.nodes[*node].departure.is_going())
        .collect();
    let target = lab.placed_on(&staying);
    (0..lab.setup.settings.partitions).find_map(|p| missing_of(lab, p, target.members(p)))
}

fn missing_of(lab: &Lab, p: u16, wanted: &[NodeId]) -> Option<String> {
    let owners = lab.servers(p);
    let [owner] = owners[..] else {
        return Some(format!("partition {p} has owners {owners:?}"));
    };
    let shard = lab.shard(owner)?;
    let Some(chain) = shard.chain_of(p) else {
        return Some(format!("the owner of partition {p} has no chain"));
    };
    let members = &chain.config.members;
    if members != wanted {
        return Some(format!("partition {p} has {members:?}, not {wanted:?}"));
    }
    // What a branch has that was closed, or is served by nobody, is not lost: it is still to be joined.
    for node in lab.living() {
        let other = lab.shard(node)?.chain_of(p).map(|chain| &chain.config);
        if other.is_some_and(|it| it.has(lab.id(node)) && it.id != chain.config.id) {
            return Some(format!("n{node} is in another configuration of {p}"));
        }
    }
    incomplete(lab, p)
}

/// Whether a partition is served, and all its members run and have the same.
pub(in crate::lab) fn is_complete(lab: &Lab, p: u16) -> bool {
    lab.servers(p).len() == 1 && incomplete(lab, p).is_none()
}

/// How many members a partition has, as its owner knows.
pub(in crate::lab) fn copies(lab: &Lab, p: u16) -> usize {
    let owner = lab.servers(p).first().copied();
    let chain = owner.and_then(|owner| lab.shard(owner)?.chain_of(p));
    chain.map_or(0, |chain| chain.config.members.len())
}

fn incomplete(lab: &Lab, p: u16) -> Option<String> {
    let shard = lab.shard(*lab.servers(p).first()?)?;
    let chain = shard.chain_of(p)?;
    let members = &chain.config.members;
    let own = shard.digests_of(p)?;
    for member in members {
        let index = lab.index_of(*member)?;
        let Some(other) = lab.shard(index) else {
            return Some(format!("n{index} is a member of {p}, and dead"));
        };
        let config = other.chain_of(p).map(|chain| &chain.config);
        if config != Some(&chain.config) {
            return Some(format!("n{index} has another configuration of {p}"));
        }
        if other.digests_of(p) != Some(own) {
            return Some(format!("n{index} has another copy of {p}"));
        }
    }
    None
}
