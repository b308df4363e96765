//! One owner for each (partition, epoch, branch), and one configuration of that name.

use std::collections::{BTreeMap, BTreeSet};

use kith_proto::{
    id::PartitionId,
    placement::partition_of,
    replica::chain::{ConfigId, Configuration},
    time::Time,
};

use crate::lab::{Lab, NodeIndex, client::Asked};

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    owners: BTreeMap<(PartitionId, ConfigId), NodeIndex>,
    chosen: BTreeMap<(PartitionId, ConfigId), Installed>,
    /// The configuration of each node that was looked at last.
    last: BTreeMap<(NodeIndex, PartitionId), ConfigId>,
}

/// A configuration, and who has installed it.
#[derive(Debug)]
struct Installed {
    config: Configuration,
    by: BTreeSet<NodeIndex>,
}

/// A node has done something.
pub(super) fn look(lab: &mut Lab, index: NodeIndex) {
    let mut found = Vec::new();
    let partitions = lab.setup.settings.partitions;
    let Some(shard) = lab.nodes[index].shard.as_deref() else {
        return;
    };
    let seen = &mut lab.checks.ownership;
    for (partition, config) in shard.served() {
        let owner = *seen.owners.entry((partition, config)).or_insert(index);
        if owner != index {
            found.push(format!(
                "n{index} answers for partition {partition} in {config:?}, and n{owner} does too"
            ));
        }
    }
    for p in 0..partitions {
        let Some(chain) = shard.chain_of(p) else {
            continue;
        };
        let config = &chain.config;
        if seen.last.insert((index, p), config.id) == Some(config.id) {
            continue;
        }
        let chosen = seen.chosen.entry((p, config.id));
        let chosen = chosen.or_insert_with(|| Installed {
            config: config.clone(),
            by: BTreeSet::new(),
        });
        // Who decides alone may have installed it in memory only, and told nobody, when its machine lost power.
        let alone = chosen.by.iter().all(|by| *by == index);
        if alone && lab.nodes[index].disk.lost_a_chain(p) {
            chosen.config = config.clone();
        }
        chosen.by.insert(index);
        if chosen.config != *config {
            let chosen = &chosen.config;
            found.push(format!(
                "n{index} has installed {config:?} of partition {p}, and another node {chosen:?}"
            ));
        }
    }
    for text in found {
        lab.object("ownership", text);
    }
}

/// Strict: once a write was acknowledged in an epoch, no request that begins later is
/// acknowledged in an earlier one.
pub(super) fn at_rest(lab: &Lab) -> Vec<String> {
    if !lab.setup.is_strict() {
        return Vec::new();
    }
    let partitions = lab.setup.settings.partitions;
    let mut writes: BTreeMap<PartitionId, Vec<(Time, Time, u64)>> = BTreeMap::new();
    for operation in &lab.clients.history {
        // Nobody is told as what a key was deleted.
        let written = operation.written();
        let version = written.filter(|_| operation.asked != Asked::Delete);
        if let (Some(version), Some(ended)) = (version, operation.ended) {
            let p = partition_of(&operation.key, partitions);
            let write = (operation.began, ended, version.epoch);
            writes.entry(p).or_default().push(write);
        }
    }
    let mut found = Vec::new();
    for (p, writes) in writes {
        let mut by_end = writes.clone();
        by_end.sort_by_key(|(_, ended, _)| *ended);
        let mut ended = by_end.into_iter().peekable();
        let mut newest = 0;
        for (began, _, epoch) in writes {
            while let Some((_, _, before)) = ended.next_if(|(_, ended, _)| *ended < began) {
                newest = newest.max(before);
            }
            if epoch < newest {
                found.push(format!(
                    "partition {p}: a write that began at {began:?} was acknowledged in epoch {epoch}, and one in {newest} had been before"
                ));
            }
        }
    }
    found
}
