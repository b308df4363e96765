//! Partition cores without the rest: real shards, a virtual clock, streams that break, disks that
//! forget, and a membership that an oracle tells.
//!
//! ```text
//!   oracle: who lives ──after a while──> View of each node
//!   clients ──> any node ──> shard.handle, flush ──outputs──> streams (in order, may break)
//!                                                        └──> disk (synced after a while)
//! ```
//!
//! Failure detection is simulated elsewhere ([`crate::world`]). Here it is only told, early, late
//! or wrongly, so that thousands of runs of the partition protocol take minutes.
//!
//! | file | subject |
//! |---|---|
//! | `process` | nodes: processes, clocks, what goes into a core and comes out of it |
//! | `network` | streams, and cuts between nodes |
//! | [`oracle`] | membership as it is told |
//! | `departure` | nodes that leave, or stop and will be back |
//! | [`disk`] | what survives the end of a process, and of a machine; what goes wrong |
//! | [`client`] | what clients ask, and what they were answered |
//! | [`check`] | the promises, one file each: what is checked, how, and what is not |
//! | [`plan`] | faults drawn from a seed |
//! | [`run`] | whole runs |
//! | [`points`] | crashes, pauses and cuts between any two steps |
//! | [`availability`] | how long nobody answers after a fault |
//! | [`command`] | `kith-sim partitions` |
//! | `drive` | time |

pub mod availability;
pub mod check;
pub mod client;
pub mod command;
mod departure;
pub mod disk;
mod drive;
mod network;
pub mod oracle;
pub mod plan;
pub mod points;
mod process;
pub mod run;

use std::{ops::Range, time::Duration};

use kith_proto::{
    config::{ClusterSettings, Consistency},
    event::Event,
    id::NodeId,
    placement::Placer,
    replica::{host::SyncMode, shard::Shard},
    time::Time,
};
use rand::{SeedableRng, rngs::ChaCha8Rng};

pub use self::drive::{Blow, How};
use self::{check::Checks, client::Clients, drive::Happening, network::Network, process::Node};
use crate::agenda::Agenda;
pub use kith_proto::replica::omit::Omit;

/// Index of a node.
pub type NodeIndex = usize;

/// What a lab is built with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides everything that is random.
    pub seed: u64,
    /// Nodes in the beginning.
    pub nodes: usize,
    /// Settings of the cluster.
    pub settings: ClusterSettings,
    /// When data must be on the disk.
    pub sync: SyncMode,
    /// How long after a failure its copies are made elsewhere.
    pub repair_delay: Duration,
    /// How long a deletion is remembered after all members know of it.
    pub tombstone_grace: Duration,
    /// The rule that is left out on purpose, if one is.
    pub omit: Option<Omit>,
}

impl Setup {
    /// Five nodes, three copies, eight partitions.
    pub fn new(seed: u64, consistency: Consistency) -> Self {
        Self {
            seed,
            nodes: 5,
            settings: ClusterSettings {
                partitions: 8,
                copies: 3,
                consistency,
            },
            sync: SyncMode::Interval,
            repair_delay: Duration::from_secs(10),
            tombstone_grace: Duration::from_secs(24 * 3600),
            omit: None,
        }
    }

    /// Whether the cluster is a strict one.
    pub fn is_strict(&self) -> bool {
        self.settings.consistency == Consistency::Strict
    }
}

/// How long it takes until others notice (ms), drawn for each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// That a process has ended.
    pub end: Range<u64>,
    /// That there are no streams any more to somebody who runs.
    pub cut: Range<u64>,
}

impl Default for Noticed {
    // Early and late, so that everything meets everything.
    fn default() -> Self {
        Self {
            end: 20..300,
            cut: 200..2500,
        }
    }
}

/// The lab.
pub struct Lab {
    /// What it was built with.
    pub setup: Setup,
    /// What clients asked and were told.
    pub clients: Clients,
    /// What nodes told their users.
    pub events: Vec<(Time, NodeIndex, Event)>,
    /// Nodes that stopped because of their disks, and what they said.
    pub broken: Vec<(Time, NodeIndex, String)>,
    /// How fast failures are noticed.
    pub noticed: Noticed,
    /// Everything is printed while it happens.
    pub verbose: bool,
    now: Time,
    nodes: Vec<Node>,
    index: process::Index,
    network: Network,
    agenda: Agenda<Happening>,
    rng: ChaCha8Rng,
    placer: Placer,
    requests: u64,
    checks: Checks,
    digest: u64,
    /// Steps that were counted, and the blow that waits for one of them.
    points: u64,
    counting: bool,
    blow: Option<Blow>,
}

impl Lab {
    /// Nodes that have just started; the first one founds the cluster.
    pub fn new(setup: Setup) -> Self {
        let mut lab = Self {
            clients: Clients::default(),
            events: Vec::new(),
            broken: Vec::new(),
            noticed: Noticed::default(),
            verbose: false,
            now: Time::from_millis(1),
            nodes: Vec::new(),
            index: process::Index::new(),
            network: Network::default(),
            agenda: Agenda::default(),
            rng: ChaCha8Rng::seed_from_u64(setup.seed),
            placer: Placer::default(),
            requests: 0,
            checks: Checks::default(),
            digest: 0,
            points: 0,
            counting: false,
            blow: None,
            setup,
        };
        for _ in 0..lab.setup.nodes {
            lab.add();
        }
        lab
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Number of nodes, dead ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// One number for everything that happened.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether a node's process runs.
    pub fn is_alive(&self, node: NodeIndex) -> bool {
        self.nodes[node].shard.is_some()
    }

    /// Whether a node's process runs, but does nothing.
    pub fn is_paused(&self, node: NodeIndex) -> bool {
        self.nodes[node].paused
    }

    /// Whether a node left for good, or its disk was wiped.
    pub fn is_gone(&self, node: NodeIndex) -> bool {
        self.nodes[node].gone
    }

    /// Whether a node had marks that it may have forgotten something when its process ended.
    pub(super) fn ended_distrusted(&self, node: NodeIndex) -> bool {
        self.nodes[node].ended_distrusted
    }

    /// Nodes whose processes run.
    pub fn living(&self) -> Vec<NodeIndex> {
        (0..self.len())
            .filter(|node| self.is_alive(*node))
            .collect()
    }

    /// A node's core, while its process runs.
    pub fn shard(&self, node: NodeIndex) -> Option<&Shard> {
        self.nodes[node].shard.as_deref()
    }

    /// A node's id.
    pub fn id(&self, node: NodeIndex) -> NodeId {
        self.nodes[node].id
    }

    /// Does that at that moment from now on.
    pub fn schedule(&mut self, after: Duration, action: plan::Action) {
        self.agenda.push(self.now + after, Happening::Act(action));
    }

    pub(crate) fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    fn mix(&mut self, what: u64) {
        self.digest = self.digest.rotate_left(7).wrapping_add(what) ^ self.now.as_nanos();
    }
}
