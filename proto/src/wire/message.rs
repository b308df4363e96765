//! Every message there is.
//!
//! **Datagrams** (UDP, sealed by [`super::seal`]). The plaintext opens with a kind byte:
//!
//! | kind | follows |
//! |---|---|
//! | [`KIND_SWIM`] | a foca packet: probes, gossip, with [`News`] as its custom broadcasts |
//! | [`KIND_SWIM_BUDDY`] | incarnation (2 bytes): "you are suspected at it"; then a foca packet |
//! | [`KIND_DIRECT`] | one [`Direct`], from the life that opens it |
//!
//! **Frames** on peer streams (TCP with TLS): one [`Frame`] each.
//!
//! Joining, and every other first contact (A dials B):
//!
//! ```text
//! A ->[Hello: who I am, which cluster, why]                 B
//! B ->[Welcome: cluster, settings, keys, who is there]      A     A is a member now, and knows all
//!   | [NotReady: I am no member yet either; who expects]          A tries again
//!   | [Refused: why]                                              A says why, and stops
//!   | [Taken: by whom], if A is a member                          the younger one stops
//! ```
//!
//! Push/pull, every 30 s and after each Welcome to a member; at most two round trips, and one
//! small message each way while nothing differs:
//!
//! ```text
//! A ->[SyncDigest: one number for all I know]  B            equal: nothing more is said
//! B ->[SyncSummary: a number for each member]  A
//! A ->[SyncDelta: what you lack; what I want]  B
//! B ->[SyncDelta: that]                        A
//! ```
//!
//! Checking a member X that somebody suspects, or whose stream broke (see `swim::inquiry`):
//!
//! ```text
//! A ->[Ping: life of X, nonce, "you are suspected at 3"]  X
//! X ->[Pong: nonce, my incarnation is 4 now]              A     refuted within a round trip
//! A ->[Accuse: X is silent, its host says refused]        B, C, D   if it did not answer
//! ```

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    config::{ClusterSettings, tags_size},
    event::Reason,
    id::{ClusterId, Life, NodeId},
    members::record::Record,
    store::Cluster,
    swim::identity::Identity,
    wire::keyring::{Key, KeyId},
};

/// Plaintext kind: a foca packet.
pub const KIND_SWIM: u8 = 0;
/// Plaintext kind: a suspicion of the receiver, then a foca packet.
pub const KIND_SWIM_BUDDY: u8 = 1;
/// Plaintext kind: a [`Direct`].
pub const KIND_DIRECT: u8 = 2;
/// The most accusers that a verdict names.
pub const MAX_ACCUSERS: usize = 4;

/// What one member says to another outside of foca's own exchange; over UDP, or over a
/// stream where UDP is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direct {
    /// The life that says it.
    pub from: Life,
    /// What it says.
    pub body: DirectBody,
}

/// See [`Direct`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectBody {
    /// Are you, that life, there?
    Ping {
        /// Only this life may answer.
        to: Life,
        /// Comes back in the answer.
        nonce: u32,
        /// "You are suspected": at that renewal and incarnation.
        suspected: Option<(u32, u16)>,
    },
    /// I am.
    Pong {
        /// The ping's.
        nonce: u32,
        /// How often this life was renewed.
        renewal: u32,
        /// Its incarnation, above the suspected one.
        incarnation: u16,
    },
    /// Lifeguard's negative acknowledgement: I live, and heard your request for an indirect
    /// probe, but the target has not answered me either (section IV.A).
    Nack {
        /// Whom it was about.
        target: NodeId,
        /// The probe's number.
        probe: u8,
    },
    /// News for exactly this receiver, at once.
    News(News),
    /// I leave; my last record. For those without a stream; see [`Frame::Farewell`].
    Farewell(Box<Record>),
    /// I know.
    FarewellHeard,
    /// You count as down here at that renewal: take a new identity.
    Disowned {
        /// The renewal that counts as down.
        renewal: u32,
    },
}

/// What travels from member to member until all know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// A node's record has changed.
    Record(Box<Record>),
    /// A member suspects another.
    Accusation(Accusation),
    /// A member declared another failed.
    Verdict(Verdict),
}

/// "I have reason to believe that it failed."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accusation {
    /// Who is suspected.
    pub target: Life,
    /// At which renewal.
    pub renewal: u32,
    /// At which incarnation; a larger one refutes.
    pub incarnation: u16,
    /// Who says so.
    pub accuser: NodeId,
    /// What it found.
    pub reason: Reason,
    /// How long the target had been silent then, since a message that it did not answer
    /// (milliseconds).
    pub silent_ms: u32,
}

