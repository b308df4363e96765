//! The promises about data, and whether they held.
//!
//! | promise | looked at | source |
//! |---|---|---|
//! | ownership | after every step: no two nodes answer for one (partition, epoch, branch); strict: the latest configuration has one owner | Vertical Paxos |
//! | durability | at the end: of each key what is there is not older than any acknowledged write | partitions.md: the promises |
//! | linearizability | strict, at the end: real time and versions agree | Herlihy and Wing 1990; versions are the order, so that it is checked exactly |
//! | equality | at the end: all members of a configuration have the same | partitions.md: one way to make copies equal |
//! | redundancy | at the end: each partition has its copies, and an owner that serves | |

use std::collections::BTreeMap;

use bytes::Bytes;
use kith_proto::{
    config::Consistency,
    id::{NodeId, PartitionId},
    input::RequestId,
    kv::{
        entry::Entry,
        version::{Hlc, Version},
    },
    placement::partition_of,
    replica::{
        chain::{ConfigId, Configuration},
        shard::Shard,
    },
    time::Time,
};

use super::{
    Lab, NodeIndex,
    client::{Asked, Ended, Operation},
};

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    owners: BTreeMap<(PartitionId, ConfigId), NodeId>,
    /// What is wrong, first things first.
    pub objections: Vec<String>,
}

impl Verdict {
    pub(super) fn object(&mut self, text: String) {
        if self.objections.len() < 20 {
            self.objections.push(text);
        }
    }

    pub(super) fn answered_elsewhere(&mut self, _request: RequestId, _node: NodeIndex) {
        // The client had given up; what it was told is of no use to anybody.
    }

    pub(super) fn look(&mut self, now: Time, index: NodeIndex, id: NodeId, shard: &Shard) {
        for (partition, config) in shard.served() {
            let owner = *self.owners.entry((partition, config)).or_insert(id);
            if owner != id {
                self.object(format!(
                    "at {now:?} n{index} answers for partition {partition} in {config:?}, and {owner} does too"
                ));
            }
        }
    }
}

/// Everything is whole again: looks whether all came together within the time given, and what
/// is there then. Objections are in the lab's verdict.
pub fn at_rest(lab: &mut Lab, patience: std::time::Duration) {
    let settled = lab.run_while(patience, |lab| unsettled(lab).is_none());
    if !settled && let Some(text) = unsettled(lab) {
        let shown = shown(lab);
        lab.verdict.object(format!("not at rest: {text}\n{shown}"));
        return;
    }
    durability(lab);
    if lab.setup.settings.consistency == Consistency::Strict {
        linearizability(lab);
    }
}

/// What every node shows of its partitions, for whoever looks at a failure.
pub fn shown(lab: &Lab) -> String {
    let mut text = String::new();
    for node in living(lab) {
        let Some(shard) = lab.shard(node) else {
            continue;
        };
        for shown in shard.show() {
            let past = shard
                .chain_of(shown.partition)
                .map(|chain| past(&chain.config));
            let members: Vec<String> = shown
                .members
                .iter()
                .map(
                    |member| match (0..lab.len()).find(|n| lab.id(*n) == *member) {
                        Some(index) => format!("n{index}"),
                        None => member.to_string(),
                    },
                )
                .collect();
            text.push_str(&format!(
                "n{node} partition {} {}.{:04x} [{}] {} {} ({} entries, {} transfers){}\n",
                shown.partition,
                shown.id.epoch,
                shown.id.branch & 0xffff,
                members.join(" "),
                shown.state,
                shown.reason,
                shown.entries,
                shown.transfers,
                past.unwrap_or_default(),
            ));
        }
    }
    text
}

// Other branches that a configuration has to do with.
fn past(config: &Configuration) -> String {
    let mut text = String::new();
    for ancestor in &config.ancestors {
        let (id, over) = (ancestor.id, if ancestor.over { ", over" } else { "" });
        text.push_str(&format!(
            " after {}.{:04x}{over}",
            id.epoch,
            id.branch & 0xffff
        ));
    }
    if let Some(into) = config.closed_into {
        text.push_str(&format!(" closed into {:04x}", into & 0xffff));
    }
    if let Some(source) = &config.unmerged {
        let id = source.id;
        text.push_str(&format!(
            " unmerged {}.{:04x}",
            id.epoch,
            id.branch & 0xffff
        ));
    }
    text
}

fn living(lab: &Lab) -> Vec<NodeIndex> {
    (0..lab.len()).filter(|node| lab.is_alive(*node)).collect()
}

// What is missing until all is as it should be.
fn unsettled(lab: &Lab) -> Option<String> {
    let living = living(lab);
    let wanted = living.len().min(usize::from(lab.setup.settings.copies));
    for partition in 0..lab.setup.settings.partitions {
        let mut owners = Vec::new();
        for node in &living {
            let shard = lab.shard(*node)?;
            if shard.served().any(|(served, _)| served == partition) {
                owners.push(*node);
            }
        }
        let [owner] = owners[..] else {
            return Some(format!("partition {partition} has owners {owners:?}"));
        };
        let shard = lab.shard(owner)?;
        let Some(chain) = shard.chain_of(partition) else {
            return Some(format!("the owner of {partition} has no chain"));
        };
        let members = &chain.config.members;
        if members.len() != wanted {
            return Some(format!(
                "partition {partition} has {} members",
                members.len()
            ));
        }
        let own = shard.digests_of(partition)?;
        for member in members {
            let Some(index) = living.iter().find(|node| lab.id(**node) == *member) else {
                return Some(format!("{member} is a member of {partition}, and dead"));
            };
            let other = lab.shard(*index)?;
            if other.chain_of(partition).map(|chain| &chain.config) != Some(&chain.config) {
                return Some(format!("n{index} has another configuration of {partition}"));
            }
            if other.digests_of(partition) != Some(own) {
                return Some(format!("n{index} has another copy of {partition}"));
            }
        }
    }
    None
}

