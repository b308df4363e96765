//! Partitions on this node: threads that each run one partition core, and what connects them.
//!
//! ```text
//!   driver ── views, frames of peers ──> shard ── frames, events ──> driver ──> streams
//!   clients (Kv) ── calls ─────────────> shard ── answers ─────────> clients
//!                                          |  ^
//!                                  batches v  | synced
//!                                     engine, syncer
//! ```
//!
//! Shards begin once the cluster is known: how many partitions there are is fixed for it. Until
//! then calls wait in their queues. What a core wants to happen only after something is on the
//! disk is held back here until the syncer says so.

mod shard;
mod topology;

pub(crate) use self::topology::Nodes;

use std::{path::PathBuf, sync::Arc, time::Duration};

use kith_proto::{
    config::{ClusterSettings, Consistency},
    event::Event,
    id::NodeId,
    replica::{
        host::{SyncMode, View},
        message::{self, Message},
        show::Shown,
    },
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use self::topology::Known;
use crate::{
    clock::Clock,
    kv::{CALL_QUEUE, Call, Kv, Topology},
    storage::{Engine, Options, Syncer, boot_id},
};

/// The engine's cache (bytes).
const CACHE: u64 = 64 << 20;
/// Data that need not be synced at once is after so long.
const SYNC_PERIOD: Duration = Duration::from_millis(100);
/// How many threads run partitions. More use more of a machine's processors, and each costs memory.
const SHARDS: u16 = 1;

/// How a node keeps its partitions.
#[derive(Clone, Debug)]
pub struct PartitionOptions {
    /// When data must be on the disk before a write counts; `None`: always in strict clusters, soon in
    /// others.
    pub sync: Option<SyncMode>,
    /// The longest value taken (bytes).
    pub max_value: usize,
    /// Copies of a failed member's partitions are made elsewhere after this.
    pub repair_delay: Duration,
    /// The same for one that stopped and will be back.
    pub return_grace: Duration,
}

impl Default for PartitionOptions {
    fn default() -> Self {
        Self {
            sync: None,
            max_value: kith_proto::kv::MAX_VALUE,
            repair_delay: Duration::from_secs(10),
            return_grace: Duration::from_secs(60),
        }
    }
}

/// What goes to a shard's thread.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// Membership has changed.
    View(Arc<View>),
    /// A peer says something; its share of what may be received is given back once it is handled.
    Peer(NodeId, Message, Option<OwnedSemaphorePermit>),
    /// What was written before that token is on the disk, or could not be brought there.
    Synced(u64, Result<(), String>),
    /// What does it have?
    Show(oneshot::Sender<Showing>),
}

/// What a shard shows.
#[derive(Debug, Default)]
pub(crate) struct Showing {
    /// Its partitions.
    pub(crate) partitions: Vec<Shown>,
    /// Its numbers.
    pub(crate) counters: std::collections::BTreeMap<&'static str, u64>,
}

/// What comes from shards to the driver.
#[derive(Debug)]
pub(crate) enum FromShard {
    /// A frame for a peer.
    Frame(NodeId, Vec<u8>),
    /// Something that people want to know.
    Event(Event),
    /// The store has failed.
    Broken(String),
    /// How many partitions this node owns, and in how many it is a member.
    Holds {
        /// Owned.
        owned: usize,
        /// Member of.
        member: usize,
    },
}

/// Everything about partitions that the driver has.
#[derive(Debug)]
pub(crate) struct Partitions {
    node: NodeId,
    data_dir: Option<PathBuf>,
    options: PartitionOptions,
    clock: Clock,
    calls: Option<mpsc::Receiver<Call>>,
    known: Arc<Known>,
    outgoing: mpsc::UnboundedSender<FromShard>,
    shard: Option<mpsc::UnboundedSender<ToShard>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// What this node holds, as far as its shard has told.
    pub(crate) holds: (usize, usize),
}

/// Partitions could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OpenError(String);

impl Partitions {
    /// Makes a place for them: requests can be made from now on, and wait.
    pub(crate) fn new(
        node: NodeId,
        data_dir: Option<PathBuf>,
        options: PartitionOptions,
        clock: Clock,
    ) -> (Self, Kv, mpsc::UnboundedReceiver<FromShard>) {
        let (caller, calls) = mpsc::channel(CALL_QUEUE);
        let (outgoing, from_shards) = mpsc::unbounded_channel();
        let (known, topology) = Known::new();
        let kv = Kv::new(Arc::from([caller]), topology, options.max_value);
        let partitions = Self {
            node,
            data_dir,
            options,
            clock,
            calls: Some(calls),
            known: Arc::new(known),
            outgoing,
            shard: None,
            thread: None,
            holds: (0, 0),
        };
        (partitions, kv, from_shards)
    }

