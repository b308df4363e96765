//! A few partition cores in one thread: messages arrive at once, disks are fast, all see each other.
//! What goes wrong in networks and disks is the simulator's subject; here one thing at a time is
//! shown.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use kith_proto::{
    config::{ClusterSettings, Consistency},
    event::Event,
    id::NodeId,
    input::{RequestId, StreamId},
    kv::{
        entry::Entry,
        op::{Condition, Expiry, Op},
        request::{Ack, Request, RequestError, Response},
        version::Wall,
    },
    placement::{Peer as Placed, Placer, partition_of},
    replica::{
        host::{Input, Now, Output, Peer, Standing, SyncMode, SyncToken, View},
        message::Message,
        recover::Recovery,
        shard::{Config, Shard, Timing},
    },
    store::partitions::{Batch, MemoryStore, Page, Place, Store, StoreError},
    time::Time,
};

pub(crate) const PARTITIONS: u16 = 4;

pub(crate) struct Cluster {
    pub(crate) shards: Vec<Shard>,
    pub(crate) now: Time,
    /// Milliseconds that each node's clock is wrong by.
    pub(crate) wall_errors: Vec<i64>,
    pub(crate) standing: Vec<Standing>,
    /// What each node wants to have on its disk, which does not come to an end, if there is anything here.
    pub(crate) syncing: Vec<Option<Vec<SyncToken>>>,
    pub(crate) events: Vec<(usize, Event)>,
    pub(crate) answers: BTreeMap<RequestId, Result<Response, RequestError>>,
    /// Everything sent, in order.
    pub(crate) sent: Vec<(NodeId, NodeId, Message)>,
    settings: ClusterSettings,
    requests: u64,
    disks: Vec<Disk>,
    configs: Vec<Config>,
}

/// A disk, which outlives the process that uses it.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<MemoryStore>>);

impl Disk {
    fn store(&self) -> MutexGuard<'_, MemoryStore> {
        self.0.lock().expect("nobody panicked")
    }
}

impl Store for Disk {
    fn get(&self, place: &Place) -> Result<Option<Entry>, StoreError> {
        self.store().get(place)
    }

    fn page(
        &self,
        partition: u16,
        after: Option<&Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError> {
        self.store().page(partition, after, limit, bytes)
    }

    fn bucket(&self, partition: u16, bucket: u16) -> Result<Page, StoreError> {
        self.store().bucket(partition, bucket)
    }

    fn chains(&self) -> Result<Vec<(u16, Vec<u8>)>, StoreError> {
        self.store().chains()
    }

    fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store().fact(name)
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.store().write(batch)
    }
}

pub(crate) fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

impl Cluster {
    /// Nodes with three copies of each partition; the first has founded it.
    pub(crate) fn new(nodes: usize, consistency: Consistency) -> Self {
        Self::with_timing(nodes, consistency, Timing::default())
    }

    pub(crate) fn with_timing(nodes: usize, consistency: Consistency, timing: Timing) -> Self {
        let settings = ClusterSettings {
            partitions: PARTITIONS,
            copies: 3,
            consistency,
        };
        let mut cluster = Self {
            shards: Vec::new(),
            now: Time::from_millis(1),
            wall_errors: vec![0; nodes],
            standing: vec![Standing::Living; nodes],
            syncing: vec![None; nodes],
            events: Vec::new(),
            answers: BTreeMap::new(),
            sent: Vec::new(),
            settings,
            requests: 0,
            disks: Vec::new(),
            configs: Vec::new(),
        };
        for node in 0..nodes {
            let config = Config {
                node: id(node),
                shard: (0, 1),
                sync: SyncMode::Interval,
                timing,
                forgetful: false,
                omit: None,
            };
            cluster.disks.push(Disk::default());
            cluster.configs.push(config);
            let shard = cluster.open(node);
            cluster.shards.push(shard);
        }
        cluster.show();
        cluster.run(Duration::from_secs(5));
        cluster
    }

    fn open(&self, node: usize) -> Shard {
        let seed = [u8::try_from(node).expect("few nodes"); 32];
        let store = Box::new(self.disks[node].clone());
        let config = self.configs[node].clone();
        let shard = Shard::open(config, store, PARTITIONS, seed, self.clock(node));
        shard.expect("a store in memory opens")
    }

    /// The machine of a node has stopped and started: it may have forgotten what was not synced, though
    /// here it has not.
    pub(crate) fn machine_restarts(&mut self, node: usize) {
        self.configs[node].forgetful = true;
        self.shards[node] = self.open(node);
    }

    /// The process of a node has stopped and started.
    pub(crate) fn restarts(&mut self, node: usize) {
        self.shards[node] = self.open(node);
        self.show();
    }

    /// A disk that was stuck has done all that was wanted of it.
    pub(crate) fn disk_goes_on(&mut self, node: usize) {
        for token in self.syncing[node].take().into_iter().flatten() {
            self.feed(node, Input::Synced(token));
        }
    }

    fn clock(&self, node: usize) -> Now {
        let millis = i64::try_from(self.now.since_origin().as_millis()).expect("a short test");
        let wall = 1_700_000_000_000 + millis + self.wall_errors[node];
        Now {
            time: self.now,
            wall: Wall(u64::try_from(wall).expect("after 1970")),
        }
    }

    /// Tells everybody how everybody stands; only who lives has a place.
    pub(crate) fn show(&mut self) {
        self.show_to_all(false);
    }

    /// The same, while those that failed keep their places.
    pub(crate) fn show_with_places_kept(&mut self) {
        self.show_to_all(true);
    }

