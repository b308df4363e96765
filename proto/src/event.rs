//! Events: what operators, dashboards and programs want to know about the cluster.
//!
//! Names and fields are those of the interface description and are kept stable. In JSON an
//! event is one flat object with its name under `event`; hosts add when, how severe, the
//! node that saw it and a sequence number.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, NodeId, PartitionId};

/// How much a reader of the log should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// A decision.
    Debug,
    /// A change of state.
    Info,
    /// An operator should look at it.
    Warn,
    /// It needs hands.
    Error,
}

/// Why a member is suspected or was declared failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its host says that nobody listens there any more: the process is gone.
    Refused,
    /// Its host does not answer at all.
    Unreachable,
    /// Its host's kernel answers, but the process says nothing.
    Unresponsive,
}

/// One of the two ways to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Its peer stream.
    Tcp,
}

/// Who an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The member's name.
    pub member: String,
    /// Its id.
    pub member_id: NodeId,
}

/// Something that people want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// This node is a member and serves.
    AgentReady {
        /// Its name.
        name: String,
        /// Its id.
        id: NodeId,
        /// Which of its runs.
        generation: u64,
        /// The cluster's name.
        cluster: String,
        /// The cluster's id.
        cluster_id: ClusterId,
        /// How many members it knows, itself included.
        members: usize,
        /// Its gossip and peer address.
        gossip: SocketAddr,
        /// Its RESP address, if it serves it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        resp: Option<SocketAddr>,
        /// Its HTTP address, if it serves it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        http: Option<SocketAddr>,
    },
    /// No seed could be joined yet; it goes on trying. At most once a period.
    JoinWaiting {
        /// How long it has tried (milliseconds).
        waited_ms: u64,
        /// Each seed with what came of it.
        seeds: Vec<String>,
        /// How many nodes have to list each other before they are a cluster, if that was asked for.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expect: Option<u32>,
        /// How many this node lists so far, itself included.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        listed: Option<usize>,
    },
    /// A member that was not known before.
    MemberJoined {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// Its gossip address.
        address: SocketAddr,
        /// Which of its runs.
        generation: u64,
    },
    /// A member that was known is back in a new life.
    MemberRejoined {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// Its gossip address.
        address: SocketAddr,
        /// Which of its runs.
        generation: u64,
    },
    /// Somebody says that a member may have failed.
    MemberSuspected {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// The name of the member that said so first.
        accuser: String,
        /// What the accuser found.
        reason: Reason,
    },
    /// A suspicion, or a declared failure, was a false alarm: that life goes on.
    MemberRecovered {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// How long it was under suspicion (milliseconds), if it was no more than that.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        suspected_ms: Option<u64>,
        /// How long it counted as failed (milliseconds), if it did.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        failed_ms: Option<u64>,
    },
    /// A member's life is over, as far as can be told.
    MemberFailed {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// What was found.
        reason: Reason,
        /// Names of those who found it.
        accusers: Vec<String>,
        /// When this node last heard from it (milliseconds ago).
        last_contact_ms: u64,
        /// From the first suspicion to now (milliseconds).
        detected_ms: u64,
    },
    /// A member left or stopped on purpose.
    MemberLeft {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// It said that it will be back.
        returning: bool,
    },
    /// A member was removed by an operator.
    MemberEvicted {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// The member through which it was done.
        by: String,
    },
    /// Of UDP and the peer stream only one works between this node and a member: most likely
    /// a firewall. Never evidence of death.
    MemberHalfBlocked {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// What does not get through.
        blocked: Transport,
    },
    /// What did not get through to a member does again.
    MemberUnblocked {
        /// Who.
        #[serde(flatten)]
        who: Who,
        /// What was blocked.
        blocked: Transport,
        /// For how long, as far as this node saw (milliseconds).
        blocked_ms: u64,
    },
    /// Two parts of the cluster, or a node and the rest, have found each other again.
    ClusterHealed {
        /// Names of the members regained.
        members: Vec<String>,
    },
    /// A partition's place has changed in this node's view.
    PartitionAssigned {
        /// Which.
        partition: PartitionId,
        /// The name of its owner.
        owner: String,
        /// Names of those who back it up.
        backups: Vec<String>,
        /// The name of the owner before, if there was one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        from: Option<String>,
    },
    /// This node owns a partition now, because its owner failed.
    PartitionTakenOver {
        /// Which.
        partition: PartitionId,
        /// The name of the owner that failed.
        from: String,
        /// The epoch of the new configuration.
        epoch: u64,
        /// From the beginning of the take-over until requests were answered (milliseconds).
        took_ms: u64,
        /// Entries that it holds.
        entries: u64,
    },
    /// One line for people about all partitions that this node took over from one member.
    TakeoverSummary {
        /// The name of the owner that failed.
        from: String,
        /// How many partitions.
        partitions: usize,
        /// Until requests for the last of them were answered, from the beginning of its take-over
        /// (milliseconds).
        took_ms: u64,
    },
    /// This node has given a partition to another one on purpose.
    PartitionHandedOver {
        /// Which.
        partition: PartitionId,
        /// The name of the new owner.
        to: String,
        /// The epoch of the new configuration.
        epoch: u64,
        /// From the beginning of the change until it was decided (milliseconds).
        took_ms: u64,
    },
    /// A new copy of a partition is complete.
    PartitionCopied {
        /// Which.
        partition: PartitionId,
        /// The name of the node that has it.
        to: String,
        /// What was sent for it.
        bytes: u64,
        /// From the beginning of the change until it was decided (milliseconds).
        took_ms: u64,
    },
    /// All partitions that this node owns have all their copies again.
    RedundancyRestored {
        /// How many had lacked some.
        partitions: usize,
        /// Since the first of them did (milliseconds).
        took_ms: u64,
    },
    /// Requests for these partitions have not been answered for some seconds.
    PartitionBlocked {
        /// Which.
        partitions: Vec<PartitionId>,
        /// What they wait for, and what would mend it.
        why: String,
    },
    /// By an operator's word a partition goes on without members that were needed to decide: it is a
    /// branch of its own, and what was acknowledged by the others alone is missing until they are back.
    PartitionRecovered {
        /// Which.
        partition: PartitionId,
        /// The epoch of the new configuration.
        epoch: u64,
        /// Its branch.
        branch: u64,
        /// Who goes on.
        members: Vec<String>,
        /// Members that were given up.
        without: Vec<String>,
    },
    /// One line for people about partitions that went on by an operator's word at the same time.
    RecoverySummary {
        /// How many.
        partitions: usize,
        /// Members that were given up.
        without: Vec<String>,
    },
    /// No living node has a copy of these partitions.
    PartitionLost {
        /// Which.
        partitions: Vec<PartitionId>,
        /// Who had copies.
        why: String,
    },
    /// A key was written on both sides of a split: the later version stays.
    PartitionConflict {
        /// The partition.
        partition: PartitionId,
        /// The key; bytes that are no text are replaced.
        key: String,
        /// The version that stays.
        kept: String,
        /// The version that is dropped.
        lost: String,
    },
    /// What was written on the other side of a split has been taken over.
    PartitionJoined {
        /// The partition.
        partition: PartitionId,
        /// Entries taken over.
        entries: u64,
        /// Keys written on both sides.
        conflicts: u64,
    },
    /// One line for people about all partitions whose place has changed together.
    AssignmentSummary {
        /// Members that share the work now.
        members: usize,
        /// How many partitions have another owner than before.
        owners_moved: usize,
        /// How many copies are elsewhere than before.
        copies_moved: usize,
        /// How many partitions this node owns now.
        owned: usize,
        /// How many it backs up now.
        backups: usize,
    },
    /// The cluster's keys have changed on this node.
    KeysChanged {
        /// `added`, `used` or `removed`.
        action: String,
        /// The key's id, never the key.
        key: String,
    },
    /// Something is wrong, or odd, that an operator should look at.
    Warning {
        /// A stable word for programs, such as `clock_ahead` or `packet_rejected`.
        kind: String,
        /// For people.
        text: String,
    },
}

