//! Partitions on this node: partition cores ("shards"), each on a thread of `workers`, and
//! what connects them.
//!
//! ```text
//!   driver ── views ──────────────────> shards ── events ──────────> driver
//!   peer streams ── frames, to those ─> shards ── frames ──────────> peer streams
//!                   they are about
//!   clients (Kv) ── calls, to the ────> shards ── answers ─────────> clients
//!                   key's shard          |  ^
//!                                batches v  | synced
//!                                engine, syncer: one for all, so that one flush serves all
//! ```
//!
//! Shards begin once the cluster is known: how many partitions there are is fixed for it. Until
//! then calls wait in their queues. What a core wants to happen only after something is on the
//! disk is held back here until the syncer says so. How many shards a node has is its own
//! affair: it may be another number at every start, and at every node.

mod inboxes;
mod shard;
mod summary;
mod topology;

pub(crate) use self::{inboxes::Inboxes, topology::Nodes};

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use kith_proto::{
    config::{ClusterSettings, Consistency},
    event::Event,
    id::{NodeId, PartitionId},
    replica::{
        host::{SyncMode, View},
        message::Message,
        recover::Recovery,
        show::Shown,
        spread::GROUPS,
    },
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::{shard::Opening, summary::Summaries, topology::Known};
use crate::{
    clock::Clock,
    kv::{CALL_QUEUE, Call, Kv, Topology},
    peer::{Detour, Lanes},
    storage::{Engine, Options, SyncRequests, Syncer, boot_id},
    workers::Worker,
};

/// The engine's cache (bytes).
const CACHE: u64 = 32 << 20;
/// What all shards together keep in memory of what was read and written lately (bytes).
const RECENT: usize = 64 << 20;
/// What all shards together may use to know which keys there are (bytes): 12 bits for each key.
const PLACES: usize = 32 << 20;
/// Data that need not be synced at once is after so long.
const SYNC_PERIOD: Duration = Duration::from_millis(100);
/// The most shards without being told.
const SHARDS: usize = 8;

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
    /// Threads that run partitions: 1 to [`MAX_SHARDS`].
    pub shards: u16,
}

/// The most threads that run partitions.
pub const MAX_SHARDS: u16 = GROUPS;

/// Half as many threads for partitions, their clients and their peers as this machine has
/// processors, up to eight: the other half is for membership, for the store's own threads, and for
/// clients on the same machine.
pub fn default_shards() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from((processors / 2).clamp(1, SHARDS)).unwrap_or(1)
}

impl Default for PartitionOptions {
    fn default() -> Self {
        Self {
            sync: None,
            max_value: kith_proto::kv::MAX_VALUE,
            repair_delay: Duration::from_secs(10),
            return_grace: Duration::from_secs(60),
            shards: default_shards(),
        }
    }
}

/// What goes to a shard's thread.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// Membership has changed.
    View(Arc<View>),
    /// A peer says something; its share of what may be received is given back once it is handled.
    Peer(NodeId, Vec<Message>, Option<OwnedSemaphorePermit>),
    /// What was written before that token is on the disk, or could not be brought there.
    Synced(u64, Result<(), String>),
    /// What does it have?
    Show(oneshot::Sender<Showing>),
    /// An operator wants blocked partitions to go on, all of them or one. Which do?
    Recover(Option<PartitionId>, oneshot::Sender<Recovery>),
}

/// What shards show.
#[derive(Debug, Default)]
pub(crate) struct Showing {
    /// Partitions.
    pub(crate) partitions: Vec<Shown>,
    /// Numbers.
    pub(crate) counters: BTreeMap<&'static str, u64>,
}

/// What comes from shards to the driver.
#[derive(Debug)]
pub(crate) enum FromShard {
    /// A frame for a peer, on the long way.
    Frame(NodeId, Vec<u8>, Detour),
    /// Something that people want to know.
    Event(Event),
    /// What was kept back for other shards to add to, is to be told.
    Gathered(u64),
    /// The store has failed.
    Broken(String),
    /// A shard has to talk to these members.
    Needs(u16, BTreeSet<NodeId>),
    /// What a shard holds.
    Holds(u16, Holds),
}