    fn show_to_all(&mut self, places_kept: bool) {
        let placed = |node: usize| Placed {
            id: id(node),
            weight: 100,
            zone: String::new(),
        };
        let living: Vec<usize> = (0..self.shards.len())
            .filter(|node| self.standing[*node] == Standing::Living)
            .collect();
        let target = Placer::default().assign(
            (0..self.shards.len())
                .filter(|node| places_kept || living.contains(node))
                .map(placed)
                .collect(),
            PARTITIONS,
            self.settings.copies,
        );
        for observer in 0..self.shards.len() {
            let peers = (0..self.shards.len()).map(|node| {
                let lives = living.contains(&node) && living.contains(&observer);
                let peer = Peer {
                    name: format!("n{node}"),
                    standing: self.standing[node],
                    stream: lives.then_some(StreamId(1)),
                };
                (id(node), peer)
            });
            let view = View {
                peers: peers.collect(),
                target: Arc::clone(&target),
                settings: self.settings,
                founder: observer == 0,
                leaving: false,
            };
            self.feed(observer, Input::View(Arc::new(view)));
        }
    }

    /// Gives an input to a node, and carries out everything that follows at once.
    pub(crate) fn feed(&mut self, node: usize, input: Input) {
        self.feed_all(VecDeque::from([(node, input)]));
    }

    fn feed_all(&mut self, mut inputs: VecDeque<(usize, Input)>) {
        while let Some((node, input)) = inputs.pop_front() {
            // Nobody else answers. Who has said farewell runs for a moment yet.
            let runs = [Standing::Living, Standing::Returning];
            if !self.standing.get(node).is_some_and(|it| runs.contains(it)) {
                continue;
            }
            let now = self.clock(node);
            let shard = &mut self.shards[node];
            shard.handle(now, input);
            shard.flush(now);
            while let Some(output) = shard.poll_output() {
                match output {
                    Output::Send { to, message, .. } => {
                        self.sent.push((id(node), to, message.clone()));
                        let from = id(node);
                        let to = usize::try_from(to.0).expect("small") - 1;
                        inputs.push_back((to, Input::Message { from, message }));
                    }
                    Output::Reply {
                        request, result, ..
                    } => {
                        self.answers.insert(request, result);
                    }
                    Output::Sync(token) => match &mut self.syncing[node] {
                        Some(stuck) => stuck.push(token),
                        None => inputs.push_back((node, Input::Synced(token))),
                    },
                    Output::Event(event) => self.events.push((node, event)),
                    Output::Broken(text) => panic!("a store in memory broke: {text}"),
                }
            }
        }
    }

    /// An operator's word to a node, and what it leads to.
    pub(crate) fn recover(&mut self, node: usize) -> Recovery {
        let now = self.clock(node);
        let recovered = self.shards[node].recover(now, None);
        self.feed(node, Input::Tick);
        recovered
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.now < until {
            self.now += Duration::from_millis(10);
            for node in 0..self.shards.len() {
                let due = self.shards[node].poll_timeout();
                if due.is_some_and(|at| at <= self.now) {
                    self.feed(node, Input::Tick);
                }
            }
        }
    }

    /// Asks a node for something, until it is answered.
    pub(crate) fn ask(&mut self, node: usize, key: &str, op: Op) -> Result<Response, RequestError> {
        self.requests += 1;
        let request = RequestId(self.requests);
        let key = Bytes::from(key.to_owned());
        let partition = partition_of(&key, PARTITIONS);
        let ack = Ack::Quorum;
        let body = Request::Key { key, op, ack };
        self.feed(
            node,
            Input::Request {
                request,
                partition,
                body,
            },
        );
        let until = self.now + Duration::from_secs(5);
        loop {
            if let Some(answer) = self.answers.remove(&request) {
                return answer;
            }
            assert!(self.now < until, "it is answered in time");
            self.run(Duration::from_millis(10));
        }
    }

    pub(crate) fn set(
        &mut self,
        node: usize,
        key: &str,
        value: &str,
    ) -> Result<Response, RequestError> {
        let op = Op::Set {
            value: Bytes::from(value.to_owned()),
            expiry: Expiry::Never,
            condition: Condition::None,
            want_old: false,
        };
        self.ask(node, key, op)
    }

    pub(crate) fn delete(&mut self, node: usize, key: &str) -> Result<Response, RequestError> {
        let (condition, want_old) = (Condition::None, false);
        let delete = Op::Delete {
            condition,
            want_old,
        };
        self.ask(node, key, delete)
    }

    /// What a node has of a key.
    pub(crate) fn entry(&self, node: usize, key: &str) -> Option<Entry> {
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        self.shards[node].entry(partition, &Bytes::from(key.to_owned()))
    }

    /// The first node that lives.
    pub(crate) fn living(&self) -> usize {
        let mut standing = self.standing.iter();
        let living = standing.position(|standing| *standing == Standing::Living);
        living.expect("somebody lives")
    }

    /// Nodes that have something of a key.
    pub(crate) fn holders(&self, key: &str) -> Vec<usize> {
        let nodes = 0..self.shards.len();
        nodes
            .filter(|node| self.entry(*node, key).is_some())
            .collect()
    }

    /// Who keeps a key's partition, the owner first, as a living node knows.
    pub(crate) fn members(&self, key: &str) -> Vec<usize> {
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        let shown = self.shards[self.living()].show();
        let shown = shown.iter().find(|shown| shown.partition == partition);
        let index = |node: &NodeId| usize::try_from(node.0).expect("small") - 1;
        let members = &shown.expect("it is known").members;
        members.iter().map(index).collect()
    }
}
