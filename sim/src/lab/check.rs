//! The promises about data, one file each: what is checked, when and how.
//!
//! | checker | says | looked at | source |
//! |---|---|---|---|
//! | [`ownership`] | one owner answers for a (partition, epoch, branch); one configuration is chosen; strict: acknowledgements of a partition never go back to an earlier epoch | after every step; at the end | Vertical Paxos |
//! | [`durability`] | of each key there is what was acknowledged last by the clock that decides, or something later | at the end | partitions.md, the promises |
//! | [`deletes`] | what was deleted last stays deleted | at the end | the same |
//! | [`linearizability`] | strict: what clients were told of each key has an order that fits real time | at the end, with a last read of each key | Herlihy and Wing 1990; Wing and Gong 1993; Lowe 2017 |
//! | [`redundancy`] | an acknowledged write is on as many disks as were needed, then and whenever somebody drops a copy | at each acknowledgement, and at each drop | partitions.md, order of work |
//! | [`clocks`] | no write is stamped more than a minute (and a second) ahead of the true time | at each acknowledgement | partitions.md, rule 9 |
//! | [`placement`] | each partition is served by the owner that placement names, with the members that it names | within a bound after the faults | partitions.md, placement |
//! | [`super::availability`] | a partition whose owner is gone, or cut off, is written again within 300 ms after all have noticed | by `kith-sim partitions --availability` | overview.md, where we want to be |
//! | [`equality`] | all members have the same entries, and digests say what is there | at the end | partitions.md, one way to make copies equal |
//!
//! Beside these: every request is answered once at the most; every message can be read; no disk
//! breaks that nothing was done to; every key can be read at the end; messages are bounded.
//!
//! # What is not checked
//!
//! - Reads in available clusters, while they go on: an owner that was followed without noticing may answer with
//!   what was there before. What is there at the end is checked.
//! - Counters in available clusters: additions on both sides of a split do not add up, since the later value wins.
//! - Durability beyond the promises: two disks lost at once, or data not synced on two machines that lose power
//!   within the time that copies take to be equal again. [`super::plan`] stays within what is promised.
//! - Expiry, scans and `ack=one|all`; partitions together with the real failure detector.

pub mod clocks;
pub mod deletes;
pub mod durability;
pub mod equality;
pub mod linearizability;
pub mod ownership;
pub mod placement;
pub mod redundancy;

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;
use kith_proto::{
    id::PartitionId,
    kv::{entry::Entry, version::Version},
    placement::partition_of,
    replica::{chain::Configuration, digest},
    store::partitions::Place,
    time::Time,
};
use rand::RngExt;

use self::{ownership::Ownership, redundancy::Redundancy};
use super::{
    Lab, NodeIndex,
    client::{self, Asked, Ended, Operation},
};

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Which checker says so.
    pub check: &'static str,
    /// When it was found.
    pub at: Time,
    /// What it is.
    pub text: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.since_origin().as_secs_f64();
        write!(f, "{} at {at:.4} s: {}", self.check, self.text)
    }
}

/// So many are kept of a run.
const MOST: usize = 20;

/// What checkers remember while a lab runs.
#[derive(Debug, Default)]
pub(super) struct Checks {
    ownership: Ownership,
    redundancy: Redundancy,
    objections: Vec<Objection>,
}

impl Lab {
    /// What is wrong, first things first.
    pub fn objections(&self) -> &[Objection] {
        &self.checks.objections
    }

    pub(super) fn object(&mut self, check: &'static str, text: String) {
        if self.verbose {
            println!("{:?} !!!!!!!! {check}: {text}", self.now);
        }
        if self.checks.objections.len() < MOST {
            let at = self.now;
            self.checks.objections.push(Objection { check, at, text });
        }
    }

    pub(super) fn look(&mut self, index: NodeIndex) {
        ownership::look(self, index);
        redundancy::look(self, index);
    }

    pub(super) fn acknowledged(&mut self, operation: &Operation) {
        redundancy::acknowledged(self, operation);
        clocks::acknowledged(self, operation);
    }