/// "It failed."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Who failed.
    pub target: Life,
    /// At which renewal.
    pub renewal: u32,
    /// Who says so.
    pub author: NodeId,
    /// What was found.
    pub reason: Reason,
    /// Who found it, at most [`MAX_ACCUSERS`].
    pub accusers: Vec<NodeId>,
}

/// What foca knows of a member, for synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// Alive, or suspected and not yet down.
    Active,
    /// Declared down.
    Down,
}

/// All that one member knows of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncEntry {
    /// Its newest identity.
    pub identity: Identity,
    /// Its newest incarnation.
    pub incarnation: u16,
    /// Whether it lives.
    pub health: Health,
    /// Its newest record, once known.
    pub record: Option<Record>,
}

impl SyncEntry {
    /// At most so many bytes encoded.
    pub fn most_bytes(&self) -> usize {
        /// All but tags, with every name and address as long as can be (the test of parcels
        /// asserts it).
        const BARE: usize = 480;
        /// Lengths of a key and of its value.
        const LENGTHS: usize = 6;
        let tags = self.record.as_ref().map(|record| &record.tags);
        BARE + tags.map_or(0, |tags| tags_size(tags) + tags.len() * LENGTHS)
    }
}

/// Why a stream is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// To become a member.
    Join,
    /// To bootstrap a cluster together, or to join one that is there already.
    Expect(Expecting),
    /// As a member already.
    Peer,
}

/// A node that waits until enough others do (`--expect`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expecting {
    /// How many it wants.
    pub wanted: u32,
    /// Whom it has heard of, itself included.
    pub known: Vec<(NodeId, SocketAddr)>,
}

/// First frame of whoever dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions, oldest and newest. This field stays first for ever.
    pub protocol: (u16, u16),
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's id, if it belongs to one already.
    pub cluster: Option<ClusterId>,
    /// Why it calls.
    pub intent: Intent,
    /// Its identity.
    pub identity: Identity,
    /// Its incarnation.
    pub incarnation: u16,
    /// Its record.
    pub record: Record,
}

/// The answer of a member that accepts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The cluster.
    pub cluster: Cluster,
    /// The one who answers.
    pub identity: Identity,
    /// Its incarnation.
    pub incarnation: u16,
    /// Its record.
    pub record: Record,
    /// All keys in use, so that a node that was away during a rotation catches up.
    pub keys: Vec<Key>,
    /// The caller's renewal that counts as down here, if it does.
    pub disowned: Option<u32>,
    /// Everybody known, for a joiner; empty for a member, which synchronises instead.
    pub entries: Vec<SyncEntry>,
}

impl std::fmt::Debug for Welcome {
    // Never shows keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Welcome")
            .field("cluster", &self.cluster)
            .field("identity", &self.identity)
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// One frame on a peer stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First, from the dialling side.
    Hello(Box<Hello>),
    /// Accepted.
    Welcome(Box<Welcome>),
    /// Not now: the answering node is no member yet.
    NotReady(Expecting),
    /// Never: the text says why.
    Refused(String),
    /// To a member: another one holds its id or name; here is that one's record.
    Taken(Box<Record>),
    /// One of two streams between the same two members is one too many; the other one stays.
    Superfluous,
    /// Also over streams.
    Direct(DirectBody),
    /// One number for everything known.
    SyncDigest(u64),
    /// A number for each member known.
    SyncSummary(Vec<(NodeId, u64)>),
    /// What the other lacks, and what is wanted of it.
    SyncDelta {
        /// What the other lacks.
        entries: Vec<SyncEntry>,
        /// What is wanted.
        want: Vec<NodeId>,
    },
    /// Members that came lately, for one that came lately too.
    Newcomers(Vec<SyncEntry>),
    /// I leave; my last record.
    Farewell(Box<Record>),
    /// I know, and told others.
    FarewellHeard,
    /// Change of keys.
    KeyRequest {
        /// Comes back with the answer.
        operation: u64,
        /// What to do.
        action: KeyAction,
    },
    /// What came of it.
    KeyReply {
        /// The request's.
        operation: u64,
        /// How it stands with that key here now.
        outcome: Result<KeyState, String>,
    },
}

/// What shall be done with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyAction {
    /// Accept it.
    Add(Key),
    /// Only tell how it stands.
    Query(KeyId),
    /// Seal with it.
    Use(KeyId),
    /// Forget it.
    Remove(KeyId),
}

/// How it stands with a key at some member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// It is accepted.
    pub held: bool,
    /// It seals.
    pub primary: bool,
}

/// Settings as a peer may claim them: they are checked before they are believed.
pub fn settings_are_possible(settings: &ClusterSettings) -> bool {
    settings.partitions.is_power_of_two()
        && settings.partitions <= 16_384
        && (1..=16).contains(&settings.copies)
}