    /// How long those who are gone keep their places: failed, and stopped for a while.
    pub(crate) fn patience(&self) -> (Duration, Duration) {
        (self.options.repair_delay, self.options.return_grace)
    }

    /// Membership has changed. The first time, what the disk holds is opened.
    pub(crate) fn view(&mut self, view: Arc<View>, nodes: Nodes) -> Result<(), OpenError> {
        if self.shard.is_none() {
            self.open(view.settings)?;
        }
        self.known.nodes(nodes, self.node, view.settings.partitions);
        self.to_shard(ToShard::View(view));
        Ok(())
    }

    /// A peer's frame, if it is for partitions.
    pub(crate) fn frame(
        &mut self,
        from: NodeId,
        frame: &[u8],
        room: Option<OwnedSemaphorePermit>,
    ) -> bool {
        match message::decode(frame) {
            Ok(message) => {
                self.to_shard(ToShard::Peer(from, message, room));
                true
            }
            Err(error) => {
                tracing::debug!(target: "kith", %from, %error, "a frame about partitions cannot be read");
                false
            }
        }
    }

    /// Asks for what is held.
    pub(crate) fn show(&self, reply: oneshot::Sender<Showing>) {
        match &self.shard {
            Some(shard) => drop(shard.send(ToShard::Show(reply))),
            None => drop(reply.send(Showing::default())),
        }
    }

    /// Where partitions are, as far as is known.
    pub(crate) fn topology(&self) -> Topology {
        self.known.present()
    }

    /// Ends the threads, and waits for them.
    pub(crate) async fn close(mut self) {
        self.shard = None;
        drop(self.calls);
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!(target: "kith", "a thread of partitions has failed");
            }
        }
    }

    fn to_shard(&self, message: ToShard) {
        if let Some(shard) = &self.shard {
            // Fails only if its thread has ended, which it has told.
            drop(shard.send(message));
        }
    }

    fn open(&mut self, settings: ClusterSettings) -> Result<(), OpenError> {
        let sync = self.options.sync.unwrap_or(match settings.consistency {
            Consistency::Strict => SyncMode::Always,
            Consistency::Available => SyncMode::Interval,
        });
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_says_nothing_more| OpenError("the system has no randomness".to_owned()))?;
        let Some(calls) = self.calls.take() else {
            return Err(OpenError("partitions are open already".to_owned()));
        };
        let (sender, inbox) = mpsc::unbounded_channel();
        let mut setup = shard::Setup {
            node: self.node,
            shard: (0, SHARDS),
            partitions: settings.partitions,
            sync,
            forgetful: false,
            seed,
            clock: self.clock,
            disk: None,
        };
        if let Some(directory) = &self.data_dir {
            let opened = Engine::open(Options {
                directory: directory.join("partitions"),
                cache_bytes: CACHE,
                boot: boot_id(),
            })
            .map_err(|error| OpenError(error.to_string()))?;
            let remembers = opened.clean || opened.same_boot || sync == SyncMode::Always;
            // In available clusters the owner compares with whoever comes back; see rule 8.
            setup.forgetful = !remembers && settings.consistency == Consistency::Strict;
            let period = (sync == SyncMode::Interval).then_some(SYNC_PERIOD);
            let syncer = Syncer::start(&opened.engine, period)
                .map_err(|error| OpenError(error.to_string()))?;
            // Weak: the shard ends when the driver drops its end, and the syncer only after it.
            let answers = sender.downgrade();
            let requests = syncer.connect(move |synced| {
                let result = synced.result.map_err(|error| error.0);
                if let Some(answers) = answers.upgrade() {
                    // Nobody listens any more once the shard has ended.
                    drop(answers.send(ToShard::Synced(synced.token, result)));
                }
            });
            setup.disk = Some(shard::OnDisk {
                engine: opened.engine,
                syncer,
                requests,
            });
        }
        let (outgoing, known) = (self.outgoing.clone(), Arc::clone(&self.known));
        let thread = std::thread::Builder::new()
            .name("kith-shard".to_owned())
            .spawn(move || shard::run(setup, inbox, calls, &outgoing, &known))
            .map_err(|error| OpenError(error.to_string()))?;
        self.thread = Some(thread);
        self.shard = Some(sender);
        Ok(())
    }
}

/// Whoever wants to know where partitions are.
pub(crate) type TopologyWatch = watch::Receiver<Arc<Topology>>;