    // As what a key was deleted: the newest deletion that is on two disks at that moment, or on that of an
    // owner without backups, if a later write has not replaced it already. On one other disk there may be a
    // deletion that nobody confirmed.
    pub(super) fn deleted_as(&self, operation: &Operation, result: &Ended) -> Option<Version> {
        let applied = matches!(result, Ended::Done(told) if told.applied);
        if operation.asked != Asked::Delete || !applied {
            return None;
        }
        let place = self.place_of(&operation.key);
        let mut versions: BTreeMap<Version, (usize, bool)> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(entry) = node.disk.entry(&place).filter(|e| e.value.is_none()) {
                let (disks, alone) = versions.entry(entry.version).or_default();
                *disks += 1;
                *alone |= redundancy::majority_of(self, index, place.partition) == Some(1);
            }
        }
        let mut newest_first = versions.into_iter().rev();
        let kept = newest_first.find(|(_, (disks, alone))| *disks >= 2 || *alone);
        kept.map(|(version, _)| version)
    }

    /// Where an entry of a key is kept.
    fn place_of(&self, key: &Bytes) -> Place {
        let partitions = self.setup.settings.partitions;
        Place {
            partition: partition_of(key, partitions),
            bucket: digest::bucket_of(key, digest::buckets(partitions)),
            key: key.clone(),
        }
    }

    /// Who answers for a partition.
    pub fn servers(&self, partition: PartitionId) -> Vec<NodeIndex> {
        let serves = |node: &NodeIndex| {
            self.shard(*node)
                .is_some_and(|shard| shard.served().any(|(served, _)| served == partition))
        };
        self.living().into_iter().filter(serves).collect()
    }

    // What the owner of a key has.
    fn present(&self, key: &Bytes) -> Option<Entry> {
        let place = self.place_of(key);
        let owner = *self.servers(place.partition).first()?;
        self.disk(owner).entry(&place)
    }
}

/// How often what is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Everything is whole again: waits until all has come together, at most so long, and looks what is
/// there then. Says how long it took.
pub fn at_rest(lab: &mut Lab, patience: Duration) -> Option<Duration> {
    let since = lab.now();
    let settled = lab.run_until(patience, LOOK_EVERY, |lab| {
        placement::missing(lab).is_none()
    });
    if !settled && let Some(text) = placement::missing(lab) {
        let shown = shown(lab);
        lab.object("placement", format!("{text}\n{shown}"));
        return None;
    }
    let took = lab.now().saturating_since(since);
    // What clients asked last may wait for its time to be over, or be done yet.
    let open = |lab: &mut Lab| lab.clients.is_waiting() || placement::missing(lab).is_some();
    lab.run_until(Duration::from_secs(10), LOOK_EVERY, |lab| !open(lab));
    read_all(lab);
    // An owner may have been followed by another while that was read; what is looked at is at rest.
    lab.run_until(Duration::from_secs(10), LOOK_EVERY, |lab| {
        placement::missing(lab).is_none()
    });
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let mut add = |check, texts: Vec<String>| found.extend(texts.into_iter().map(|t| (check, t)));
    add("ownership", ownership::at_rest(lab));
    add("durability", durability::at_rest(lab));
    add("deletes", deletes::at_rest(lab));
    add("equality", equality::at_rest(lab));
    if lab.setup.is_strict() {
        let history = &lab.clients.history;
        add("linearizability", linearizability::at_rest(history));
    }
    for (check, text) in found {
        lab.object(check, text);
    }
    Some(took)
}

// A last read of every key, through any node. It may be refused while an owner changes.
fn read_all(lab: &mut Lab) {
    const TRIES: usize = 5;
    let living = lab.living();
    let mut unread = client::keys(lab);
    for _ in 0..TRIES {
        let first = lab.clients.history.len();
        for key in std::mem::take(&mut unread) {
            let node = living[lab.rng().random_range(0..living.len())];
            client::ask(lab, None, node, key, Asked::Read);
        }
        lab.run_while(Duration::from_secs(5), |lab| !lab.clients.is_waiting());
        let reads = lab.clients.history[first..].iter();
        let failed = reads.filter(|read| read.told().is_none());
        unread = failed.map(|read| read.key.clone()).collect();
        if unread.is_empty() {
            return;
        }
        // Some may think yet that others have failed, and take over from them, or wait for them.
        lab.run_until(Duration::from_secs(10), LOOK_EVERY, |lab| {
            !lab.somebody_is_mistaken()
        });
        lab.run(Duration::from_millis(500));
    }
    for key in unread {
        lab.object(
            "service",
            format!("{key:?} is not read, tried {TRIES} times"),
        );
    }
}

fn by_key(history: &[Operation]) -> BTreeMap<&Bytes, Vec<&Operation>> {
    let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    keys
}

/// What every node shows of its partitions, for whoever looks at a failure.
pub fn shown(lab: &Lab) -> String {
    let mut text = String::new();
    for node in lab.living() {
        let Some(shard) = lab.shard(node) else {
            continue;
        };
        for shown in shard.show() {
            let past = shard
                .chain_of(shown.partition)
                .map(|chain| past(&chain.config));
            let name = |id| {
                let index = lab.index_of(id);
                index.map_or_else(|| id.to_string(), |index| format!("n{index}"))
            };
            let members: Vec<String> = shown.members.iter().map(|id| name(*id)).collect();
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
