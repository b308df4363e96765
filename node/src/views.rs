//! From the core's state to what the interfaces show. (Stand-in, as the core is.)

use std::collections::BTreeMap;

use kith_proto::{core::Core, wire::keyring::Keyring};
use serde_json::Value;

use crate::{
    clock::Clock,
    view::{AgentView, KeyView, MemberView, PartitionView, SafeToStopView, StatusView},
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
    AgentView {
        name: config.name.clone(),
        id: config.node,
        generation: config.generation,
        version: config.software.clone(),
        pid: std::process::id(),
        phase: "active".to_owned(),
        cluster: config.cluster.clone(),
        cluster_id: None,
        settings: config.settings,
        gossip: config.advertise,
        http: config.http,
        resp: config.resp,
        config: host.settings.clone(),
    }
}

pub(crate) fn members(_core: &Core, _host: &Host) -> Vec<MemberView> {
    Vec::new()
}

pub(crate) fn partitions(_core: &Core, _key: Option<&[u8]>) -> Vec<PartitionView> {
    Vec::new()
}

pub(crate) fn status(core: &Core) -> StatusView {
    StatusView {
        healthy: true,
        problems: Vec::new(),
        cluster: core.config().cluster.clone(),
        cluster_id: None,
        members: BTreeMap::new(),
        partitions: 0,
        copies: 0,
        under_replicated: 0,
        health_score: 0,
    }
}

pub(crate) fn safe_to_stop(_core: &Core, _member: &str) -> Option<SafeToStopView> {
    None
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

pub(crate) fn counters(_core: &Core) -> BTreeMap<&'static str, u64> {
    BTreeMap::new()
}
