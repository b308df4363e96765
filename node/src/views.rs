//! From the core's state to what the interfaces show.

use std::collections::BTreeMap;

use kith_proto::{
    config::{ClusterSettings, Consistency},
    core::Core,
    event::Transport,
    id::{NodeId, PartitionId},
    members::table::Entry,
    placement,
    replica::show::Shown,
    wire::keyring::Keyring,
};
use serde_json::Value;

use crate::{
    clock::{Clock, rfc3339},
    kv::Topology,
    stopping::Stopping,
    view::{AgentView, KeyView, MemberView, PartitionView, Status, StatusView},
};

/// Owned partitions and backups, by node.
type Counts = BTreeMap<NodeId, (usize, usize)>;

/// What the host knows and the core does not.
#[derive(Debug)]
pub(crate) struct Host {
    /// Turns core times into dates.
    pub(crate) clock: Clock,
    /// Effective settings by name, without secrets.
    pub(crate) settings: BTreeMap<String, Value>,
}

pub(crate) fn agent(core: &Core, host: &Host) -> AgentView {
    let config = core.config();
    let cluster = core.cluster();
    AgentView {
        name: config.name.clone(),
        id: config.node,
        generation: config.generation,
        version: config.software.clone(),
        pid: std::process::id(),
        phase: core.phase_name().to_owned(),
        cluster: cluster_name(core),
        cluster_id: cluster.map(|cluster| cluster.id),
        settings: cluster.map_or(config.settings, |cluster| cluster.settings),
        gossip: config.advertise,
        http: config.http,
        resp: config.resp,
        leaving: None,
        config: host.settings.clone(),
    }
}

/// Everybody whose record is known, by name.
pub(crate) fn members(core: &Core, host: &Host, topology: &Topology) -> Vec<MemberView> {
    let counts = counts(topology);
    let mut members: Vec<MemberView> = core
        .table()
        .iter()
        .filter_map(|entry| member(core, host, &counts, entry))
        .collect();
    members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    members
}

/// Owned partitions and backups of each node.
fn counts(topology: &Topology) -> Counts {
    let mut counts = Counts::new();
    for members in &topology.partitions {
        for (place, id) in members.iter().enumerate() {
            let (owned, backups) = counts.entry(*id).or_default();
            *if place == 0 { owned } else { backups } += 1;
        }
    }
    counts
}

/// Names of all members, by id.
pub(crate) fn names(core: &Core) -> BTreeMap<NodeId, String> {
    let named = |entry: &Entry| (entry.identity.id, entry.name());
    core.table().iter().map(named).collect()
}

fn member(core: &Core, host: &Host, counts: &Counts, entry: &Entry) -> Option<MemberView> {
    let record = entry.record.as_ref()?;
    let id = entry.identity.id;
    let (owned, backups) = counts.get(&id).copied().unwrap_or_default();
    Some(MemberView {
        name: record.name.clone(),
        id,
        status: entry.status(),
        generation: entry.identity.generation,
        address: entry.identity.addr,
        http: record.http,
        resp: record.resp,
        zone: record.zone.clone(),
        weight: record.weight,
        tags: record.tags.clone(),
        rtt_ms: core.rtt(id).map(|rtt| rtt.as_secs_f64() * 1000.0),
        owned,
        backups,
        since: rfc3339(host.clock.date(entry.since)),
        software: record.software.clone(),
        is_self: id == core.table().own_id(),
    })
}

/// All partitions, or only the one that holds `key`; of those kept here what they are in.
pub(crate) fn partitions(
    shown: &[Shown],
    partitions: Option<u16>,
    names: &BTreeMap<NodeId, String>,
    key: Option<&[u8]>,
) -> Vec<PartitionView> {
    let Some(partitions) = partitions else {
        return Vec::new();
    };
    let only = key.map(|key| placement::partition_of(key, partitions));
    let name = |id: &NodeId| names.get(id).cloned().unwrap_or_else(|| id.to_string());
    let known: BTreeMap<PartitionId, &Shown> = shown.iter().map(|s| (s.partition, s)).collect();
    (0..partitions)
        .filter(|partition| only.is_none_or(|only| only == *partition))
        .map(|partition| {
            let (first, last) = placement::slots(partition, partitions);
            let slots = [first, last];
            let Some(shown) = known.get(&partition) else {
                return PartitionView {
                    id: partition,
                    slots,
                    state: "unknown".to_owned(),
                    reason: "no owner has told of it yet".to_owned(),
                    ..PartitionView::default()
                };
            };
            PartitionView {
                id: partition,
                slots,
                epoch: shown.id.epoch,
                branch: format!("{:016x}", shown.id.branch),
                owner: shown.members.first().map(name),
                backups: shown.members.iter().skip(1).map(name).collect(),
                state: shown.state.to_owned(),
                reason: shown.reason.clone(),
                keys: shown.entries,
                bytes: shown.bytes,
                transfers: shown.transfers,
            }
        })
        .collect()
}

