//! What the host keeps on disk for the core, and what it promises about it.
//!
//! An [`crate::output::Output::Persist`] carries the whole of [`Durable`]. The host writes
//! it atomically (all of it or nothing, also at a power cut) before it carries out
//! anything that comes after, and hands it back as [`Restored`] at the next start. With
//! `--ephemeral` nothing is kept and `Restored` is empty. What partitions hold is kept apart:
//! see [`partitions`].

pub mod partitions;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    config::ClusterSettings,
    id::{ClusterId, NodeId},
};

/// How many addresses of peers are kept for finding the cluster again.
pub const MAX_KNOWN_PEERS: usize = 64;

/// The cluster that a node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id, minted at bootstrap.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// What was fixed at bootstrap.
    pub settings: ClusterSettings,
}

/// Everything that must survive a restart. Keys are kept beside it by the host, from
/// [`crate::output::Output::Keys`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable {
    /// The node's id; a wiped data directory is a new one.
    pub node: NodeId,
    /// The generation of this life.
    pub generation: u64,
    /// The cluster, once the node has joined or bootstrapped one.
    pub cluster: Option<Cluster>,
    /// Addresses of peers, those heard from most recently first, failed ones too; at most
    /// [`MAX_KNOWN_PEERS`].
    pub peers: Vec<SocketAddr>,
    /// This node bootstrapped the cluster: the first configurations of partitions are its to mint.
    #[serde(default)]
    pub founder: bool,
}

/// What an earlier life left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The cluster that the node belonged to.
    pub cluster: Option<Cluster>,
    /// Addresses at which peers were.
    pub peers: Vec<SocketAddr>,
    /// This node bootstrapped the cluster.
    pub founder: bool,
}