fn present(lab: &Lab, key: &Bytes) -> Option<Entry> {
    let partition = partition_of(key, lab.setup.settings.partitions);
    living(lab).into_iter().find_map(|node| {
        let shard = lab.shard(node)?;
        shard
            .served()
            .any(|(served, _)| served == partition)
            .then(|| shard.entry(partition, key))
            .flatten()
    })
}

fn by_key(history: &[Operation]) -> BTreeMap<&Bytes, Vec<&Operation>> {
    let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    keys
}

// By the clock, which grows with every write along a chain and decides between branches. Of what is
// there the writer is known by its value, since a joined entry is stamped anew.
fn durability(lab: &mut Lab) {
    let mut objections = Vec::new();
    for (key, operations) in by_key(&lab.clients.history) {
        let newest = operations
            .iter()
            .filter_map(|operation| match (&operation.asked, &operation.result) {
                (Asked::Write(value), Ended::Done(Some(version), _)) => {
                    Some((version.hlc, *version, value))
                }
                _ => None,
            })
            .max();
        let Some((hlc, version, value)) = newest else {
            continue;
        };
        let there = present(lab, key);
        let Some(entry) = &there else {
            objections.push(format!(
                "{key:?}: {value:?} was acknowledged as {version}, and nothing is there"
            ));
            continue;
        };
        let written_at: Option<Hlc> = entry.value.as_ref().and_then(|present| {
            operations
                .iter()
                .find_map(|operation| match (&operation.asked, &operation.result) {
                    (Asked::Write(value), Ended::Done(Some(version), _)) if value == present => {
                        Some(version.hlc)
                    }
                    _ => None,
                })
        });
        if written_at.is_some_and(|at| at < hlc) {
            objections.push(format!(
                "{key:?}: {value:?} was acknowledged as {version}, and what is there is {entry:?}, written before"
            ));
        }
        let known = entry.value.as_ref().is_none_or(|present| {
            operations
                .iter()
                .any(|o| matches!(&o.asked, Asked::Write(value) if value == present))
        });
        if !known {
            objections.push(format!("{key:?}: nobody wrote {entry:?}"));
        }
        // A deletion that nobody asked for after it (with some tolerance for what was asked and not
        // answered) lost it.
        if entry.value.is_none() && entry.version.hlc < hlc {
            objections.push(format!(
                "{key:?}: {value:?} was acknowledged as {version}, and an earlier deletion is there: {entry:?}"
            ));
        }
    }
    for text in objections {
        lab.verdict.object(format!("durability: {text}"));
    }
}

// Versions are the order. It is a linearization if no operation that began after another had
// ended comes before it, and if nobody read what was not written yet.
fn linearizability(lab: &mut Lab) {
    let mut objections = Vec::new();
    for (key, operations) in by_key(&lab.clients.history) {
        let mut done: Vec<(Time, Time, Version, bool)> = Vec::new();
        for operation in &operations {
            let (Ended::Done(Some(version), _), Some(ended)) = (&operation.result, operation.ended)
            else {
                continue;
            };
            let writes = matches!(operation.asked, Asked::Write(_));
            done.push((operation.began, ended, *version, writes));
        }
        let mut by_end = done.clone();
        by_end.sort_by_key(|(_, ended, _, _)| *ended);
        let mut by_begin = done;
        by_begin.sort_by_key(|(began, _, _, _)| *began);
        let mut ended = by_end.into_iter().peekable();
        let mut newest: Option<Version> = None;
        for (began, _, version, writes) in by_begin {
            while let Some((_, _, before, _)) = ended.next_if(|(_, ended, _, _)| *ended < began) {
                newest = newest.max(Some(before));
            }
            let wrong =
                newest.is_some_and(|newest| version < newest || (writes && version == newest));
            if wrong {
                let what = if writes { "write" } else { "read" };
                objections.push(format!(
                    "{key:?}: a {what} that began at {began:?} has version {version}, and {newest:?} was told before"
                ));
            }
        }
        let written: Vec<&Operation> = operations
            .iter()
            .copied()
            .filter(|operation| matches!(operation.asked, Asked::Write(_)))
            .collect();
        for read in operations
            .iter()
            .filter(|operation| operation.asked == Asked::Read)
        {
            let (Ended::Done(_, Some(value)), Some(ended)) = (&read.result, read.ended) else {
                continue;
            };
            let writer = written
                .iter()
                .find(|write| matches!(&write.asked, Asked::Write(v) if v == value));
            match writer {
                None => objections.push(format!("{key:?}: nobody wrote {value:?}, which was read")),
                Some(write) if write.began > ended => {
                    objections.push(format!("{key:?}: {value:?} was read before it was written"));
                }
                Some(_) => {}
            }
        }
    }
    for text in objections {
        lab.verdict.object(format!("linearizability: {text}"));
    }
}
