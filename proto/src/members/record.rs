//! What a node tells about itself, once, and again only when it changes.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, MAX_NAME, MAX_TAGS, tags_size},
    id::{Life, NodeId},
};

/// The longest text of a software version, and of the name in an eviction (bytes).
const MAX_TEXT: usize = 64;

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It serves.
    Active,
    /// It hands over what it has, because it will leave for good.
    Leaving,
    /// It is gone on purpose.
    Left {
        /// It said that it will be back.
        returning: bool,
    },
    /// An operator removed it; sticky for that life.
    Evicted {
        /// The name of the member through which it was done.
        by: String,
    },
    /// It hands over what it owns, because it will stop, and be back.
    Stopping,
}

/// What a node tells about itself. Nothing in it changes while nothing happens.
///
/// Of two records of one node the one with the larger (generation, version) holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose.
    pub life: Life,
    /// The generation with which its process started: its generation, unless another process was
    /// found that had the same id (see `core::duplicates`).
    pub started: u64,
    /// Grows with each change within a life. An eviction has the largest there is.
    pub version: u64,
    /// The node's unique name.
    pub name: String,
    /// Gossip and peer address.
    pub addr: SocketAddr,
    /// HTTP address, if it serves it.
    pub http: Option<SocketAddr>,
    /// RESP address, if it serves it.
    pub resp: Option<SocketAddr>,
    /// Failure zone; empty if none.
    pub zone: String,
    /// Share of the work relative to others.
    pub weight: u32,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Protocol versions it speaks, oldest and newest.
    pub protocol: (u16, u16),
    /// The software's version.
    pub software: String,
}

impl Record {
    /// The first record of a life.
    pub fn of(config: &Config) -> Self {
        Self {
            life: Life {
                id: config.node,
                generation: config.generation,
            },
            started: config.generation,
            version: 1,
            name: config.name.clone(),
            addr: config.advertise,
            http: config.http,
            resp: config.resp,
            zone: config.zone.clone(),
            weight: config.weight,
            tags: config.tags.clone(),
            phase: Phase::Active,
            protocol: config.protocol,
            software: config.software.clone(),
        }
    }

    /// Whose record it is.
    pub fn id(&self) -> NodeId {
        self.life.id
    }

    /// What decides between two records of one node: the larger holds.
    pub fn rank(&self) -> (u64, u64) {
        (self.life.generation, self.version)
    }

    /// The same record, ended by an operator through the member named `by`.
    pub fn evicted(&self, by: &str) -> Self {
        Self {
            version: u64::MAX,
            phase: Phase::Evicted { by: by.to_owned() },
            ..self.clone()
        }
    }

    /// Whether its life is over, by its own word or an operator's.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Left { .. } | Phase::Evicted { .. })
    }

    /// Whether its sizes are within bounds; asked of each record that comes from outside.
    pub fn is_bounded(&self) -> bool {
        let by = match &self.phase {
            Phase::Evicted { by } => by.len(),
            _ => 0,
        };
        (1..=self.life.generation).contains(&self.started)
            && (1..=MAX_NAME).contains(&self.name.len())
            && self.zone.len() <= MAX_NAME
            && self.software.len() <= MAX_TEXT
            && by <= MAX_NAME
            && tags_size(&self.tags) <= MAX_TAGS
            && (1..=10_000).contains(&self.weight)
    }
}
