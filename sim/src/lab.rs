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
//! or wrongly, so that thousands of runs of the partition protocol take seconds.
//!
//! | file | subject |
//! |---|---|
//! | [`disk`] | what survives the end of a process, and of a machine |
//! | [`client`] | what clients ask, and what they were answered |
//! | [`verdict`] | the promises |
//! | [`plan`] | faults drawn from a seed |

pub mod client;
pub mod disk;
pub mod plan;
pub mod verdict;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use kith_proto::{
    config::{ClusterSettings, Consistency},
    event::Event,
    id::NodeId,
    input::{RequestId, StreamId},
    kv::{request::Request, version::Wall},
    placement::{Assignment, Peer as Placed, Placer},
    replica::{
        host::{Input, Now, Output, Peer, Standing, SyncMode, SyncToken, View},
        message::{self, Message},
        shard::{Config, Omit, Shard, Timing},
    },
    time::Time,
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use self::{client::Clients, disk::Disk, verdict::Verdict};

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
    /// Rules left out on purpose.
    pub omit: Omit,
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
            omit: Omit::default(),
        }
    }
}

/// A node's process, kernel and disk.
struct Node {
    id: NodeId,
    shard: Option<Box<Shard>>,
    disk: Disk,
    /// Which of its lives this is.
    life: u32,
    founder: bool,
    leaving: bool,
    paused: bool,
    waiting: Vec<Input>,
    wake: Option<Time>,
    synced: SyncToken,
    held: Vec<(SyncToken, Output)>,
    wall_error: i64,
    /// How it sees the others.
    standing: BTreeMap<NodeIndex, Standing>,
}

enum Happening {
    Deliver {
        from: NodeIndex,
        to: NodeIndex,
        stream: u64,
        message: Box<Message>,
    },
    Wake(NodeIndex),
    Synced {
        node: NodeIndex,
        life: u32,
        token: SyncToken,
    },
    See {
        observer: NodeIndex,
        life: u32,
        subject: NodeIndex,
        standing: Standing,
    },
    Client(usize),
    Act(plan::Action),
}

struct Scheduled {
    at: Time,
    sequence: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
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
    /// Everything is printed while it happens.
    pub verbose: bool,
    now: Time,
    nodes: Vec<Node>,
    /// Streams that are cut: no pair of a node here and one there.
    cuts: BTreeSet<(NodeIndex, NodeIndex)>,
    /// Numbers of streams: what is under way on an earlier one is lost.
    streams: BTreeMap<(NodeIndex, NodeIndex), u64>,
    last_arrival: BTreeMap<(NodeIndex, NodeIndex), Time>,
    heap: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    rng: ChaCha8Rng,
    placer: Placer,
    requests: u64,
    /// Messages sent within a second, and which.
    traffic: (u64, u64),
    verdict: Verdict,
    digest: u64,
}

/// How long after a failure its copies are made elsewhere.
const REPAIR_DELAY: Duration = Duration::from_secs(10);

/// More messages within a second are a livelock: a run sends a tenth of that.
const MOST_MESSAGES: u64 = 200_000;

