//! From the core's state to what the interfaces show.

use std::collections::BTreeMap;

use kith_proto::{
    core::Core,
    event::Transport,
    id::NodeId,
    members::table::Entry,
    placement::{self, Assignment},
    wire::keyring::Keyring,
};
use serde_json::Value;

use crate::{
    clock::{Clock, rfc3339},
    view::{AgentView, KeyView, MemberView, PartitionView, SafeToStopView, Status, StatusView},
};

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
        cluster: config.cluster.clone(),
        cluster_id: cluster.map(|cluster| cluster.id),
        settings: cluster.map_or(config.settings, |cluster| cluster.settings),
        gossip: config.advertise,
        http: config.http,
        resp: config.resp,
        config: host.settings.clone(),
    }
}

/// Everybody whose record is known, by name.
pub(crate) fn members(core: &Core, host: &Host) -> Vec<MemberView> {
    let mut members: Vec<MemberView> = core
        .table()
        .iter()
        .filter_map(|entry| member(core, host, entry))
        .collect();
    members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    members
}

fn member(core: &Core, host: &Host, entry: &Entry) -> Option<MemberView> {
    let record = entry.record.as_ref()?;
    let id = entry.identity.id;
    let (owned, backups) = core.assignment().counts(id);
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

/// All partitions, or only the one that holds `key`.
pub(crate) fn partitions(core: &Core, key: Option<&[u8]>) -> Vec<PartitionView> {
    let assignment = core.assignment();
    let Ok(partitions) = u16::try_from(assignment.partitions()) else {
        return Vec::new();
    };
    if partitions == 0 {
        return Vec::new();
    }
    let only = key.map(|key| placement::partition_of(key, partitions));
    let name = |id: &NodeId| core.table().name_of(*id);
    assignment
        .iter()
        .filter(|(partition, _)| only.is_none_or(|only| only == *partition))
        .map(|(partition, members)| {
            let (first, last) = placement::slots(partition, partitions);
            PartitionView {
                id: partition,
                slots: [first, last],
                owner: members.first().map(name),
                backups: members.iter().skip(1).map(name).collect(),
                state: "proposed".to_owned(),
                reason: "placed by the members in view".to_owned(),
            }
        })
        .collect()
}

pub(crate) fn status(core: &Core) -> StatusView {
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
    let settings = core
        .cluster()
        .map_or(core.config().settings, |cluster| cluster.settings);
    let wanted = usize::from(settings.copies);
    let assignment = core.assignment();
    let under_replicated = assignment
        .iter()
        .filter(|(_, members)| members.len() < wanted)
        .count();
    if under_replicated > 0 {
        problems.push(format!(
            "{under_replicated} partitions have fewer places than the {wanted} copies wanted: \
             {} members take part",
            core.living()
        ));
    }
    StatusView {
        healthy: problems.is_empty(),
        problems,
        cluster: core.config().cluster.clone(),
        cluster_id: core.cluster().map(|cluster| cluster.id),
        members,
        partitions: usize::from(settings.partitions),
        copies: wanted,
        under_replicated,
        health_score: core.health_score(),
    }
}

/// Whether every partition keeps a place elsewhere if that member stops.
pub(crate) fn safe_to_stop(core: &Core, member: &str) -> Option<SafeToStopView> {
    let entry = core.table().find(member)?;
    let alone = alone_at(core.assignment(), entry.identity.id);
    let reason = if alone == 0 {
        "every partition has a place on some other member".to_owned()
    } else {
        format!("{alone} partitions have a place on no other member")
    };
    Some(SafeToStopView {
        member: entry.name(),
        safe: alone == 0,
        reason,
    })
}

fn alone_at(assignment: &Assignment, id: NodeId) -> usize {
    assignment
        .iter()
        .filter(|(_, members)| !members.is_empty() && members.iter().all(|member| *member == id))
        .count()
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
