//! What the HTTP interface shows, as types: written by the agent, read by every client.
//!
//! Field names are those of the interface description and are kept stable.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
pub use kith_proto::members::table::Status;
use kith_proto::{
    config::ClusterSettings,
    event::{Event, Severity},
    id::{ClusterId, NodeId, PartitionId},
    kv::version::Version,
};
use serde::{Deserialize, Serialize};

/// `GET /v1/members`: one of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Unique name.
    pub name: String,
    /// Id, 16 hexadecimal digits.
    pub id: NodeId,
    /// How it is seen.
    pub status: Status,
    /// Which of its lives.
    pub generation: u64,
    /// Gossip and peer address.
    pub address: SocketAddr,
    /// HTTP address, if it told one.
    pub http: Option<SocketAddr>,
    /// RESP address, if it told one.
    pub resp: Option<SocketAddr>,
    /// Failure zone; empty if none.
    pub zone: String,
    /// Share of the work relative to others.
    pub weight: u32,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Smoothed round-trip time (milliseconds), once measured.
    pub rtt_ms: Option<f64>,
    /// Partitions that it owns according to the answering agent's view.
    pub owned: usize,
    /// Partitions that it backs up according to that view.
    pub backups: usize,
    /// Since when it has this status (RFC 3339).
    pub since: String,
    /// The software's version that it runs.
    pub software: String,
    /// True for the answering agent itself.
    #[serde(rename = "self")]
    pub is_self: bool,
}

/// `GET /v1/partitions`: one of the list. Members are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Number.
    pub id: PartitionId,
    /// First and last slot of its range.
    pub slots: [u16; 2],
    /// Of its configuration: grows with each one.
    pub epoch: u64,
    /// Of its configuration: random, another one after a split (16 hexadecimal digits).
    pub branch: String,
    /// Who owns it; `None` while that is unknown.
    pub owner: Option<String>,
    /// Who backs it up, nearest successor first.
    pub backups: Vec<String>,
    /// What this node does for it: `owner`, `backup`, `elsewhere`, or what is going on.
    pub state: String,
    /// Why it is in that state.
    pub reason: String,
    /// Entries kept here, deleted ones included for a while.
    pub keys: u64,
    /// What they take (bytes), about.
    pub bytes: u64,
    /// Copies being compared or made by this node.
    pub transfers: usize,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// True if nothing below asks for hands.
    pub healthy: bool,
    /// One line for each thing that does.
    pub problems: Vec<String>,
    /// Cluster name.
    pub cluster: String,
    /// Cluster id, once known.
    pub cluster_id: Option<ClusterId>,
    /// Members by status, those with none left out.
    pub members: BTreeMap<String, usize>,
    /// Partitions in the cluster.
    pub partitions: usize,
    /// Copies wanted of each.
    pub copies: usize,
    /// Partitions that have fewer places than copies wanted, because members are missing.
    pub under_replicated: usize,
    /// This node's Lifeguard health score: 0 (well) to 8.
    pub health_score: u8,
}

/// `GET /v1/status?safe_to_stop=NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafeToStopView {
    /// The member asked about.
    pub member: String,
    /// True if every partition has a complete copy on some other living member, and in strict
    /// clusters a majority without it.
    pub safe: bool,
    /// Why.
    pub reason: String,
}

/// `POST /v1/partitions/recover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverView {
    /// Partitions that are about to go on.
    pub partitions: Vec<PartitionId>,
    /// Partitions that are blocked and are left alone: not for some seconds yet, or an earlier word is
    /// being followed.
    #[serde(default)]
    pub waiting: Vec<PartitionId>,
    /// How many of those that this node is a member of needed nothing.
    #[serde(default)]
    pub unneeded: usize,
}

/// `GET /v1/agent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// This node's name.
    pub name: String,
    /// Its id.
    pub id: NodeId,
    /// Which of its lives.
    pub generation: u64,
    /// The software's version.
    pub version: String,
    /// Process id on its machine.
    pub pid: u32,
    /// `starting`, `joining`, `active`, `leaving` or `left`.
    pub phase: String,
    /// Cluster name.
    pub cluster: String,
    /// Cluster id, once known.
    pub cluster_id: Option<ClusterId>,
    /// What was fixed when the cluster was bootstrapped.
    pub settings: ClusterSettings,
    /// Gossip and peer address told to others.
    pub gossip: SocketAddr,
    /// HTTP address.
    pub http: Option<SocketAddr>,
    /// RESP address.
    pub resp: Option<SocketAddr>,
    /// While it hands partitions over before it leaves: what is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<LeavingView>,
    /// Effective settings of the agent, by name; secrets left out.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// What a node that is about to leave has still to hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingView {
    /// Partitions.
    pub partitions: usize,
    /// What the partitions that it is a member of take (bytes), about.
    pub bytes: u64,
    /// Since something was handed over last (milliseconds).
    pub idle_ms: u64,
}

/// An entry of `GET /v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The key's id, 8 hexadecimal digits; never the key.
    pub id: String,
    /// True for the one that seals.
    pub primary: bool,
}

/// The answer to a change of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysChangeView {
    /// The key's id.
    pub id: String,
    /// Members that did it.
    pub confirmed: Vec<String>,
    /// Members that did not, each with the reason.
    pub missing: Vec<(String, String)>,
}

/// An event of `GET /v1/events` and of the JSON log: flat, with `event` and its own fields
/// beside these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Sequence number in this life of the agent, from 1.
    pub seq: u64,
    /// When the agent saw it (RFC 3339, microseconds).
    pub timestamp: String,
    /// How much it matters.
    pub level: Severity,
    /// Name of the node that saw it.
    pub node: String,
    /// The event itself.
    #[serde(flatten)]
    pub event: Event,
}

/// The answer to `POST /v1/kv/{key}?incr=N`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedView {
    /// The sum.
    pub value: i64,
    /// Its version.
    pub version: String,
}

/// `GET /v1/kv`: a page of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanView {
    /// Keys, in an order of their own.
    pub keys: Vec<KeyInScanView>,
    /// What to give as `after` for the next page; `None` if this is the last.
    pub next: Option<String>,
}

/// A key of a scan. One of the first two fields is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInScanView {
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key in base64, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Its version.
    pub version: String,
}

impl KeyInScanView {
    /// Of that key.
    pub fn new(key: &[u8], version: Version) -> Self {
        let text = std::str::from_utf8(key).ok().map(str::to_owned);
        let encoded = text.is_none().then(|| STANDARD.encode(key));
        Self {
            key: text,
            key_base64: encoded,
            version: version.to_string(),
        }
    }

    /// The key's bytes; `None` if neither field has them.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.key, &self.key_base64) {
            (Some(key), _) => Some(key.clone().into_bytes()),
            (None, Some(encoded)) => STANDARD.decode(encoded).ok(),
            (None, None) => None,
        }
    }
}

/// An error, as RFC 9457 problem details.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What programs can tell it by, where the status does not say enough:
    /// [`Self::INDETERMINATE`].
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What kind of problem, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and what would help.
    pub detail: String,
}

impl Problem {
    /// The type of a change of which it is not known whether it was made, or may yet be.
    pub const INDETERMINATE: &str = "urn:kith:problem:indeterminate";

    /// Whether it is not known what has changed. With every other problem nothing has.
    pub fn is_indeterminate(&self) -> bool {
        self.kind.as_deref() == Some(Self::INDETERMINATE)
    }
}