/// How much of the cluster is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Partitions owned.
    pub(crate) owned: usize,
    /// Partitions of which this node is a member, owned or not.
    pub(crate) member: usize,
    /// What these take (bytes), about, when their members changed last.
    pub(crate) bytes: u64,
}

impl std::ops::Add for Holds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            owned: self.owned + other.owned,
            member: self.member + other.member,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Everything about partitions that the driver has.
#[derive(Debug)]
pub(crate) struct Partitions {
    node: NodeId,
    data_dir: Option<PathBuf>,
    options: PartitionOptions,
    clock: Clock,
    inboxes: Inboxes,
    lanes: Arc<Lanes>,
    workers: Vec<Worker>,
    /// Of shards that have not begun.
    calls: Vec<mpsc::Receiver<Call>>,
    known: Arc<Known>,
    outgoing: mpsc::UnboundedSender<FromShard>,
    shards: Vec<Running>,
    disk: Option<OnDisk>,
    holds: Vec<Holds>,
    needs: Vec<BTreeSet<NodeId>>,
    summaries: Summaries,
}

/// A shard's task, and the way to it.
#[derive(Debug)]
struct Running {
    inbox: mpsc::UnboundedSender<ToShard>,
    task: JoinHandle<()>,
}

/// The engine of all shards, and what flushes it.
#[derive(Debug)]
struct OnDisk {
    engine: Arc<Engine>,
    syncer: Syncer,
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
        mut options: PartitionOptions,
        clock: Clock,
        inboxes: Inboxes,
        lanes: Arc<Lanes>,
        workers: Vec<Worker>,
    ) -> (Self, Kv, mpsc::UnboundedReceiver<FromShard>) {
        options.shards = inboxes.shards();
        let queues = (0..options.shards).map(|_| mpsc::channel(CALL_QUEUE));
        let (callers, calls): (Vec<_>, Vec<_>) = queues.unzip();
        let (outgoing, from_shards) = mpsc::unbounded_channel();
        let (known, topology) = Known::new();
        let weak = workers.iter().map(Worker::downgrade).collect();
        let kv = Kv::new(callers.into(), topology, options.max_value, weak);
        let partitions = Self {
            node,
            data_dir,
            clock,
            inboxes,
            lanes,
            workers,
            calls,
            known: Arc::new(known),
            outgoing,
            shards: Vec::new(),
            disk: None,
            holds: vec![Holds::default(); usize::from(options.shards)],
            needs: vec![BTreeSet::new(); usize::from(options.shards)],
            summaries: Summaries::default(),
            options,
        };
        (partitions, kv, from_shards)
    }

    /// How long those who are gone keep their places: failed, and stopped for a while.
    pub(crate) fn patience(&self) -> (Duration, Duration) {
        (self.options.repair_delay, self.options.return_grace)
    }

    /// Membership has changed. The first time, what the disk holds is opened.
    pub(crate) fn view(&mut self, view: Arc<View>, nodes: Nodes) -> Result<(), OpenError> {
        if self.shards.is_empty() {
            self.open(view.settings)?;
        }
        self.known.nodes(nodes, self.node, view.settings.partitions);
        for shard in &self.shards {
            shard.tell(ToShard::View(Arc::clone(&view)));
        }
        Ok(())
    }

    /// A peer's frame about partitions; false if it cannot be read.
    pub(crate) fn frame(&self, from: NodeId, frame: &[u8], room: OwnedSemaphorePermit) -> bool {
        self.inboxes.frame(from, frame, room)
    }

    /// Asks for what is held.
    pub(crate) fn show(&self, reply: oneshot::Sender<Showing>) {
        self.ask_all(ToShard::Show, reply, |all, one: Showing| {
            all.partitions.extend(one.partitions);
            for (name, count) in one.counters {
                *all.counters.entry(name).or_default() += count;
            }
        });
    }

    /// An operator wants blocked partitions to go on. The answer is in order.
    pub(crate) fn recover(&self, only: Option<PartitionId>, reply: oneshot::Sender<Recovery>) {
        let question = |asked| ToShard::Recover(only, asked);
        self.ask_all(question, reply, |all: &mut Recovery, one| {
            all.begun.extend(one.begun);
            all.begun.sort_unstable();
            all.waiting.extend(one.waiting);
            all.waiting.sort_unstable();
            all.unneeded += one.unneeded;
        });
    }

    // Asks every shard, and puts their answers together; one that has ended answers nothing.
    fn ask_all<T: Default + Send + 'static>(
        &self,
        question: impl Fn(oneshot::Sender<T>) -> ToShard,
        reply: oneshot::Sender<T>,
        add: impl Fn(&mut T, T) + Send + 'static,
    ) {
        let ask = |shard: &Running| {
            let (asked, answer) = oneshot::channel();
            shard.tell(question(asked));
            answer
        };
        let answers: Vec<oneshot::Receiver<T>> = self.shards.iter().map(ask).collect();
        tokio::spawn(async move {
            let mut all = T::default();
            for answer in answers {
                let one = answer.await.unwrap_or_default();
                add(&mut all, one);
            }
            // Whoever asked may have gone.
            drop(reply.send(all));
        });
    }

    /// A shard has to talk to these members. Returns all that any shard has to talk to.
    pub(crate) fn set_needs(&mut self, shard: u16, needs: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        if let Some(place) = self.needs.get_mut(usize::from(shard)) {
            *place = needs;
        }
        self.needs.iter().flatten().copied().collect()
    }

    /// What a shard holds now.
    pub(crate) fn set_holds(&mut self, shard: u16, holds: Holds) {
        if let Some(place) = self.holds.get_mut(usize::from(shard)) {
            *place = holds;
        }
    }

    /// What this node holds, as far as shards have told.
    pub(crate) fn holds(&self) -> Holds {
        let add = |sum: Holds, one: &Holds| sum + *one;
        self.holds.iter().fold(Holds::default(), add)
    }

    /// What of an event of a shard is to be told now: what several shards tell each for itself
    /// is gathered.
    pub(crate) fn gather(&mut self, event: Event) -> Option<Event> {
        match self.options.shards {
            1 => Some(event),
            _ => self.summaries.gather(event, &self.outgoing),
        }
    }

    /// What was gathered under that number.
    pub(crate) fn gathered(&mut self, number: u64) -> Option<Event> {
        self.summaries.take(number)
    }

    /// Where partitions are, as far as is known.
    pub(crate) fn topology(&self) -> Topology {
        self.known.present()
    }

    /// The same for a look only.
    pub(crate) fn with_topology<R>(&self, look: impl FnOnce(&Topology) -> R) -> R {
        self.known.with(look)
    }

    /// Ends the shards, and waits for them; then the store is closed.
    pub(crate) async fn close(self) {
        drop(self.calls);
        // All learn of it before the first is waited for.
        let ends = self.shards.into_iter().map(|shard| shard.task);
        let tasks: Vec<JoinHandle<()>> = ends.collect();
        for task in tasks {
            if task.await.is_err() {
                tracing::error!(target: "kith", "a shard has failed");
            }
        }
        let Some(disk) = self.disk else { return };
        match tokio::task::spawn_blocking(move || disk.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => tracing::error!(target: "kith", "{problem}"),
            Err(_panic) => tracing::error!(target: "kith", "partitions could not be closed"),
        }
    }

    fn open(&mut self, settings: ClusterSettings) -> Result<(), OpenError> {
        let sync = self.options.sync.unwrap_or(match settings.consistency {
            Consistency::Strict => SyncMode::Always,
            Consistency::Available => SyncMode::Interval,
        });
        if self.data_dir.is_some()
            && let Some(text) = warning(sync, settings.consistency)
        {
            tracing::warn!(target: "kith::settings", "{text}");
        }
        let shards = self.options.shards;
        let mut forgetful = false;
        let mut opening = None;
        if let Some(directory) = &self.data_dir {
            let opened = Engine::open(Options {
                directory: directory.join("partitions"),
                cache_bytes: CACHE,
                boot: boot_id(),
            })
            .map_err(|error| OpenError(error.to_string()))?;
            let remembers = opened.clean || opened.same_boot || sync == SyncMode::Always;
            // In available clusters the owner compares with whoever comes back; see rule 8.
            forgetful = !remembers && settings.consistency == Consistency::Strict;
            let period = (sync == SyncMode::Interval).then_some(SYNC_PERIOD);
            let syncer = Syncer::start(&opened.engine, period)
                .map_err(|error| OpenError(error.to_string()))?;
            let engine = Arc::new(opened.engine);
            opening = Some(Opening::new(Arc::clone(&engine), shards));
            self.disk = Some(OnDisk { engine, syncer });
        }
        let calls = std::mem::take(&mut self.calls);
        for (number, (calls, worker)) in (0..).zip(calls.into_iter().zip(&self.workers)) {
            let mut seed = [0; 32];
            SystemRandom::new()
                .fill(&mut seed)
                .map_err(|_says_nothing_more| {
                    OpenError("the system has no randomness".to_owned())
                })?;
            let (sender, inbox) = mpsc::unbounded_channel();
            let disk = opening.as_ref().zip(self.disk.as_ref());
            let disk = disk.map(|(opening, disk)| shard::OnDisk {
                opening: Arc::clone(opening),
                recent: RECENT / usize::from(shards),
                places: PLACES / usize::from(shards),
                requests: requests(&disk.syncer, &sender),
            });
            let setup = shard::Setup {
                node: self.node,
                shard: (number, shards),
                partitions: settings.partitions,
                sync,
                forgetful,
                seed,
                clock: self.clock,
                disk,
            };
            let way = shard::Way {
                outgoing: self.outgoing.clone(),
                lanes: Arc::clone(&self.lanes),
                counters: Arc::clone(self.inboxes.counters()),
                known: Arc::clone(&self.known),
            };
            let task = worker.spawn(shard::run(setup, inbox, calls, way));
            self.shards.push(Running {
                inbox: sender,
                task,
            });
        }
        self.inboxes
            .open(self.shards.iter().map(|shard| &shard.inbox));
        Ok(())
    }
}