impl Lab {
    /// Nodes that have just started; the first one founds the cluster.
    pub fn new(setup: Setup) -> Self {
        let mut lab = Self {
            clients: Clients::default(),
            events: Vec::new(),
            verbose: false,
            now: Time::from_millis(1),
            nodes: Vec::new(),
            cuts: BTreeSet::new(),
            streams: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            heap: BinaryHeap::new(),
            sequence: 0,
            rng: ChaCha8Rng::seed_from_u64(setup.seed),
            placer: Placer::default(),
            requests: 0,
            traffic: (0, 0),
            verdict: Verdict::default(),
            digest: 0,
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

    /// A node's core, while its process runs.
    pub fn shard(&self, node: NodeIndex) -> Option<&Shard> {
        self.nodes[node].shard.as_deref()
    }

    /// A node's id.
    pub fn id(&self, node: NodeIndex) -> NodeId {
        self.nodes[node].id
    }

    /// A new node joins.
    pub fn add(&mut self) -> NodeIndex {
        let index = self.nodes.len();
        self.nodes.push(Node {
            id: NodeId(self.rng.random::<u64>() | 1),
            shard: None,
            disk: Disk::default(),
            life: 0,
            founder: index == 0,
            leaving: false,
            paused: false,
            waiting: Vec::new(),
            wake: None,
            synced: SyncToken(0),
            held: Vec::new(),
            wall_error: 0,
            standing: BTreeMap::new(),
        });
        self.start(index);
        index
    }

    /// Starts a node's process, with what its disk holds.
    pub fn start(&mut self, index: NodeIndex) {
        if self.is_alive(index) {
            return;
        }
        let seed = self.rng.random();
        let now = self.clock(index);
        let (partitions, sync, omit) = (
            self.setup.settings.partitions,
            self.setup.sync,
            self.setup.omit,
        );
        let strict = self.setup.settings.consistency == Consistency::Strict;
        let node = &mut self.nodes[index];
        let config = Config {
            node: node.id,
            shard: (0, 1),
            sync,
            timing: Timing::default(),
            forgetful: node.disk.has_forgotten() && strict && sync != SyncMode::Always,
            omit,
        };
        node.life += 1;
        node.leaving = false;
        node.paused = false;
        node.held.clear();
        node.waiting.clear();
        node.wake = None;
        node.synced = SyncToken(0);
        node.standing.clear();
        let shard = Shard::open(config, Box::new(node.disk.store()), partitions, seed, now);
        match shard {
            Ok(shard) => node.shard = Some(Box::new(shard)),
            Err(error) => self
                .verdict
                .object(format!("node {index} does not start: {error}")),
        }
        for other in 0..self.nodes.len() {
            if other != index && self.is_alive(other) && self.reaches(index, other) {
                self.connect(index, other);
                self.notice(index, other, Standing::Living, 1..40);
                self.notice(other, index, Standing::Living, 1..40);
            }
        }
        self.notice(index, index, Standing::Living, 1..2);
    }

    /// Ends a node's process. With `power` its machine stops too, and what was not synced may be lost.
    pub fn kill(&mut self, index: NodeIndex, power: bool) {
        if self.nodes[index].shard.take().is_none() {
            return;
        }
        if power {
            let keep = self.rng.random();
            self.nodes[index].disk.power_cut(keep);
        }
        for other in 0..self.nodes.len() {
            self.disconnect(index, other);
            if other != index && self.is_alive(other) {
                self.notice(other, index, Standing::Failed, 20..300);
            }
        }
    }

    /// Others come to think that a node has failed, though it lives.
    pub fn accuse(&mut self, index: NodeIndex) {
        for other in 0..self.nodes.len() {
            if other != index && self.is_alive(other) {
                self.notice(other, index, Standing::Failed, 20..300);
                self.notice(other, index, Standing::Living, 1000..3000);
            }
        }
    }

    /// Cuts two groups from each other, and lets each think that the other has failed.
    pub fn split(&mut self, side: &[NodeIndex]) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if side.contains(&a) && !side.contains(&b) {
                    self.cut(a, b);
                    if self.is_alive(a) && self.is_alive(b) {
                        self.notice(a, b, Standing::Failed, 200..2500);
                        self.notice(b, a, Standing::Failed, 200..2500);
                    }
                }
            }
        }
    }

    /// Cuts two nodes from each other; nobody is declared failed for it.
    pub fn cut(&mut self, a: NodeIndex, b: NodeIndex) {
        self.cuts.insert((a.min(b), a.max(b)));
        self.disconnect(a, b);
    }

    /// Everything is whole again.
    pub fn heal(&mut self) {
        self.cuts.clear();
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if a != b && self.is_alive(a) && self.is_alive(b) {
                    if !self.streams.contains_key(&(a, b)) {
                        self.connect(a, b);
                    }
                    self.notice(a, b, Standing::Living, 10..400);
                }
            }
        }
    }

    /// Stops a process for a while, as SIGSTOP does.
    pub fn pause(&mut self, index: NodeIndex) {
        self.nodes[index].paused = true;
    }

    /// It goes on.
    pub fn resume(&mut self, index: NodeIndex) {
        if !std::mem::take(&mut self.nodes[index].paused) {
            return;
        }
        let waiting = std::mem::take(&mut self.nodes[index].waiting);
        self.feed_all(index, waiting);
        self.feed(index, Input::Tick);
    }

    /// A node's wall clock is wrong from now on (milliseconds).
    pub fn set_wall_error(&mut self, index: NodeIndex, error: i64) {
        self.nodes[index].wall_error = error;
    }

    /// A node wants to go for good.
    pub fn leave(&mut self, index: NodeIndex) {
        self.nodes[index].leaving = true;
        for other in 0..self.nodes.len() {
            if self.is_alive(other) {
                self.notice(other, index, Standing::Leaving, 1..30);
            }
        }
    }

    /// Asks a node something; the answer comes back under that number.
    pub fn ask(&mut self, index: NodeIndex, body: Request) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        let partition = match &body {
            Request::Key { key, .. } => {
                kith_proto::placement::partition_of(key, self.setup.settings.partitions)
            }
            Request::Scan { partition, .. } | Request::Count { partition } => *partition,
        };
        self.feed(
            index,
            Input::Request {
                request,
                partition,
                body,
            },
        );
        request
    }

    /// Does that at that moment from now on.
    pub fn schedule(&mut self, after: Duration, action: plan::Action) {
        self.at(self.now + after, Happening::Act(action));
    }

    pub(crate) fn client_later(&mut self, after: Duration, client: usize) {
        self.at(self.now + after, Happening::Client(client));
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
    }

    /// Lets time pass until a condition holds; false if it did not within `limit`.
    pub fn run_while(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        let mut look = self.now;
        loop {
            if self.now >= look {
                if holds(self) {
                    return true;
                }
                look = self.now + Duration::from_millis(20);
            }
            if !self.step(until) {
                return holds(self);
            }
        }
    }

    /// What promises were broken, if any.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    fn step(&mut self, until: Time) -> bool {
        match self.heap.peek() {
            Some(Reverse(next)) if next.at <= until => {}
            _ => {
                self.now = self.now.max(until);
                return false;
            }
        }
        if let Some(Reverse(next)) = self.heap.pop() {
            self.now = next.at;
            self.happen(next.what);
        }
        true
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver {
                from,
                to,
                stream,
                message,
            } => {
                if self.streams.get(&(from, to)) == Some(&stream) {
                    let from = self.nodes[from].id;
                    let message = *message;
                    self.feed(to, Input::Message { from, message });
                }
            }
            Happening::Wake(index) => {
                if self.nodes[index].wake == Some(self.now) {
                    self.nodes[index].wake = None;
                    self.feed(index, Input::Tick);
                }
            }
            Happening::Synced { node, life, token } => {
                if self.nodes[node].life == life && self.is_alive(node) {
                    self.nodes[node].disk.synced(token);
                    self.nodes[node].synced = token;
                    self.feed(node, Input::Synced(token));
                }
            }
            Happening::See {
                observer,
                life,
                subject,
                standing,
            } => self.see(observer, life, subject, standing),
            Happening::Client(client) => client::turn(self, client),
            Happening::Act(action) => plan::act(self, &action),
        }
    }

    fn see(&mut self, observer: NodeIndex, life: u32, subject: NodeIndex, standing: Standing) {
        if self.nodes[observer].life != life {
            return;
        }
        let lives = self.is_alive(subject);
        // Who is alive again is not declared failed any more, and the other way round.
        if standing == Standing::Living && (!lives || !self.reaches(observer, subject)) {
            return;
        }
        if standing == Standing::Failed {
            self.at(
                self.now + REPAIR_DELAY + Duration::from_millis(1),
                Happening::See {
                    observer,
                    life,
                    subject,
                    standing: Standing::Gone,
                },
            );
        }
        if standing == Standing::Gone
            && self.nodes[observer].standing.get(&subject) != Some(&Standing::Failed)
        {
            return;
        }
        let standing = match standing {
            Standing::Living if self.nodes[subject].leaving => Standing::Leaving,
            other => other,
        };
        self.nodes[observer].standing.insert(subject, standing);
        self.show_view(observer);
    }

    fn show_view(&mut self, observer: NodeIndex) {
        let target = self.target(observer);
        let node = &self.nodes[observer];
        let mut peers = BTreeMap::new();
        for (subject, standing) in &node.standing {
            let other = &self.nodes[*subject];
            let shown = match standing {
                Standing::Gone => Standing::Failed,
                other => *other,
            };
            peers.insert(
                other.id,
                Peer {
                    name: format!("n{subject}"),
                    standing: shown,
                    stream: if *subject == observer {
                        Some(StreamId(0))
                    } else {
                        self.streams
                            .get(&(observer, *subject))
                            .copied()
                            .map(StreamId)
                    },
                },
            );
        }
        let view = View {
            peers,
            target,
            settings: self.setup.settings,
            founder: node.founder && node.life == 1,
            leaving: node.leaving,
        };
        self.feed(observer, Input::View(Arc::new(view)));
    }

    // Failed ones count for a while: see `Standing::Gone` above.
    fn target(&mut self, observer: NodeIndex) -> Arc<Assignment> {
        let wanted = |standing: &Standing| matches!(standing, Standing::Living | Standing::Failed);
        let peers: Vec<Placed> = self.nodes[observer]
            .standing
            .iter()
            .filter(|(_, standing)| wanted(standing))
            .map(|(subject, _)| Placed {
                id: self.nodes[*subject].id,
                weight: 100,
                zone: String::new(),
            })
            .collect();
        let settings = self.setup.settings;
        self.placer
            .assign(peers, settings.partitions, settings.copies)
    }

    fn feed(&mut self, index: NodeIndex, input: Input) {
        self.feed_all(index, vec![input]);
    }

    fn feed_all(&mut self, index: NodeIndex, inputs: Vec<Input>) {
        let now = self.clock(index);
        let node = &mut self.nodes[index];
        let Some(shard) = &mut node.shard else {
            return;
        };
        if node.paused {
            node.waiting.extend(inputs);
            return;
        }
        for input in inputs {
            if self.verbose {
                println!("{:?} n{index} <- {input:?}", self.now);
            }
            shard.handle(now, input);
        }
        shard.flush(now);
        self.drain(index);
    }

    fn drain(&mut self, index: NodeIndex) {
        loop {
            let node = &mut self.nodes[index];
            let Some(output) = node.shard.as_mut().and_then(|shard| shard.poll_output()) else {
                break;
            };
            self.carry_out(index, output);
        }
        let node = &mut self.nodes[index];
        let ready: Vec<Output> = {
            let synced = node.synced;
            let (ready, held) = std::mem::take(&mut node.held)
                .into_iter()
                .partition(|(after, _)| *after <= synced);
            node.held = held;
            let ready: Vec<(SyncToken, Output)> = ready;
            ready.into_iter().map(|(_, output)| output).collect()
        };
        for output in ready {
            self.release(index, output);
        }
        let node = &mut self.nodes[index];
        let next = node.shard.as_ref().and_then(|shard| shard.poll_timeout());
        if let Some(at) = next {
            let at = at.max(self.now);
            if node.wake != Some(at) {
                node.wake = Some(at);
                self.at(at, Happening::Wake(index));
            }
        }
        let (now, id) = (self.now, self.nodes[index].id);
        if let Some(shard) = &self.nodes[index].shard {
            self.verdict.look(now, index, id, shard);
        }
    }

    fn carry_out(&mut self, index: NodeIndex, output: Output) {
        let after = match &output {
            Output::Send { after, .. } | Output::Reply { after, .. } => *after,
            _ => None,
        };
        match after {
            Some(after) if after > self.nodes[index].synced => {
                self.nodes[index].held.push((after, output));
            }
            _ => self.release(index, output),
        }
    }

    fn release(&mut self, index: NodeIndex, output: Output) {
        match output {
            Output::Send { to, message, .. } => self.send(index, to, message),
            Output::Reply {
                request, result, ..
            } => client::answered(self, index, request, result),
            Output::Sync(token) => {
                self.nodes[index].disk.sync_begins(token);
                let pause = Duration::from_micros(self.rng.random_range(200..4000));
                let life = self.nodes[index].life;
                let node = index;
                self.at(self.now + pause, Happening::Synced { node, life, token });
            }
            Output::Event(event) => self.events.push((self.now, index, event)),
            Output::Broken(text) => self
                .verdict
                .object(format!("the store of node {index} broke: {text}")),
        }
    }

    fn send(&mut self, from: NodeIndex, to: NodeId, message: Message) {
        let Some(to) = self.nodes.iter().position(|node| node.id == to) else {
            return;
        };
        let Some(stream) = self.streams.get(&(from, to)).copied() else {
            return;
        };
        let second = self.now.since_origin().as_secs();
        if self.traffic.0 != second {
            self.traffic = (second, 0);
        }
        self.traffic.1 += 1;
        if self.traffic.1 == MOST_MESSAGES {
            let text =
                format!("{MOST_MESSAGES} messages within second {second}, the last a {message:?}");
            self.verdict.object(text);
        }
        // What arrives is what can be read from bytes.
        let frame = message::encode(&message);
        self.digest = self
            .digest
            .rotate_left(7)
            .wrapping_add(xxhash_rust::xxh3::xxh3_64(&frame))
            ^ self.now.as_nanos();
        let message = match message::decode(&frame) {
            Ok(message) => message,
            Err(error) => {
                return self
                    .verdict
                    .object(format!("a message cannot be read: {error}"));
            }
        };
        let delay = Duration::from_micros(self.rng.random_range(50..2000));
        let arrival = self.last_arrival.entry((from, to)).or_default();
        let at = (self.now + delay).max(*arrival);
        *arrival = at;
        self.at(
            at,
            Happening::Deliver {
                from,
                to,
                stream,
                message: Box::new(message),
            },
        );
    }

    fn connect(&mut self, a: NodeIndex, b: NodeIndex) {
        self.sequence += 1;
        let number = self.sequence;
        for pair in [(a, b), (b, a)] {
            self.streams.insert(pair, number);
        }
    }

    fn disconnect(&mut self, a: NodeIndex, b: NodeIndex) {
        let mut cut = false;
        for pair in [(a, b), (b, a)] {
            cut |= self.streams.remove(&pair).is_some();
        }
        if cut {
            for node in [a, b] {
                if self.is_alive(node) {
                    self.show_view(node);
                }
            }
        }
    }

    fn reaches(&self, a: NodeIndex, b: NodeIndex) -> bool {
        !self.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn notice(
        &mut self,
        observer: NodeIndex,
        subject: NodeIndex,
        standing: Standing,
        millis: std::ops::Range<u64>,
    ) {
        let after = Duration::from_millis(self.rng.random_range(millis));
        let life = self.nodes[observer].life;
        self.at(
            self.now + after,
            Happening::See {
                observer,
                life,
                subject,
                standing,
            },
        );
    }

    fn clock(&self, index: NodeIndex) -> Now {
        const BEGAN: i64 = 1_700_000_000_000;
        let millis = i64::try_from(self.now.since_origin().as_millis()).unwrap_or(0);
        let wall = BEGAN + millis + self.nodes[index].wall_error;
        Now {
            time: self.now,
            wall: Wall(u64::try_from(wall).unwrap_or(0)),
        }
    }

    pub(crate) fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    fn at(&mut self, at: Time, what: Happening) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.heap.push(Reverse(Scheduled { at, sequence, what }));
    }
}
