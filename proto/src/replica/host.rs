//! The seam between a partition core and its host.
//!
//! ```text
//!   handle(now, input) ... handle(now, input), flush(now)     what has arrived, then once
//!   poll_output() until None                                  in order; `after` a sync
//!   poll_timeout(): handle(now, Tick) then
//! ```
//!
//! Effects that need something on the disk carry the [`SyncToken`] after which they may
//! happen. The host syncs when asked ([`Output::Sync`]), holds back what waits, and goes on
//! with everything else.

use std::{collections::BTreeMap, sync::Arc};

use super::message::Message;
use crate::{
    config::{ClusterSettings, Consistency},
    event::Event,
    id::{NodeId, PartitionId},
    input::{RequestId, StreamId},
    kv::{
        request::{Request, RequestError, Response},
        version::Wall,
    },
    placement::Assignment,
    time::Time,
};

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic: for everything that waits.
    pub time: Time,
    /// The clock on the wall: for versions and expiry.
    pub wall: Wall,
}

/// Everything that was written before a sync of this number; they grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncToken(pub u64);

/// When data must be on the disk. Chain records always are before they are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// Before a write counts.
    Always,
    /// Soon: the host syncs every 100 ms or so.
    #[default]
    Interval,
    /// When the system likes to.
    Never,
}

/// How this node sees another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes part.
    Living,
    /// It takes part, and wants to go: nothing new for it.
    Leaving,
    /// It stopped, and will be back.
    Returning,
    /// It was declared failed.
    Failed,
    /// It left for good, or was evicted.
    Gone,
}

/// A member in view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
    /// The stream to it, if there is one: what was under way on an earlier one may be lost.
    pub stream: Option<StreamId>,
}

/// What membership tells the partitions.
#[derive(Clone, Debug)]
pub struct View {
    /// Everybody known, this node included.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Where placement wants partitions, once those that are missing are given up.
    pub target: Arc<Assignment>,
    /// What was fixed for the cluster.
    pub settings: ClusterSettings,
    /// This node bootstrapped the cluster in this life.
    pub founder: bool,
    /// This node stops or leaves.
    pub leaving: bool,
}

impl View {
    /// How a member stands; `None` if nobody has told of it.
    pub fn standing(&self, node: NodeId) -> Option<Standing> {
        self.peers.get(&node).map(|peer| peer.standing)
    }

    /// A member's name, or its id while that is unknown.
    pub fn name(&self, node: NodeId) -> String {
        match self.peers.get(&node) {
            Some(peer) => peer.name.clone(),
            None => node.to_string(),
        }
    }

    /// Whether a member takes part.
    pub fn is_living(&self, node: NodeId) -> bool {
        matches!(
            self.standing(node),
            Some(Standing::Living | Standing::Leaving)
        )
    }

    /// Whether a node has said that it stops, or leaves, now; it may run for a moment yet.
    pub fn said_farewell(&self, node: NodeId) -> bool {
        matches!(
            self.standing(node),
            Some(Standing::Returning | Standing::Gone)
        )
    }

    /// The stream to a member that takes part.
    pub fn stream(&self, node: NodeId) -> Option<StreamId> {
        self.peers
            .get(&node)
            .filter(|_| self.is_living(node))
            .and_then(|peer| peer.stream)
    }

    /// Whether a member takes part and can be talked to.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        self.is_living(node) && self.stream(node).is_some()
    }

    /// Whether a partition has one owner whatever happens.
    pub fn is_strict(&self) -> bool {
        self.settings.consistency == Consistency::Strict
    }
}

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// Membership has changed.
    View(Arc<View>),
    /// A peer says something.
    Message {
        /// Who.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// A client of this node asks something.
    Request {
        /// Comes back with the answer.
        request: RequestId,
        /// The partition that it is about.
        partition: PartitionId,
        /// What is asked.
        body: Request,
    },
    /// Everything written before that token was given out is on the disk.
    Synced(SyncToken),
}

/// Something that the host shall do.
#[derive(Debug)]
pub enum Output {
    /// Send a message over the stream to a peer; if there is none it is lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// Not before that is on the disk.
        after: Option<SyncToken>,
    },
    /// Answer a client.
    Reply {
        /// Which request.
        request: RequestId,
        /// What came of it.
        result: Result<Response, RequestError>,
        /// Not before that is on the disk.
        after: Option<SyncToken>,
    },
    /// Bring everything written so far to the disk, and say so with [`Input::Synced`].
    Sync(SyncToken),
    /// Something that people want to know.
    Event(Event),
    /// The store does not keep what it is given: this node serves no partition any more.
    Broken(String),
}