/// What an operator of a node that keeps its data so should know.
fn warning(sync: SyncMode, consistency: Consistency) -> Option<&'static str> {
    let careless = consistency == Consistency::Strict && sync == SyncMode::Never;
    careless.then_some(
        "this cluster is strict, and with --sync never this node acknowledges writes that are on no disk: if the \
         machines of most members of a partition lose power or crash at about the same time, acknowledged writes \
         are lost, or the partition stays blocked until `kith recover`. --sync always keeps them",
    )
}

impl Running {
    fn tell(&self, message: ToShard) {
        // Fails only if it has ended, which it has told.
        drop(self.inbox.send(message));
    }
}

/// A shard's way to the syncer, whose answers come to its inbox.
fn requests(syncer: &Syncer, inbox: &mpsc::UnboundedSender<ToShard>) -> SyncRequests {
    // Weak: the shard ends when the driver drops its end, and the syncer only after it.
    let answers = inbox.downgrade();
    syncer.connect(move |synced| {
        let result = synced.result.map_err(|error| error.0);
        if let Some(answers) = answers.upgrade() {
            // Nobody listens any more once the shard has ended.
            drop(answers.send(ToShard::Synced(synced.token, result)));
        }
    })
}

impl OnDisk {
    fn close(self) -> Result<(), String> {
        drop(self.syncer);
        let engine = Arc::into_inner(self.engine);
        let engine = engine.ok_or("the store of partitions is still in use")?;
        engine.close().map_err(|error| error.0)
    }
}

/// Whoever wants to know where partitions are.
pub(crate) type TopologyWatch = watch::Receiver<Arc<Topology>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_promises_much_and_keeps_little_is_warned() {
        let text = warning(SyncMode::Never, Consistency::Strict).unwrap();
        assert!(text.contains("acknowledged writes are lost"), "{text}");
        for (sync, consistency) in [
            (SyncMode::Never, Consistency::Available),
            (SyncMode::Interval, Consistency::Strict),
            (SyncMode::Always, Consistency::Strict),
        ] {
            assert_eq!(warning(sync, consistency), None, "{sync:?} {consistency:?}");
        }
    }
}