pub(crate) fn status(core: &Core, topology: &Topology) -> StatusView {
    let mut members: BTreeMap<String, usize> = BTreeMap::new();
    let mut problems = Vec::new();
    for entry in core.table().iter().filter(|entry| entry.record.is_some()) {
        let status = entry.status();
        *members
            .entry(format!("{status:?}").to_lowercase())
            .or_default() += 1;
        match status {
            Status::Failed => problems.push(format!(
                "{} has failed: bring it back, or remove it with `kith evict {}`",
                entry.name(),
                entry.name()
            )),
            Status::Suspect => problems.push(format!("{} is suspected", entry.name())),
            Status::Alive | Status::Leaving | Status::Left | Status::Evicted => {}
        }
        if entry.blocked.since(Transport::Udp).is_some() {
            problems.push(format!(
                "UDP to {} is blocked while its stream works: look at the firewalls",
                entry.name()
            ));
        }
        if entry.blocked.since(Transport::Tcp).is_some() {
            problems.push(format!(
                "TCP to {} is blocked while UDP works: look at the firewalls",
                entry.name()
            ));
        }
    }
    if core.cluster().is_none() {
        problems.push("this node has not joined a cluster yet".to_owned());
    }
    if core.health_score() > 2 {
        problems.push(format!(
            "this node is slow or loses packets (health score {} of 8)",
            core.health_score()
        ));
    }
    let settings = settings(core);
    let wanted = usize::from(settings.copies);
    let living = |member: &&NodeId| core.table().get(**member).is_some_and(Entry::is_living);
    let mut under_replicated = 0;
    let mut unknown = 0;
    let mut lost = Vec::new();
    for (partition, members) in topology.partitions.iter().enumerate() {
        if members.is_empty() {
            unknown += 1;
            continue;
        }
        let copies = members.iter().filter(living).count();
        under_replicated += usize::from(copies < wanted);
        if copies == 0 {
            lost.push(partition.to_string());
        }
    }
    if unknown > 0 {
        problems.push(format!("nobody has told yet who owns {unknown} partitions"));
    }
    if !lost.is_empty() {
        problems.push(format!(
            "no living member is known to have partitions {}: bring back those that had them (`kith ring`)",
            lost.join(", ")
        ));
    } else if under_replicated > 0 {
        let why = match core.living() {
            1 => "this node is alone".to_owned(),
            living if living < wanted => format!("only {living} members take part"),
            _ => "they are made, or members are waited for that may come back".to_owned(),
        };
        problems.push(format!(
            "{under_replicated} partitions have fewer than the {wanted} copies wanted: {why}"
        ));
    }
    StatusView {
        healthy: problems.is_empty(),
        problems,
        cluster: cluster_name(core),
        cluster_id: core.cluster().map(|cluster| cluster.id),
        members,
        partitions: usize::from(settings.partitions),
        copies: wanted,
        under_replicated,
        health_score: core.health_score(),
    }
}

/// Whether every partition keeps a copy elsewhere if that member stops.
pub(crate) fn stopping(core: &Core, member: &str) -> Option<Stopping> {
    let entry = core.table().find(member)?;
    let living = core.table().iter().filter(|entry| entry.is_living());
    Some(Stopping {
        member: entry.name(),
        id: entry.identity.id,
        living: living.map(|entry| entry.identity.id).collect(),
        strict: settings(core).consistency == Consistency::Strict,
    })
}

/// The name of the cluster it is in, or of the one that it is to join or to found.
fn cluster_name(core: &Core) -> String {
    let cluster = core.cluster().map(|cluster| &cluster.name);
    cluster.unwrap_or(&core.config().cluster).clone()
}

/// The cluster's, or what a cluster founded here would have.
fn settings(core: &Core) -> ClusterSettings {
    let own = core.config().settings;
    core.cluster().map_or(own, |cluster| cluster.settings)
}

/// The ids of the keys, the one that seals first.
pub(crate) fn keys(ring: &Keyring) -> Vec<KeyView> {
    let primary = ring.primary().id();
    ring.ids()
        .map(|id| KeyView {
            id: id.to_string(),
            primary: id == primary,
        })
        .collect()
}

pub(crate) fn counters(core: &Core) -> BTreeMap<&'static str, u64> {
    core.counters()
}