impl Event {
    /// How much a reader of the log should care.
    pub fn severity(&self) -> Severity {
        match self {
            Self::PartitionAssigned { .. }
            | Self::PartitionTakenOver { .. }
            | Self::PartitionHandedOver { .. }
            | Self::PartitionCopied { .. }
            | Self::PartitionRecovered { .. }
            | Self::PartitionJoined { .. } => Severity::Debug,
            Self::AgentReady { .. }
            | Self::MemberJoined { .. }
            | Self::MemberRejoined { .. }
            | Self::MemberRecovered { .. }
            | Self::MemberSuspected { .. }
            | Self::MemberLeft { .. }
            | Self::MemberUnblocked { .. }
            | Self::ClusterHealed { .. }
            | Self::AssignmentSummary { .. }
            | Self::TakeoverSummary { .. }
            | Self::RecoverySummary { .. }
            | Self::RedundancyRestored { .. }
            | Self::KeysChanged { .. } => Severity::Info,
            Self::JoinWaiting { .. }
            | Self::MemberFailed { .. }
            | Self::MemberEvicted { .. }
            | Self::MemberHalfBlocked { .. }
            | Self::PartitionConflict { .. }
            | Self::PartitionBlocked { .. }
            | Self::Warning { .. } => Severity::Warn,
            Self::PartitionLost { .. } => Severity::Error,
        }
    }
}
